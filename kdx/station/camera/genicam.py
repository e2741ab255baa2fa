"""GenICam cameras, by Harvesters and a manufacturer's GenTL producer (the extra ``camera``).

A producer is a file with the suffix ``.cti``. It speaks GigE Vision, USB3 Vision, CoaXPress or
whatever else; kdx sees buffers with a frame number and the name of a pixel format.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from genicam import genapi, gentl
from harvesters.core import Callback, Harvester, ImageAcquirer
from harvesters.util.pfnc import dict_by_ints

from kdx.errors import DataError, KdxError, OptionError
from kdx.imaging.pixel_formats import PIXEL_FORMATS, decode_pixels
from kdx.station.camera.address import SERIAL, CameraAddress
from kdx.station.camera.frame_counter import FrameCounter
from kdx.station.camera.frames import CameraGoneError, Frame
from kdx.text import number_of

_ERRORS = (genapi.GenericException, gentl.GenericException)
# A camera answers these to a read of a register that it does not have.
_ANSWERS = (
    gentl.InvalidAddressException,
    gentl.InvalidParameterException,
    gentl.NotAvailableException,
    gentl.NotImplementedException,
)
_PATIENCE_SECONDS = 0.5
_LOOK_SECONDS = 5.0
# Long enough for a producer to hand over a buffer that it has, and hardly any delay of a trigger.
_QUEUED_SECONDS = 0.002
_OF_TRIGGERS = ("TriggerMode", "TriggerSource")

_logger = logging.getLogger("kdx.genicam")  # what Harvesters writes to it is said by errors here
_logger.addHandler(logging.NullHandler())
_logger.propagate = False


class GenicamCamera:
    """A camera behind a GenTL producer.

    Args:
        address: The producer's file, the camera's serial number, and the features to set.
        is_triggered: Whether frames are taken one by one by :meth:`take`.
        say: Is given what users should know.

    Attributes:
        size: Width and height of its frames.

    Raises:
        DataError: The producer cannot be loaded, or the camera is not there or in use.
        OptionError: Several cameras and no serial number, a feature that cannot be set or that
            triggers need otherwise, or a pixel format that kdx does not read.
    """

    def __init__(
        self, address: CameraAddress, *, is_triggered: bool = False, say: Callable[[str], None] = lambda _: None
    ) -> None:
        if is_triggered:
            _require_free_trigger(address)
        self._address, self._say = address, say
        self._unasked, self._say_from = 0, 1
        self._harvester = Harvester(logger=_logger)
        self._incomplete = _Incomplete()
        self._counter = FrameCounter()
        try:
            # In the main thread, Harvesters would take over Ctrl-C.
            with ThreadPoolExecutor(1) as thread:
                self._acquirer = thread.submit(self._opened).result()
            _set_features(self._acquirer.remote_device.node_map, address)
            self.size: tuple[int, int] | None = self._declared_size()
            self._acquirer.add_callback(ImageAcquirer.Events.INCOMPLETE_BUFFER, self._incomplete)
            nodes = self._acquirer.remote_device.node_map
            # A camera without a software trigger begins to take frames at each trigger, and ends.
            self._has_trigger = is_triggered and nodes.has_node("TriggerSoftware")
            if self._has_trigger:
                _set_software_trigger(nodes)
            if self._has_trigger or not is_triggered:
                self._acquirer.start()
        except _ERRORS as error:
            self.close()
            raise DataError(f"the camera '{address.text}' cannot be opened: {_reason(error)}") from error
        except BaseException:
            self.close()
            raise
        self._next_look = time.monotonic() + _LOOK_SECONDS

    def take(self, seconds: float) -> Frame | None:
        """Let the camera take one frame, and return it; None if it does not come in time.

        A frame that comes later is thrown away: the next trigger would get the wrong part.

        Args:
            seconds: The time in which it must come.

        Raises:
            CameraGoneError: The camera does not answer any more.
        """
        give_up = time.monotonic() + seconds
        frame = None
        try:
            if self._has_trigger:
                self._discard()
                self._acquirer.remote_device.node_map.TriggerSoftware.execute()
            else:
                self._acquirer.start()
            while frame is None and (left := give_up - time.monotonic()) > 0:
                frame = self.grab(min(left, _PATIENCE_SECONDS))
            if time.monotonic() > give_up:  # a producer may wait longer, where the machine's clock is set back
                frame = None
            if not self._has_trigger or frame is None:
                self._acquirer.stop()
            if self._has_trigger and frame is None:
                self._acquirer.start()
        except _ERRORS as error:
            raise CameraGoneError(f"the camera '{self._address.name}' is gone: {_reason(error)}") from error
        return frame

    def grab(self, patience: float = _PATIENCE_SECONDS) -> Frame | None:
        """Return the next frame; None if none came for a while.

        Args:
            patience: How many seconds to wait.

        Raises:
            CameraGoneError: The camera does not answer any more.
        """
        try:
            buffer = self._acquirer.try_fetch(timeout=patience, is_raw=True)
            if buffer is not None:
                self._next_look = time.monotonic() + _LOOK_SECONDS
                try:
                    return self._frame(buffer)
                finally:
                    buffer.parent.queue_buffer(buffer)
            if self._incomplete.take():
                return Frame(self._counter.number(None), None, "its buffer is incomplete")
        except _ERRORS as error:
            raise CameraGoneError(f"the camera '{self._address.name}' is gone: {_reason(error)}") from error
        self.look()
        return None

    def look(self) -> None:
        """Read a register where nothing came from the camera for a while.

        Raises:
            CameraGoneError: The camera does not answer any more.
        """
        if time.monotonic() <= self._next_look:
            return
        self._next_look = time.monotonic() + _LOOK_SECONDS
        try:
            with contextlib.suppress(*_ANSWERS):
                self._acquirer.remote_device.port.read(0, 4)
        except _ERRORS as error:
            raise CameraGoneError(f"the camera '{self._address.name}' is gone: {_reason(error)}") from error

    def _discard(self) -> None:
        """Throw away frames without a trigger: later parts would get those of the part before."""
        while self.grab(_QUEUED_SECONDS) is not None:
            self._unasked += 1
        if self._unasked >= self._say_from:  # again whenever there are twice as many
            self._say_from = 2 * self._unasked
            count = number_of(self._unasked, "[frame|frames]")
            self._say(f"the camera '{self._address.name}' sent {count} without a trigger, which are not judged")

    def close(self) -> None:
        """Let another program have the camera."""
        with contextlib.suppress(*_ERRORS):  # of a camera that is gone
            self._harvester.reset()

    def _opened(self) -> ImageAcquirer:
        path = self._address.path
        try:
            self._harvester.add_file(path, check_existence=True, check_validity=True)
            self._harvester.update()
        except OSError as error:
            raise DataError(
                f"the GenTL producer '{path}' cannot be loaded: {error}",
                expected="the .cti file of the camera's manufacturer, for this system",
                fix="see where the manufacturer's software put it: echo $GENICAM_GENTL64_PATH",
            ) from error
        return self._harvester.create(_only(self._harvester.device_info_list, self._address))

    def _declared_size(self) -> tuple[int, int]:
        """Return width and height, and refuse a pixel format that is not read."""
        nodes = self._acquirer.remote_device.node_map
        kind = nodes.PixelFormat.to_string()
        if kind not in PIXEL_FORMATS:
            offered = [name for name in nodes.PixelFormat.symbolics if name in PIXEL_FORMATS]
            raise OptionError(
                f"kdx does not read the pixel format of '{self._address.text}'",
                expected=", ".join(offered) or f"none that the camera offers; kdx reads {', '.join(PIXEL_FORMATS)}",
                received=kind,
                fix=f"choose one: `camera={self._address.with_setting('PixelFormat', offered[0])}`" if offered else "",
            )
        return nodes.Width.value, nodes.Height.value

    def _frame(self, buffer: Any) -> Frame:
        number = self._counter.number(_info(buffer, "frame_id", None))
        name = dict_by_ints.get(buffer.pixel_format, f"0x{buffer.pixel_format:08X}")
        width, height = buffer.width, buffer.height
        delivered = _info(buffer, "delivered_image_height", height)
        if delivered < height:
            return Frame(number, None, f"{delivered} of {height} rows came")
        try:
            row, padding = _row_bytes(name, width), _info(buffer, "padding_x", 0)
            start = _info(buffer, "image_offset", 0)
            data = memoryview(buffer.raw_buffer)[start : start + (row + padding) * height]
            pixels = decode_pixels(data, name, width, height, stride=row + padding)
        except KdxError as error:
            return Frame(number, None, f"its buffer cannot be read: {error.message}")
        return Frame(number, pixels)


class _Incomplete(Callback):  # type: ignore[misc]
    """Counts buffers that Harvesters throws away because they are incomplete."""

    def __init__(self) -> None:
        super().__init__()
        self._count = 0

    def emit(self, context: object = None) -> None:
        """Count one."""
        self._count += 1

    def take(self) -> bool:
        """Take one, if there is one."""
        is_there = self._count > 0
        self._count -= is_there
        return is_there


def _only(devices: Sequence[Any], address: CameraAddress) -> Any:
    """Return the camera that is meant."""
    serial = address.serial
    found = [device for device in devices if serial in {None, _info(device, "serial_number", None)}]
    names = ", ".join(f"{_info(each, 'model', 'camera')} {_info(each, 'serial_number', '?')}" for each in devices)
    if len(found) == 1:
        return found[0]
    if len(found) > 1:
        raise OptionError(
            f"'{address.text}' has several cameras",
            received=names,
            fix=f"name one: `camera={address.with_setting(SERIAL, _info(found[0], 'serial_number', 'NUMBER'))}`",
        )
    raise DataError(
        f"there is no camera at '{address.text}'",
        received=names or "no camera at all",
        fix="connect it, end the program that uses it, or name another serial number",
    )


def _set_features(nodes: Any, address: CameraAddress) -> None:
    """Set the features of an address, in its order.

    Raises:
        OptionError: The camera does not have one, or not with that value.
    """
    for name, value in address.settings:
        if name == SERIAL:
            continue
        try:
            node = getattr(nodes, name)
            node.execute() if isinstance(node, genapi.ICommand) else node.from_string(value)
        except AttributeError as error:
            raise OptionError(f"the camera has no feature '{name}'", received=address.text) from error
        except genapi.GenericException as error:
            raise OptionError(f"the camera does not take {name}={value}: {_reason(error)}") from error


def _require_free_trigger(address: CameraAddress) -> None:
    """Refuse features that taking one frame for each trigger would overwrite.

    Raises:
        OptionError: The address sets one.
    """
    for name in _OF_TRIGGERS:
        if name in dict(address.settings):
            raise OptionError(
                f"`{name}` would be overwritten: kdx itself lets the camera take each frame",
                received=address.text,
                fix="leave it out; or, for a trigger at the camera's input, call kdx watch without `trigger`",
            )


def _set_software_trigger(nodes: Any) -> None:
    """Let each frame begin when the feature ``TriggerSoftware`` is executed."""
    for name, value in (("TriggerSelector", "FrameStart"), ("TriggerMode", "On"), ("TriggerSource", "Software")):
        if nodes.has_node(name):
            nodes.get_node(name).from_string(value)


def _row_bytes(name: str, width: int) -> int:
    layout = PIXEL_FORMATS.get(name)
    if layout is None:
        raise KdxError(f"its pixel format is {name}")
    return layout.bytes_in_row(width)


def _info(of: Any, name: str, otherwise: Any) -> Any:
    """Return what a producer says, or something else where it does not say it."""
    try:
        return getattr(of, name)
    except (AttributeError, *_ERRORS):
        return otherwise


def _reason(error: Exception) -> str:
    """Return what a GenICam error says, without the place in its source."""
    return str(error).partition(" : ")[0].partition(" (file ")[0]
