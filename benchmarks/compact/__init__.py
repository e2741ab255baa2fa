"""Compact pairs beside the leader: latency, size and memory, and accuracy on three data sets."""
