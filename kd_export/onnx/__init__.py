"""Export of the fused detector to ONNX."""
