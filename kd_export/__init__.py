"""Exports a trained pair as one graph, in several precisions, as engines and for servers."""
