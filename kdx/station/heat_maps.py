"""The heat maps of judged files: each has a place of its own, and replaces nothing.

A picture is written under a hidden name before its verdict is recorded, and gets its name after
that. So a picture that a killed process left without a verdict is known by its name.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from kdx.station.ledger import Ledger
from kdx.station.places import HEAT_MAPS, heat_map_place
from kdx.storage.files import sync_folder, write_atomic
from kdx.storage.renames import rename_new


class HeatMaps:
    """Writes heat maps into an output folder.

    Args:
        out: The output folder.
        ledger: The ledger of the output folder.
    """

    def __init__(self, out: Path, ledger: Ledger) -> None:
        self._out, self._ledger = out, ledger

    def write(self, picture: bytes, place: str, verdict_id: str) -> str:
        """Write a picture under a hidden name; return the place that it will have.

        Args:
            picture: The content.
            place: The place of the image, relative to the output folder.
            verdict_id: The identifier of the verdict.
        """
        found = heat_map_place(self._out, self._ledger, place, verdict_id)
        (self._out / found).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self._hidden(verdict_id), picture)
        return found

    def show(self, place: str | None, verdict_id: str) -> None:
        """Give a picture its name after the verdict was recorded; the next call does what fails."""
        if place is None:
            return
        with contextlib.suppress(OSError):
            rename_new(self._hidden(verdict_id), self._out / place)
            sync_folder((self._out / place).parent)

    def finish(self) -> None:
        """Do what an earlier process did not finish, and remove pictures that have no verdict."""
        folder = self._out / HEAT_MAPS
        for left in [*folder.glob(".*.png"), *folder.glob("..*.png.*.part")]:
            verdict_id = left.stem[1:]
            place = self._ledger.heat_map(verdict_id)
            if place is None or os.path.lexists(self._out / place):
                with contextlib.suppress(OSError):
                    left.unlink()
            else:
                self.show(place, verdict_id)

    def _hidden(self, verdict_id: str) -> Path:
        return self._out / HEAT_MAPS / f".{verdict_id}.png"
