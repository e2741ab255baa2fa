"""File formats that kdx does not read, and for each of them how to get images that it reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

HEAD = 16  # the number of bytes by which a file is recognised


@dataclass(frozen=True)
class OtherFormat:
    """A file format that kdx does not read.

    Attributes:
        title: The name of the format, with its article.
        fix: How to get images from such a file.
        suffixes: The suffixes of its files.
        brands: The brands of the ISO base media file format (``ftyp``) by which it is recognised.
        heads: The first bytes by which it is recognised.
    """

    title: str
    fix: str
    suffixes: tuple[str, ...]
    brands: tuple[bytes, ...] = ()
    heads: tuple[bytes, ...] = ()


# Some of these files open as TIFF, whose first page is a preview of the picture.
CAMERA_RAW = OtherFormat(
    "a camera raw file",
    "develop it to a 16-bit TIFF or PNG with the camera's program, darktable or rawpy",
    (".cr2", ".cr3", ".crw", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2", ".pef", ".srw", ".raw"),
    brands=(b"crx ",),
    heads=(b"FUJIFILMCCD-RAW",),
)

VIDEO = OtherFormat(
    "a video",
    "name the file itself: kdx predict BUNDLE VIDEO judges its frames; elsewhere write them to image files first, for "
    "example: ffmpeg -i VIDEO frames/%06d.png",
    (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".wmv", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts"),
    brands=(b"isom", b"iso2", b"iso4", b"iso5", b"iso6", b"mp41", b"mp42", b"avc1", b"M4V ", b"qt  ", b"dash"),
    heads=(b"\x1aE\xdf\xa3", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", b"\x00\x00\x01\xba"),
)

_FORMATS = (
    OtherFormat(
        "a HEIC photograph",
        "convert it to PNG, or let the phone write JPEG (iPhone: Settings, Camera, Formats, Most Compatible)",
        (".heic", ".heif", ".hif"),
        brands=(b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"),
    ),
    OtherFormat("an AVIF image", "convert it to PNG", (".avif",), brands=(b"avif", b"avis")),
    CAMERA_RAW,
    VIDEO,
    OtherFormat("a PDF document", "write its pages as images: pdftoppm -png FILE PAGE", (".pdf",), heads=(b"%PDF",)),
    OtherFormat("a PostScript file", "write it as PNG", (".eps", ".ps"), heads=(b"%!PS", b"\xc5\xd0\xd3\xc6")),
    OtherFormat("a vector drawing", "write it as PNG", (".svg", ".dxf")),
    OtherFormat(
        "a NumPy array",
        "pass the array to the detector: kdx.load(BUNDLE)(numpy.load(FILE)); kdx.to_eight_bits for 16-bit values",
        (".npy", ".npz"),
        heads=(b"\x93NUMPY",),
    ),
    OtherFormat("an archive", "unpack it", (".zip", ".7z", ".rar", ".tar", ".gz"), heads=(b"PK\x03\x04", b"Rar!")),
    OtherFormat(
        "an image in a format that kdx does not read",
        "convert it to PNG, or to TIFF of 8 or 16 bits",
        (
            *(".jp2", ".j2k", ".jxl", ".jxr", ".exr", ".hdr", ".psd", ".xcf", ".dcm", ".fits", ".tga", ".ico", ".pcx"),
            *(".hobj", ".ima", ".idb", ".cdb", ".pfm", ".sgi"),
        ),
        heads=(b"\x00\x00\x00\x0cjP  ", b"\x00\x00\x00\x0cJXL ", b"8BPS", b"v/1\x01", b"II\xbc\x01", b"gimp xcf"),
    ),
)


def other_format(path: Path, head: bytes) -> OtherFormat | None:
    """Return the format of a file that kdx does not read, or None if it is unknown.

    The first bytes take precedence, because a phone's HEIC is often named ``.jpg``.
    """
    brand = head[8:12] if head[4:8] == b"ftyp" else b""
    for one in _FORMATS:
        if brand in one.brands or any(head.startswith(start) for start in one.heads):
            return one
    suffix = path.suffix.lower()
    return next((one for one in _FORMATS if suffix in one.suffixes), None)


def is_video(path: Path) -> bool:
    """Whether a file that is not named as an image is a video, by its first bytes or its suffix."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError:
        return False  # the error is reported where the file is read
    return other_format(path, head) is VIDEO
