"""What holds for every test of a station."""

from __future__ import annotations

import pytest

from kdx.station import arrivals


@pytest.fixture(autouse=True)
def lists_again_at_once(monkeypatch) -> None:
    """Let ``scan_every=0`` list the folder at every step, however long the last listing took."""
    monkeypatch.setattr(arrivals, "_PAUSE_AFTER_LISTING", 0)
