"""The torch-free runtime: load a bundle, call it with a frame, get a verdict."""
