"""What is said where a GPU has too little memory for a training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from kdx.errors import TrainingError

# Of errors that are no torch.OutOfMemoryError: CUDA itself, cuBLAS or cuDNN found no room.
_NO_ROOM = ("CUDA error: out of memory", "STATUS_ALLOC_FAILED")


@contextmanager
def room_on_gpu(batch_size: int | None) -> Iterator[None]:
    """Turn an error of a GPU without free memory into one that names what helps.

    Args:
        batch_size: The number of images in a step, where users can choose it; else None.

    Raises:
        TrainingError: PyTorch found too little memory on the GPU.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if not isinstance(error, torch.OutOfMemoryError) and not any(part in text for part in _NO_ROOM):
            raise
        smaller = "" if batch_size is None else f"train with a smaller `batch_size` than {batch_size}, "
        raise TrainingError(
            "the GPU has too little free memory; complete epochs are kept",
            received=text.partition("\n")[0],
            fix=f"{smaller}end other processes on the GPU, which nvidia-smi lists, or train on the CPU: `device='cpu'`",
        ) from error
