"""Frames in striped or tiled TIFF files that are too large for the memory, read in bands of rows.

Other formats are decoded whole; see :mod:`kdx.imaging.images`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from kdx.errors import ImageError, OptionError
from kdx.imaging.frame_faults import sampling_steps
from kdx.imaging.images import InputSpec, decode_file

SUFFIXES = (".tif", ".tiff")
# A strip or a row of tiles is decoded at once.
_MOST_SEGMENT_PIXELS = 1 << 27
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
_KINDS = {(1, 1): "grey", (2, 3): "RGB"}  # by photometric interpretation and samples


class BandedFrame:
    """A frame in a TIFF file, of which only the rows are in memory that were asked for last.

    ``frame[rows, columns]`` is an array, as of a frame in memory. The rows that are asked for must
    not begin above those that were asked for before. Close it, or use it in a ``with`` statement.

    Args:
        path: The file.
        spec: The frame's size, and the channels of the result.

    Attributes:
        shape: The height, width and channels of the frame.

    Raises:
        ImageError: The file is not a TIFF of one uncropped upright picture with 8 bits a sample, or
            has another size.
        ImportError: The package ``tifffile`` is not installed.
    """

    def __init__(self, path: Path, spec: InputSpec) -> None:
        import tifffile

        self._path, self._spec = path, spec
        self.shape = (spec.height, spec.width, spec.channels)
        with ExitStack() as opened:
            try:
                self._file = opened.enter_context(tifffile.TiffFile(path))
                pages = len(self._file.pages)
                self._page = self._file.pages.first
            except Exception as error:  # tifffile raises nearly anything on damaged files
                raise ImageError(f"'{path}' is not a readable TIFF file", received=str(error)) from error
            self._check(pages)
            self._held = opened.pop_all()
        down, across = sampling_steps(spec.height, spec.width)
        self._down, self._across = down, across
        self._samples: list[NDArray[np.uint8]] = []
        self._first, self._rows = 0, np.empty((0, spec.width, spec.channels), np.uint8)
        self._segment = 0  # the next row of segments

    def _check(self, pages: int) -> None:
        page, spec = self._page, self._spec
        kinds = "grey (MINISBLACK)" if spec.channels == 1 else "grey (MINISBLACK) or RGB"
        expected = (
            f"one upright picture (orientation 1) of {spec.width} × {spec.height} pixels, 8 bits a sample, {kinds}, "
            "uint8, planar configuration CONTIG"
        )
        photometric = (int(page.photometric), page.samplesperpixel)
        orientation = page.tags.valueof(274) or _orientation_in_xmp(page.tags.valueof(700))
        received = (
            f"{number_of_pictures(pages)} {page.imagewidth} × {page.imagelength}, {page.samplesperpixel} samples of "
            f"{page.bitspersample} bits, {_name(page.photometric)}, {page.dtype}, orientation {orientation}, "
            f"planar configuration {_name(page.planarconfig)}"
        )
        is_plain = (
            pages == 1
            and not int(page.subfiletype) & 1  # a preview of a larger picture
            and page.dtype == np.uint8
            and photometric in _KINDS
            and (page.bitspersample, page.planarconfig, orientation) == (8, 1, 1)
            and photometric[1] <= spec.channels
        )
        if not is_plain or (page.imagelength, page.imagewidth) != (spec.height, spec.width):
            raise ImageError(f"'{self._path}' cannot be read in bands", expected=expected, received=received)
        self._height = page.tilelength if page.is_tiled else page.rowsperstrip
        self._across_count = -(-page.imagewidth // page.tilewidth) if page.is_tiled else 1
        if min(self._height, page.imagelength) * page.imagewidth > _MOST_SEGMENT_PIXELS:
            raise ImageError(
                f"'{self._path}' cannot be read in bands: its strips are too large",
                expected=f"strips of at most {_MOST_SEGMENT_PIXELS:,} pixels",
                received=f"strips of {min(self._height, page.imagelength)} rows",
                fix="write it in strips of fewer rows, or in tiles: tiffcp -r 256 FILE NEW.tif",
            )

    def __getitem__(self, part: tuple[slice, slice]) -> NDArray[np.uint8]:
        rows, columns = part
        while self._first + len(self._rows) < rows.stop:
            self._decode(rows.start)
        return self._rows[rows.start - self._first : rows.stop - self._first, columns]

    @property
    def samples(self) -> NDArray[np.uint8]:
        """The pixels by which a frame is checked, ``(h, w, C)``, of the rows that were read."""
        return np.concatenate(self._samples)

    def _decode(self, start: int) -> None:
        """Add the next row of strips or tiles, and forget the rows above ``start``."""
        top = self._segment * self._height
        height = min(self._height, self.shape[0] - top)
        band = np.empty((height, *self.shape[1:]), np.uint8)
        for index in range(self._segment * self._across_count, (self._segment + 1) * self._across_count):
            pixels, left = self._read(index)
            part = band[:, left : left + pixels.shape[1]]
            part[...] = pixels[:height, : part.shape[1]]
        if self._spec.channel_order == "bgr" and self._spec.channels == 3:
            band = band[..., ::-1]
        self._samples.append(band[-top % self._down :: self._down, :: self._across].copy())
        kept = self._rows[max(0, start - self._first) :]
        self._first = top - len(kept)
        self._rows = np.concatenate([kept, band])
        self._segment += 1

    def _read(self, index: int) -> tuple[NDArray[np.uint8], int]:
        """Return the pixels of a strip or tile, and its first column."""
        page = self._page
        try:
            # JPEG data may share tables that are kept beside it. To find the decoder, tifffile
            # reads elsewhere in the file.
            decode, shared = page.decode, {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
            handle = self._file.filehandle
            handle.seek(page.dataoffsets[index])
            data, place, _ = decode(handle.read(page.databytecounts[index]), index, **shared)
        except Exception as error:  # a decoder raises nearly anything on damaged data
            raise ImageError(
                f"'{self._path}' is damaged, or compressed in a way that is not known here",
                received=str(error),
                fix="replace the file, write it without compression, or install decoders: pip install imagecodecs",
            ) from error
        if data is None:
            raise ImageError(f"'{self._path}' is damaged: a strip or tile is missing", fix="replace the file")
        return data[0], place[3]

    def __enter__(self) -> BandedFrame:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()


def checked_pixels(path: Path, spec: InputSpec) -> NDArray[np.uint8]:
    """Read the pixels by which a frame is checked, uint8 ``(h, w, C)``: all, if it is read whole.

    Raises:
        ImageError: The file cannot be read.
        ImportError: It is read in bands, and the package ``tifffile`` is not installed.
    """
    if not has_bands(spec, path):
        return decode_file(path, spec).pixels
    with BandedFrame(path, spec) as frame:
        frame[spec.height - 1 : spec.height, :]  # through all rows, of which the samples are kept
        return frame.samples


def has_bands(spec: InputSpec, path: Path) -> bool:
    """Whether a file of a camera is read in bands, because its frames may exceed the memory."""
    return spec.is_in_bands and path.suffix.lower() in SUFFIXES


def require_whole_frames(spec: InputSpec, command: str) -> None:
    """Raise ``OptionError`` if a command that reads whole frames gets a detector that reads bands.

    Args:
        spec: The frames that the detector accepts.
        command: The command, for the message.
    """
    if spec.is_in_bands:
        raise OptionError(
            f"{command} reads whole frames, and the frames of this bundle are too large for that",
            expected="a bundle whose frames are read whole",
            received=f"frames of {spec.width} × {spec.height} pixels, read in bands of rows",
            fix="use kdx predict, watch, score, calibrate, evaluate or repeat, or detector.judge_file(FILE) in Python",
        )


def require_whole_maps(spec: InputSpec, asked: Mapping[str, bool]) -> None:
    """Raise ``OptionError`` for files that are made of a whole map, where frames are read in bands.

    Args:
        spec: The frames that the detector accepts.
        asked: Whether each of these files is asked for, by the parameter's name.
    """
    names = [name for name, is_asked in asked.items() if is_asked]
    if names and spec.is_in_bands:
        raise OptionError(
            "frames that are read in bands are never whole in the memory, and neither are their maps",
            received=" and ".join(f"`{name}`" for name in names),
            fix="leave out what is made of a whole map; regions say where defects are",
        )


def _orientation_in_xmp(xmp: object) -> int:
    """Return the orientation that the metadata name, as Pillow reads it; 1 if they name none."""
    found = _XMP_ORIENTATION.search(xmp if isinstance(xmp, bytes) else b"")
    return int(found[1]) if found else 1


def _name(value: object) -> str:
    """Return the name of a tag's value, or the number where it has none."""
    return str(getattr(value, "name", value))


def number_of_pictures(pages: int) -> str:
    """Return the number of pictures in words."""
    return "a picture of" if pages == 1 else f"{pages} pictures, the first of"
