"""The losses of an epoch's steps, which stay on the device until they have to be known."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# To read a loss, the CPU waits until a GPU has computed it, and prepares nothing meanwhile.
_STEPS_UNREAD = 50


class StepLosses:
    """Keeps the loss of each step, and says when one is not finite.

    Args:
        images: The number of images in each step.
        device: The device that computes the losses. A CPU's are read after each step, those of
            other devices from time to time.

    Attributes:
        latest: The latest loss that was read; None before the first.
        failed: The first step, from 0, whose loss was not finite, and this loss; None if none is
            known.
    """

    def __init__(self, images: Sequence[int], device: torch.device) -> None:
        self._images = images
        self._values = torch.zeros(len(images), device=device)
        self._count = 0
        self._steps_unread = 1 if device.type == "cpu" else _STEPS_UNREAD
        self.latest: float | None = None
        self.failed: tuple[int, float] | None = None

    def add(self, loss: Tensor) -> None:
        """Keep the loss of the next step."""
        self._values[self._count] = loss.detach()
        self._count += 1
        if self._count % self._steps_unread == 0 or self._count == len(self._images):
            first = max(0, self._count - self._steps_unread)
            unread = self._values[first : self._count].tolist()
            self.latest = unread[-1]
            self.failed = next(
                ((first + step, value) for step, value in enumerate(unread) if not math.isfinite(value)), None
            )

    def mean(self) -> float:
        """Return the mean by image."""
        values: list[float] = self._values.tolist()
        total = sum(self._images)
        return sum(value * (count / total) for value, count in zip(values, self._images, strict=True))
