"""Frames that wait for their verdict: each image is a file of its own, so that a kill loses none.

A file is written under a hidden name and renamed, and removed or moved after its verdict was
recorded. Frames of which there is no image (lost, or late) are lines of a file, for their records:
those in a row share a file, and are recorded in one transaction, however many they are.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from numpy.typing import NDArray

from kdx.remarks import Remark
from kdx.station.camera.frames import NO_IMAGE, FrameInfo, encoded, infos_of
from kdx.station.judged_files import Identity
from kdx.station.record import NotJudged, time_now
from kdx.storage.files import write_atomic

FOLDER = "camera"
_IMAGE = ".png"
# So many frames without an image share a file, which is read and recorded at once.
MOST_IN_FILE = 1000


@dataclass
class _Waiting:
    """A file that waits, the frames that it stands for, and whether more are added to it."""

    name: str
    since: float
    frames: int = 1
    is_open: bool = False


class Spool:
    """The frames in a folder, in order. One thread puts them in, another one takes them out.

    It has what a station needs of :class:`kdx.station.arrivals.Arrivals`.

    Args:
        folder: The folder, which is created.
        camera: The name of the camera.
        room: How many images may wait.
        keep: Whether images are kept after their verdict, and must reach the disk.

    Attributes:
        is_over: Is set when nobody takes frames out any more.
        lost: None: there is always a folder.
        is_gone: Whether the camera is gone.
        is_full: Whether the disk is full: frames cannot be put in.
    """

    lost: str | None = None
    is_gone = is_full = False

    def __init__(self, folder: Path, camera: str, room: int, *, keep: bool) -> None:
        self._folder, self._camera, self._room, self._keep = folder, camera, room, keep
        self._files: deque[_Waiting] = deque()
        self._images = self._frames = 0
        self._news = threading.Condition()
        self._is_woken = False
        self.is_over = threading.Event()
        self._is_closed = False
        self._is_end_known = False
        self._failure: Exception | None = None
        self._began = float("-inf")
        folder.mkdir(exist_ok=True)
        for left in folder.glob(".*"):  # it was being written when a process was killed
            left.unlink()

    def begin(self, is_known: Callable[[str, Identity], bool]) -> list[str]:
        """Take what an earlier process left, except what has its record; return the names."""
        found = sorted(entry.name for entry in os.scandir(self._folder))
        for name in found:  # a trigger whose frame came
            if name.endswith(NO_IMAGE) and name.removesuffix(NO_IMAGE) + _IMAGE in found:
                (self._folder / name).unlink()
                found.remove(name)
        names = [name for name in found if not is_known(name, Identity.of((self._folder / name).stat()))]
        for name in names:
            self._add(name, frames=max(len(infos_of(self._folder / name)), 1) if name.endswith(NO_IMAGE) else 1)
        self._began = time.monotonic()
        return names

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self.is_over.set()

    @property
    def is_blind(self) -> bool:
        """Whether no frame can come: the camera is gone, or the disk is full."""
        return self.is_gone or self.is_full

    def left_out(self, *, at_end: bool = False) -> Sequence[Remark]:
        """Return nothing: no frame is left out."""
        return ()

    @property
    def waiting(self) -> int:
        """How many frames wait for their verdict."""
        return self._frames

    @property
    def is_idle(self) -> bool:
        """Whether no frame waits, and no more will come."""
        return self._is_closed and not self._files

    def wake(self) -> None:
        """End a wait of :meth:`next`, from another thread or a signal's handler."""
        with self._news:  # a lock that the thread which is interrupted may hold
            self._is_woken = True
            self._news.notify_all()

    def next(self, patience: float) -> tuple[str, Identity] | None:
        """Return the first file that waits, or None if there is none for a while.

        Args:
            patience: How many seconds to wait at most.

        Raises:
            Exception: The thread that puts frames in has failed: its error.
        """
        with self._news:
            self._news.wait_for(self._has_news, patience)
            if self._failure is not None and not self._files:
                raise self._failure
            # The end interrupts one wait: after it, the station may wait for triggers or a signal.
            self._is_end_known = self._is_closed
            if not self._files or self._is_woken:
                return None
            first = self._files[0]
            first.is_open = False
            try:
                return first.name, Identity.of((self._folder / first.name).stat())
            except FileNotFoundError:
                stand_in = self._stand_in(first)  # again, where the disk is full
                self._images -= first.name.endswith(_IMAGE)
                first.name = stand_in
                return first.name, Identity.of((self._folder / first.name).stat())

    def done(self, name: str) -> None:
        """Remove a file that was judged from those that wait."""
        with self._news:
            assert self._files[0].name == name
            self._frames -= self._files.popleft().frames
            self._images -= name.endswith(_IMAGE)
            self._news.notify_all()

    def put_back(self, name: str) -> None:
        """Do nothing: nobody writes to a frame, which is judged again."""

    def left(self) -> int:
        """Return how many frames wait for their verdict."""
        return self._frames

    def arrived(self, name: str) -> float:
        """Return when the first file that waits arrived, by a clock that does not jump."""
        first = self._files[0]  # the other thread adds files meanwhile, and takes none out
        assert first.name == name
        return first.since

    def seen(self, name: str) -> float:
        """Return the same; infinitely long ago for what an earlier process left."""
        since = self.arrived(name)
        return since if since > self._began else float("-inf")

    def is_behind(self, age: float) -> bool:
        """Whether a frame waits that arrived so many seconds ago, or earlier."""
        return bool(self._files) and time.monotonic() - self._files[0].since >= age

    def being_written(self, age: float) -> list[str]:
        """Return nothing: frames are complete when they arrive."""
        return []

    def has_room(self, patience: float) -> bool:
        """Wait until there is room for an image; return whether there is."""
        with self._news:
            self._news.wait_for(lambda: self._images < self._room, patience)
            return self._images < self._room

    def put(self, stem: str, info: FrameInfo, pixels: NDArray[Any] | None, since: float | None = None) -> None:
        """Put a frame in: an image, or a line that stands for it where there is none.

        Args:
            stem: Its name without a suffix, which sorts after those before it.
            info: What is known of it.
            pixels: The image, or None.
            since: When it came, by a clock that does not jump; None for now.

        Raises:
            OSError: It cannot be written.
        """
        if pixels is not None:
            name = f"{self._free(stem)}{_IMAGE}"
            self._write(name, encoded(info, pixels, compress=self._keep))
            self._add(name, since)
            return
        line = msgspec.json.encode(msgspec.structs.replace(info, stem=stem)) + b"\n"
        if not self._append(line):
            name = f"{self._free(stem)}{NO_IMAGE}"
            self._write(name, line)
            self._add(name, since, is_open=True)

    def promise(self, stem: str, info: FrameInfo) -> str:
        """Write what a frame that is to come is known by, for a kill before it comes.

        Args:
            stem: Its name without a suffix.
            info: What its record says if it does not come.

        Returns:
            Its name, which is another one where there is such a file.

        Raises:
            OSError: It cannot be written.
        """
        stem = self._free(stem)
        self._write(f"{stem}{NO_IMAGE}", msgspec.json.encode(info))
        return stem

    def fulfil(self, stem: str, info: FrameInfo, pixels: NDArray[Any] | None, since: float) -> None:
        """Put in a frame that was promised, or say why there is none; as for :meth:`put`."""
        if pixels is None:
            self._write(f"{stem}{NO_IMAGE}", msgspec.json.encode(info))
            self._add(f"{stem}{NO_IMAGE}", since)
        else:
            self._write(f"{stem}{_IMAGE}", encoded(info, pixels, compress=self._keep))
            (self._folder / f"{stem}{NO_IMAGE}").unlink(missing_ok=True)
            self._add(f"{stem}{_IMAGE}", since)

    def give_up(self, stem: str, since: float) -> None:
        """Let what was promised be recorded as it was written then."""
        self._add(f"{stem}{NO_IMAGE}", since)

    def end(self, failure: Exception | None = None) -> None:
        """Say that no more frames will come, and why."""
        with self._news:
            self._is_closed, self._failure = True, failure
            self._news.notify_all()

    def _has_news(self) -> bool:
        return bool(self._files) or self._is_woken or (self._is_closed and not self._is_end_known)

    def _append(self, line: bytes) -> bool:
        """Add a line to the file that was added last, if it is open; return whether it was.

        Nobody takes the file out meanwhile.
        """
        with self._news:
            last = self._files[-1] if self._files else None
            if last is None or not last.is_open or last.frames >= MOST_IN_FILE:
                return False
            try:
                file = (self._folder / last.name).open("r+b", buffering=0)
            except FileNotFoundError:  # somebody removed it
                last.is_open = False
                return False
            with file:
                size = file.seek(0, os.SEEK_END)
                try:
                    while line:
                        line = line[file.write(line) :]
                    if self._keep:
                        os.fsync(file.fileno())
                except OSError:  # a part of a line would hide the lines after it
                    file.truncate(size)
                    raise
            last.frames += 1
            self._frames += 1
            return True

    def _stand_in(self, removed: _Waiting) -> str:
        """Write what stands for frames whose file somebody removed; return its name."""
        stands_for = f", with {removed.frames:,} frames" if removed.frames > 1 else ""
        info = FrameInfo(
            camera=self._camera,
            frame=None,
            time=time_now(),
            reason=NotJudged.LOST_FRAME,
            problem=f"'{self._folder / removed.name}' was removed before it was judged{stands_for}",
        )
        stand_in = f"{Path(removed.name).stem}~removed{NO_IMAGE}"
        self._write(stand_in, msgspec.json.encode(info))
        return stand_in

    def _free(self, stem: str) -> str:
        """Return a name that no frame has: the machine's clock may have been set back."""
        while any(os.path.lexists(self._folder / f"{stem}{suffix}") for suffix in (_IMAGE, NO_IMAGE)):
            stem += "~"
        return stem

    def _write(self, name: str, data: bytes) -> None:
        if self._keep:
            write_atomic(self._folder / name, data)
            return
        hidden = self._folder / f".{name}"  # it is removed soon, and need not survive a power cut
        try:
            hidden.write_bytes(data)
            hidden.rename(self._folder / name)
        except BaseException:
            hidden.unlink(missing_ok=True)
            raise

    def _add(self, name: str, since: float | None = None, *, frames: int = 1, is_open: bool = False) -> None:
        with self._news:
            self._files.append(_Waiting(name, time.monotonic() if since is None else since, frames, is_open))
            self._frames += frames
            self._images += name.endswith(_IMAGE)
            self._news.notify_all()
