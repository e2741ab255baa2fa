"""CUDA without torch: memory, streams, events and graphs behind one Protocol, and what runs an engine on them."""
