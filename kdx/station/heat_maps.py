"""The heat maps of judged files: each has a place of its own, and replaces nothing.

A picture is written under a hidden name before its verdict is recorded, and gets its name after
that. So a picture that a killed process left without a verdict is known by its name.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from kdx.errors import OutputError
from kdx.station.ledger import Ledger
from kdx.station.places import HEAT_MAPS, heat_map_place, plain_heat_map_place
from kdx.storage.files import is_disk_full, sync_folder, write_atomic
from kdx.storage.renames import rename_new


class HeatMaps:
    """Writes heat maps into an output folder.

    Args:
        out: The output folder.
        ledger: The ledger of the output folder.
        say: Is given what users should know.
    """

    def __init__(self, out: Path, ledger: Ledger, say: Callable[[str], None] = lambda _: None) -> None:
        self._out, self._ledger, self._say = out, ledger, say
        self._is_failure_said = False

    def write(self, picture: bytes, place: str, verdict_id: str) -> str:
        """Write a picture under a hidden name; return the place that it will have.

        Args:
            picture: The content.
            place: The place of the image, relative to the output folder.
            verdict_id: The identifier of the verdict.

        Raises:
            OSError: The disk is full, or no folder can be made for it.
        """
        found = heat_map_place(self._out, self._ledger, place, verdict_id)
        try:
            self._make_folder(found)
        except OSError as error:
            if is_disk_full(error):
                raise
            found = plain_heat_map_place(found, verdict_id)  # the file system refuses the subfolder
            self._make_folder(found)
        write_atomic(self._hidden(verdict_id), picture)
        return found

    def show(self, place: str | None, verdict_id: str) -> None:
        """Give a picture its name after the verdict was recorded; the next call does what fails."""
        if place is None:
            return
        try:
            try:
                self._rename(place, verdict_id)
            except OSError as error:
                plain = plain_heat_map_place(place, verdict_id)
                if is_disk_full(error) or place == plain:
                    raise
                with self._ledger.transaction():  # before the picture has the name: a kill in between loses nothing
                    self._ledger.move_heat_map(verdict_id, plain)
                self._make_folder(plain)
                self._rename(plain, verdict_id)
        except (OSError, OutputError) as error:
            if not self._is_failure_said:
                self._is_failure_said = True
                self._say(f"the heat map '{self._out / place}' cannot be shown: {error}; the next call tries again")

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

    def _rename(self, place: str, verdict_id: str) -> None:
        rename_new(self._hidden(verdict_id), self._out / place)
        sync_folder((self._out / place).parent)

    def _make_folder(self, place: str) -> None:
        (self._out / place).parent.mkdir(parents=True, exist_ok=True)

    def _hidden(self, verdict_id: str) -> Path:
        return self._out / HEAT_MAPS / f".{verdict_id}.png"
