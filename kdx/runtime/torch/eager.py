"""Backend ``torch``: the fused detector itself, in eager PyTorch. The FP32 reference of every exported graph."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kdx.errors import BackendError
from kdx.runtime.backend import ClosesOnExit, Outputs


class TorchEager(ClosesOnExit):
    """A module run eagerly. Calls from several threads at once are safe: the module is not changed by running.

    Args:
        module: Takes uint8 ``(N, H, W, C)``, returns map and score.
        threads: Threads of PyTorch, for the whole process; None leaves them.
        device: Where to run.
    """

    name = "torch"

    def __init__(self, module: nn.Module, threads: int | None = None, device: str | torch.device = "cpu") -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self._module: nn.Module | None = module.to(device).eval()
        self._device = device

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """Run a batch; see :class:`kdx.runtime.backend.Backend`."""
        module = self._module
        if module is None:
            raise BackendError("the detector is closed", fix="load the run again")
        # PyTorch takes no read-only memory without a warning.
        tensor = torch.from_numpy(images if images.flags.writeable else images.copy())
        try:
            with torch.inference_mode():
                maps, scores = module(tensor.to(self._device))
                return Outputs(maps.cpu().numpy(), scores.cpu().numpy())
        except Exception as error:  # most of PyTorch's are RuntimeErrors, not all
            raise BackendError(f"PyTorch failed on a batch of shape {images.shape}: {error}") from error

    def close(self) -> None:
        """Drop the module."""
        self._module = None
