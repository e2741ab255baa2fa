"""From a file to its record: read whole, hashed, judged by the bundle of its part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from kdx.errors import DataError, ImageError, KdxError
from kdx.imaging.images import decode_file
from kdx.runtime.banded import is_read_in_bands
from kdx.runtime.heat_map import heat_map
from kdx.station.bundles import Bundles
from kdx.station.camera.frames import NO_IMAGE, FrameError, FrameInfo, infos_of
from kdx.station.in_hand import MOST_TRIES, InHand
from kdx.station.judged_files import Identity
from kdx.station.names import NamePattern, PartName
from kdx.station.record import NotJudged, Shown, VerdictRecord, judged, not_judged
from kdx.storage.files import sha256_bytes, sha256_file

if TYPE_CHECKING:
    from kdx.decision.verdict import Verdict
    from kdx.runtime.detector import Detector

# A file that is larger is not read at once; frames in bands may be of any size.
_MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class JudgedImage:
    """The record of a file, and its heat map.

    Attributes:
        record: The record.
        heat_map: The picture as PNG, or None.
        more: The records of the other frames in a file of several frames without images.
    """

    record: VerdictRecord
    heat_map: bytes | None = None
    more: tuple[VerdictRecord, ...] = ()


class Judge:
    """Judges the files of a folder.

    Args:
        folder: The folder, of files or of the frames of a camera.
        bundles: What judges.
        pattern: What the files' names say.
        in_hand: Which file is being judged.
        heat_maps: Whether heat maps are drawn.
        are_frames: Whether the files are the frames of a camera.
        say: Is given what is doubtful about images: each kind once, with the first image.
    """

    def __init__(
        self,
        folder: Path,
        bundles: Bundles,
        pattern: NamePattern,
        in_hand: InHand,
        *,
        heat_maps: bool,
        are_frames: bool = False,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._folder, self._bundles, self._pattern = folder, bundles, pattern
        self._in_hand, self._heat_maps, self._are_frames = in_hand, heat_maps, are_frames
        self._say, self._said = say, set[type[UserWarning]]()

    def __call__(self, name: str, identity: Identity) -> JudgedImage | None:
        """Judge a file; return None if it is gone, or is another one than expected.

        Raises:
            OSError: The folder is gone, for example because a network drive was disconnected.
        """
        path = self._folder / name
        infos = infos_of(path) if self._are_frames else []
        if infos and path.suffix == NO_IMAGE:
            first, *others = (self._without_image(name, info) for info in infos)
            return JudgedImage(first, more=tuple(others))
        info = infos[0] if infos else None
        part = self._part(name, info)
        loaded = self._bundles.of(part.product)
        by = None if loaded is None else loaded.by
        shown = Shown(image=name, image_sha256=None, part_id=part.part, product=part.product, view=part.view)
        reason: NotJudged | None = None
        try:
            if info is not None:
                reason = info.reason
                shown = msgspec.structs.replace(shown, camera=info.camera, frame=info.frame, frame_time=info.time)
            is_banded = loaded is not None and is_read_in_bands(loaded.detector, path)
            content, sha256 = _read(path, identity, whole=not is_banded)
            shown = msgspec.structs.replace(shown, image_sha256=sha256)
            if not self._in_hand.begin(name, identity):
                reason = NotJudged.PROCESS_ENDED
                raise KdxError(f"the process ended {MOST_TRIES} times when it judged '{name}'")
            if reason is not None and info is not None:
                raise FrameError(info.problem)
            reason = NotJudged.NAME
            self._pattern.require_view(name)
            reason = None
            if loaded is None:
                reason = NotJudged.NO_BUNDLE
                raise DataError(f"no bundle belongs to '{name}'", received=part.product or "no product in the name")
            if content is None:
                verdict, picture = loaded.detector.judge_file(path).verdict, None
                _require(path, identity)
            else:
                verdict, picture = self._verdict(loaded.detector, path, content)
            return JudgedImage(judged(shown, verdict, loaded.by), picture)
        except (FileNotFoundError, _AnotherFileError):
            return None
        except KdxError as error:
            problem = error
        except OSError as error:
            next(self._folder.iterdir(), None)  # raises if it is the folder that cannot be read
            problem = ImageError(f"'{path}' cannot be read: {error.strerror or error}")
        except Exception as error:  # it concerns this image alone, and must not stop the line
            problem, reason = KdxError(f"unexpected {type(error).__name__}: {error}"), NotJudged.UNEXPECTED_ERROR
        return JudgedImage(not_judged(shown, problem, by, reason))

    def _without_image(self, name: str, info: FrameInfo) -> VerdictRecord:
        """Return the record of a frame of which there is no image."""
        part = self._part(f"{info.stem}{NO_IMAGE}" if info.stem else name, info)
        loaded = self._bundles.of(part.product)
        shown = Shown(
            image=None,
            image_sha256=None,
            part_id=part.part,
            product=part.product,
            view=part.view,
            camera=info.camera,
            frame=info.frame,
            frame_time=info.time,
        )
        return not_judged(shown, FrameError(info.problem), None if loaded is None else loaded.by, info.reason)

    def _part(self, name: str, info: FrameInfo | None) -> PartName:
        """Return the part that a frame shows: the one that its trigger named, or its name."""
        if info is not None and (info.part_id or info.product):
            return PartName(info.part_id, info.product)
        return self._pattern.read(name)

    def _verdict(self, detector: Detector, path: Path, content: bytes) -> tuple[Verdict, bytes | None]:
        """Return the verdict on the content of a file, and the heat map if one is drawn."""
        image = decode_file(path, detector.input, content)
        for doubt in image.doubts():
            if type(doubt) not in self._said:  # texts of one kind differ by the number of bits
                self._said.add(type(doubt))
                self._say(f"'{path.name}': {doubt}; said once")
        verdict = detector(image.pixels)
        return verdict, heat_map(detector, image.pixels, verdict, path.name) if self._heat_maps else None


class _AnotherFileError(Exception):
    """A file was written to, or replaced, since it was seen."""


def _read(path: Path, identity: Identity, *, whole: bool) -> tuple[bytes | None, str]:
    """Return the content of a file, or None if it is not read whole, and its hash.

    Raises:
        ImageError: It is empty, or too large to be an image.
    """
    if not identity.size:
        raise ImageError(f"'{path}' is empty (0 bytes)", fix="use an intact image, or leave it out")
    if whole and identity.size > _MOST_BYTES:
        raise ImageError(f"'{path}' is too large", expected="at most 1 GiB", received=f"{identity.size:,} bytes")
    content = path.read_bytes() if whole else None
    sha256 = sha256_file(path) if content is None else sha256_bytes(content)
    _require(path, identity)
    return content, sha256


def _require(path: Path, identity: Identity) -> None:
    if Identity.of(path.stat()) != identity:
        raise _AnotherFileError
