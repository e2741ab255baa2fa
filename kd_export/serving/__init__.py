"""Bundles for NVIDIA Triton Inference Server: a model repository, compared with its protobuf and the graph."""
