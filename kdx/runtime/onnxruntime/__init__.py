"""ONNX Runtime on the CPU and with CUDA."""
