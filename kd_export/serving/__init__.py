"""Bundles for NVIDIA Triton Inference Server: a model repository, held against its protobuf and the graph. No torch."""
