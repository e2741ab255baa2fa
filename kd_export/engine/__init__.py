"""TensorRT engines, built from a bundle's graph, compared with the request, and recorded."""
