"""The numbers of frames, from counters that may be short."""

from __future__ import annotations

# GigE Vision 1 counts frames from 1 to 65535, and then from 1 again; some cameras, from 0 again.
_LAST_SHORT, _NEAR = 65535, 4096


class FrameCounter:
    """Turns what a camera counts into numbers that do not begin again where a counter is short."""

    def __init__(self) -> None:
        self._number, self._offset, self._span = 0, 0, _LAST_SHORT

    def number(self, counted: int | None) -> int:
        """Return the number of the next frame.

        Args:
            counted: What the camera counted; None if it does not say.
        """
        if counted is None:
            self._number += 1
            return self._number
        if counted == 0:  # it begins again from 0, not from 1
            self._span = _LAST_SHORT + 1
        previous = self._number - self._offset
        if counted < _NEAR and _LAST_SHORT - _NEAR < previous <= _LAST_SHORT:
            self._offset += self._span
        self._number = self._offset + counted
        return self._number
