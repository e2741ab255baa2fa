"""FP32 on GPUs with all its bits, which PyTorch's convolutions do not compute by default."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def without_tf32() -> Iterator[None]:
    """Compute FP32 on GPUs with all its bits, as bundles are deployed.

    TF32, the default of convolutions, keeps 10 bits of each factor: values near the middle between
    two integers of an INT8 network become others than those of its graph, and the sums over
    channels of the tail lose what tests compare.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = False
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before
