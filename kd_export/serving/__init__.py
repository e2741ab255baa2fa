"""Model repositories for NVIDIA Triton Inference Server, written from bundles."""
