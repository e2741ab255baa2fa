"""Backend ``torch``: the fused detector in eager PyTorch, the FP32 reference of every graph."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kdx.errors import BackendError
from kdx.runtime.backend import ClosesOnExit, Outputs


class TorchEager(ClosesOnExit):
    """Runs a module eagerly on the CPU. Calls from several threads are safe, for none changes it.

    Args:
        module: Takes uint8 ``(N, H, W, C)`` and returns map and score.
        threads: PyTorch's threads, for the whole process; None does not change them.
    """

    name = "torch"

    def __init__(self, module: nn.Module, threads: int | None = None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self._module: nn.Module | None = module.eval()

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """Run a batch; see :class:`kdx.runtime.backend.Backend`."""
        module = self._module
        if module is None:
            raise BackendError("the detector is closed", fix="load the run again")
        # PyTorch warns about read-only memory.
        tensor = torch.from_numpy(images if images.flags.writeable else images.copy())
        try:
            with torch.inference_mode():
                maps, scores = module(tensor)
                return Outputs(maps.numpy(), scores.numpy())
        except Exception as error:  # most of PyTorch's exceptions are RuntimeErrors, but not all
            raise BackendError(f"PyTorch failed on a batch of shape {images.shape}: {error}") from error

    def close(self) -> None:
        """Drop the module."""
        self._module = None
