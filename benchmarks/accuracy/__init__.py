"""Every method on real parts, with one teacher and the same images for all."""
