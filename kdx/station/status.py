"""What a station can say of itself to the machine that it belongs to."""

from __future__ import annotations

import enum


class Status(enum.IntEnum):
    """The state of a station, by the number that a PLC reads; 0 is that of a cleared memory.

    ``RUNNING``: parts are judged as they come. ``STOPPED``: kdx was ended in order. ``FAULT``:
    nothing can be judged, because the disk is full, or the watched folder or the camera is gone; or
    results do not reach the PLC, because it refuses them.
    ``OLD_BUNDLE``: the bundle was removed, or another one was refused; the bundle that was loaded
    before judges on.
    """

    RUNNING = 1
    STOPPED = 2
    FAULT = 3
    OLD_BUNDLE = 4
