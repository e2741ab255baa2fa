"""Accuracy against latency: kdx and what others use for the same task, on one machine."""
