"""What is given every verdict of a detector, and what the verdict was reached on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from kdx.decision.verdict import Verdict


class JudgedFrame(NamedTuple):
    """What a verdict was reached on.

    Attributes:
        part_id: The part that the image shows, or None if the caller did not say.
        frame: The frame, uint8 ``(H, W, C)``; None if it lies on the GPU, or is read in bands.
        path: The file of a frame that is read in bands, or None.
        stamp: What :func:`kdx.storage.stamps.stamp_of` returned for that file before it was read.
    """

    part_id: str | None = None
    frame: NDArray[np.uint8] | None = None
    path: Path | None = None
    stamp: tuple[int, ...] | None = None


class VerdictObserver(Protocol):
    """Is given every verdict of a detector, for example to log or to count them."""

    def add(self, verdict: Verdict, milliseconds: float, shown: JudgedFrame = ...) -> None:
        """Take a verdict, its time, and what it was reached on, which may change after the call.

        Waits for no disk and no other thread, and raises nothing. What it needs of the frame, it
        copies.
        """
        ...

    def close(self) -> None:
        """Finish what is still to be written. Closing twice is harmless."""
        ...
