"""GPU kernels in Triton, candidates until measured; not needed for a correct result."""
