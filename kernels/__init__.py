"""GPU kernels in Triton, candidates until measured. Nothing here is needed for a correct result, or installed."""
