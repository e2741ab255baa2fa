"""Cameras as a source of ``kdx watch``: frames are grabbed, numbered, and judged each once."""
