"""Every method and its peers on real parts, with one teacher and the same images for all."""
