"""TensorRT, and the CUDA calls that it needs."""
