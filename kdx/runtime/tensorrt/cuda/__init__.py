"""CUDA without torch: memory, streams, events and graphs through one Protocol, and the runner of engines."""
