"""Copies of what the CPU prepares, on the device that trains."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def on_device(values: NDArray[np.generic] | Tensor, device: torch.device) -> Tensor:
    """Return values on a device, without waiting for the device.

    A GPU reads page-locked memory by itself, while the CPU prepares what comes next.
    """
    tensor = values if isinstance(values, Tensor) else torch.from_numpy(values)
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
