"""Compares what is deployed with what was trained: golden images, certificate, gate, choice."""
