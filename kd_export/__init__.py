"""From a trained pair to artefacts: the fused detector, its ONNX graph, and the proof that both decide alike."""
