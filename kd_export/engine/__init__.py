"""TensorRT engines: built from a bundle's graph, held against what was asked for, and recorded. No torch here."""
