"""CUDA without torch, through one Protocol, and the runner of engines."""
