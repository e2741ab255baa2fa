"""A camera while a station judges its frames: opened, checked against the bundles, grabbed from."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Protocol

from kdx.errors import OptionError
from kdx.imaging.images import InputSpec
from kdx.runtime.backend import ClosesOnExit
from kdx.station.bundles import Bundles
from kdx.station.camera.address import CameraAddress
from kdx.station.camera.frames import Camera, FrameInfo, infos_of
from kdx.station.camera.grabber import Grabber, stem_of
from kdx.station.camera.spool import Spool
from kdx.station.camera.triggered import TriggeredGrabber
from kdx.station.camera.triggers import Triggers
from kdx.station.ledger import Ledger
from kdx.station.options import WatchOptions
from kdx.station.record import NotJudged, time_now
from kdx.storage.files import is_disk_full

# A camera that is waited for in a system call is left to end by itself.
_SECONDS_TO_END = 2.0


class Lose(Protocol):
    """Is given which frames are missing, and the number of the first of them where it is known."""

    def __call__(self, problem: str, number: int | None = None, /) -> None:
        """Take notice."""
        ...


def _warn(problem: str, number: int | None = None) -> None:
    warnings.warn(problem, stacklevel=3)


class Grabbing(ClosesOnExit):
    """A camera that is open, the thread that takes its frames, and where they wait.

    Args:
        options: What the station is asked for.
        address: The camera.
        ledger: The ledger of the output folder.
        bundles: What judges the frames.
        say: Is given what users should know.

    Attributes:
        spool: Where frames wait.

    Raises:
        DataError: The camera cannot be opened.
        OptionError: A bundle does not take its frames.
    """

    def __init__(
        self,
        options: WatchOptions,
        address: CameraAddress,
        ledger: Ledger,
        bundles: Bundles,
        say: Callable[[str], None],
    ) -> None:
        self._folder = options.folder
        known = ledger.known()
        self.spool = Spool(options.folder, address.name, options.queue, keep=options.files == "move")
        left = self.spool.begin(lambda name, identity: known.get(name) == identity)
        first = 0
        if not address.is_live:
            done = ledger.fact("frame")
            first = max([-1 if done is None else int(done), *(self._number(name) for name in left)]) + 1
        is_triggered = options.trigger is not None
        self._name, self._say = address.name, say
        camera = open_camera(address, first, is_triggered=is_triggered, say=say, lose=self._lose)
        try:
            require_size(camera.size, address, {loaded.path: loaded.detector.input for _, loaded in bundles})
        except BaseException:
            camera.close()
            raise
        self._held = ExitStack()
        self._grabber: Grabber | TriggeredGrabber
        if options.trigger is None:
            self._grabber = Grabber(
                camera,
                lambda: open_camera(address, say=say, lose=self._lose),
                address.name,
                self.spool,
                say,
                is_live=address.is_live,
            )
        else:
            from kdx.station.camera.mqtt_triggers import MqttTriggers

            triggers = Triggers(self.spool, address.name)
            self._grabber = TriggeredGrabber(
                camera,
                lambda: open_camera(address, is_triggered=True, say=say, lose=self._lose),
                triggers,
                options.trigger_timeout,
                self.spool,
                say,
            )
            self._held.enter_context(closing(triggers))
            self._held.enter_context(closing(MqttTriggers(options.trigger, triggers, say)))
        self._grabber.start()

    def close(self) -> None:
        """Take no more frames; those that wait are judged by the next call."""
        self._held.close()
        self._grabber.end(_SECONDS_TO_END)

    def _lose(self, problem: str, number: int | None = None) -> None:
        """Say that frames are missing, and put in one record that stands for all of them.

        It is called in the thread that takes frames.

        Args:
            problem: Which frames are missing.
            number: The number of the first of them, where it is known: it is not recorded again.
        """
        self._say(f"{self._name}: {problem}")
        time = time_now()
        info = FrameInfo(camera=self._name, frame=number, time=time, reason=NotJudged.LOST_FRAME, problem=problem)
        try:
            self.spool.put(stem_of(info, is_live=number is None), info, None)
        except OSError as error:
            if not is_disk_full(error):
                raise
            self._say("that has no record: the disk is full")

    def _number(self, name: str) -> int:
        """Return the largest number of the frames in a file that an earlier process left."""
        numbers = [info.frame for info in infos_of(self._folder / name)]
        return max((number for number in numbers if number is not None), default=-1)


def open_camera(
    address: CameraAddress,
    first: int = 0,
    *,
    is_triggered: bool = False,
    say: Callable[[str], None] = _warn,
    lose: Lose = _warn,
) -> Camera:
    """Open a camera.

    Args:
        address: Which one.
        first: The number of the first frame, for a video.
        is_triggered: Whether frames are taken one by one.
        say: Is given what users should know.
        lose: Is given which frames are missing.

    Raises:
        DataError: It cannot be opened.
        OptionError: It does not take its settings.
    """
    if address.kind == "genicam":
        from kdx.station.camera.genicam import GenicamCamera

        return GenicamCamera(address, is_triggered=is_triggered, say=say)
    if address.kind == "video":
        from kdx.station.camera.video_file import VideoFile

        return VideoFile(address, first, lose)
    from kdx.station.camera.video import VideoCamera

    return VideoCamera(address, say, lose)


def require_size(size: tuple[int, int] | None, address: CameraAddress, bundles: Mapping[Path, InputSpec]) -> None:
    """Refuse bundles that no frame of a camera would fit.

    Args:
        size: Width and height of its frames, or None.
        address: The camera.
        bundles: What each bundle takes.

    Raises:
        OptionError: A bundle takes frames of another size, or in bands.
    """
    for path, spec in bundles.items():
        if spec.is_in_bands:
            raise OptionError(
                f"'{path}' reads frames in bands from files, which a camera does not write",
                fix="let the camera's program write files, and watch their folder",
            )
        if spec.fixed_size and size is not None and size != (spec.width, spec.height):
            raise OptionError(
                f"the frames of '{address.text}' are not what '{path}' takes",
                expected=f"{spec.width} × {spec.height} pixels",
                received=f"{size[0]} × {size[1]} pixels",
                fix="set the camera's size, or export the bundle for this camera: kdx export --input-size",
            )
