"""Whether what is deployed decides what was trained: comparison, certificate, choice of a backend."""
