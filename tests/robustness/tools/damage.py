"""Damaged files for fuzzing: what hypothesis draws from, made of real ones."""

from __future__ import annotations

import copy
import io
import json
import random
import struct
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

# JSON that Python would not write: it stands in the text as it is.
_RAW = (
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "-0",
    "1" + "0" * 400,
    "0.1e-400",
    '"\\ud800"',
    '"\\u0000"',
    "[" * 3000 + "]" * 3000,
    '{"a":' * 3000 + "1" + "}" * 3000,
    '{"schema": 1, "schema": 2}',
    "",
    "{",
    "]",
)
_NUMBERS = (0, -1, 1, 2, 255, 65536, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63), 0.0, -1.5, 1e-320, 1e308)
_TEXTS = ("", "a", "é\u202e\U0001f600", "a\nb", "a" * 300, "a" * 1_000_000, "fp16", "int8", "bf16", "0" * 64, "f" * 64)
_PLACES = ("..", ".", "/", "~", "../bundle.json", "/etc/passwd", "golden/../../x", "C:\\x", "\\\\host\\share", "NUL")
_NESTED: tuple[Any, ...] = (
    *([], {}, [[]], [None], [1, 2], [0, 0], [-1, 7], [10**9, 10**9]),
    *(["../x"], ["/etc/passwd"], {"": ""}, {"../x": "00"}),
)
_VALUES: tuple[Any, ...] = (None, True, False, *_NUMBERS, *_TEXTS, *_PLACES, *_NESTED)
# Of what may stand at one place of a file, these bytes are what parsers look at.
_BYTES = (0x00, 0x01, 0x7F, 0x80, 0xFE, 0xFF, 0x20, 0x22, 0x2C, 0x2E, 0x2F, 0x5B, 0x7B, 0x7D)


def damaged_json(document: Any) -> st.SearchStrategy[bytes]:
    """Return a strategy for a document with one to three of its values damaged."""
    paths = list(_paths(document))

    @st.composite
    def draw_text(draw: st.DrawFn) -> bytes:
        tree = json.loads(json.dumps(document))
        raw: list[str] = []
        for _ in range(draw(st.integers(1, 3))):
            _edit(draw, tree, draw(st.sampled_from(paths)), raw)
        text = json.dumps(tree, ensure_ascii=draw(st.booleans()))
        for index, piece in enumerate(raw):
            text = text.replace(f'"@raw{index}@"', piece)
        return text.encode("utf-8", "surrogatepass")

    return draw_text()


@dataclass(frozen=True)
class Damaged:
    """A file that was cut, overwritten, lengthened or stirred in one to eight places.

    It is made when it is asked for: hypothesis keeps whatever it drew, and graphs are large.

    Attributes:
        whole: The file before.
        start: Of the random numbers that decide where, and how.
    """

    whole: bytes = field(repr=False)
    start: int

    def content(self) -> bytes:
        """Return the damaged file."""
        chance, found = random.Random(self.start), bytearray(self.whole)
        for _ in range(chance.randint(1, 8)):
            _stir(chance, found)
        return bytes(found)


def damaged_bytes(data: bytes) -> st.SearchStrategy[Damaged]:
    """Return a strategy for a file damaged somewhere."""
    return st.integers(0, 2**32).map(lambda start: Damaged(data, start))


def damaged_npy(array: NDArray[np.float32]) -> st.SearchStrategy[bytes | Damaged]:
    """Return a strategy for a ``.npy`` file whose header does not fit its data."""
    pieces = {
        "descr": ["'<f4'", "'>f4'", "'<f8'", "'|O'", "'<U9'", "'<f4,<f4'", "[('a','<f4')]", "'|V0'", "None", "7"],
        "fortran_order": ["False", "True", "0", "None", "[]"],
        "shape": [
            *(str(array.shape), "()", "(0,)", "(-1,)", "(-3, -3)", "(10**12,)", "(1000000000000,)", "(2147483648,)"),
            *("(4294967296, 4294967296)", "(1.5,)", "[3]", "None", "(True,)", "('a',)", "(1,)*9", "("),
            "(" * 150 + ")" * 150,
        ],
    }  # fmt: skip

    @st.composite
    def draw_file(draw: st.DrawFn) -> bytes:
        fields = {key: draw(st.sampled_from([*values[:1] * 3, *values])) for key, values in pieces.items()}
        if draw(st.integers(0, 5)) == 0:
            del fields[draw(st.sampled_from(sorted(fields)))]
        header = "{" + ", ".join(f"'{key}': {value}" for key, value in fields.items()) + ", }"
        header = draw(st.sampled_from([header, header, header, header[:-4], header + "\0", "[]", header + "x" * 20000]))
        version = draw(st.sampled_from([b"\1\0", b"\1\0", b"\2\0", b"\3\0", b"\x09\0"]))
        text = header.encode("latin1").ljust(118) + b"\n"
        length = struct.pack("<H" if version == b"\1\0" else "<I", len(text) & 0xFFFF)
        content = array.tobytes()
        content = draw(st.sampled_from([content, content, content[:-5], b"", content * 2]))
        return b"\x93NUMPY" + version + length + text + content

    pickled, zipped = io.BytesIO(), io.BytesIO()
    np.save(pickled, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.savez(zipped, array)
    whole = io.BytesIO()
    np.save(whole, array)
    return st.one_of(
        draw_file(),
        st.sampled_from([pickled.getvalue(), zipped.getvalue(), b"", b"\x93NUMPY", b"PK\3\4", b"\x80\4]."]),
        damaged_bytes(whole.getvalue()),
    )


def image_files(grey: Image.Image) -> dict[str, bytes]:
    """Return a small real image in every format, mode and compression of cameras and archives."""
    colour = Image.merge("RGB", (grey, grey.point(lambda v: 255 - v), grey.point(lambda v: v // 2)))
    wide = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    turned = Image.Exif()
    turned[0x0112] = 6  # turned by a quarter
    several = {"save_all": True, "append_images": [colour.transpose(Image.Transpose.ROTATE_180)]}
    kinds: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        "png-grey": (grey, "PNG", {}),
        "png-colour": (colour, "PNG", {}),
        "png-palette": (colour.quantize(16), "PNG", {"transparency": 3}),
        "png-alpha": (colour.convert("RGBA"), "PNG", {}),
        "png-grey-alpha": (grey.convert("LA"), "PNG", {}),
        "png-bilevel": (grey.convert("1"), "PNG", {}),
        "png-16-bit": (wide, "PNG", {}),
        "jpeg-grey": (grey, "JPEG", {"quality": 90}),
        "jpeg-colour": (colour, "JPEG", {"quality": 90}),
        "jpeg-progressive": (colour, "JPEG", {"progressive": True}),
        "jpeg-cmyk": (colour.convert("CMYK"), "JPEG", {}),
        "jpeg-turned": (colour, "JPEG", {"exif": turned}),
        "bmp-grey": (grey, "BMP", {}),
        "bmp-colour": (colour, "BMP", {}),
        "tiff-grey": (grey, "TIFF", {}),
        "tiff-lzw": (colour, "TIFF", {"compression": "tiff_lzw"}),
        "tiff-deflate": (grey, "TIFF", {"compression": "tiff_deflate"}),
        "tiff-16-bit": (wide, "TIFF", {}),
        "tiff-float": (grey.convert("F"), "TIFF", {}),
        "tiff-cmyk": (colour.convert("CMYK"), "TIFF", {}),
        "tiff-turned": (colour, "TIFF", {"exif": turned}),
        "webp": (colour, "WEBP", {"quality": 80}),
        "webp-lossless": (colour, "WEBP", {"lossless": True}),
        "gif": (grey, "GIF", {}),
        "ppm": (colour, "PPM", {}),
        "pgm-16-bit": (wide, "PPM", {}),
        "png-turned": (grey, "PNG", {"exif": turned}),
        "webp-turned": (colour, "WEBP", {"exif": turned, "lossless": True}),
        "gif-frames": (grey, "GIF", several),
        "png-frames": (grey, "PNG", several),
        "webp-frames": (colour, "WEBP", several),
        "tiff-pages": (grey, "TIFF", several),
        "mpo": (colour, "MPO", several),
        "eps": (grey, "EPS", {}),
    }
    return {name: _encoded(image, kind, options) for name, (image, kind, options) in kinds.items()}


def declares(name: str, data: bytes, width: int, height: int) -> bytes:
    """Return an image file that declares another size, with checksums, where its kind is known."""
    found = bytearray(data)
    if name.startswith("png"):
        found[16:24] = struct.pack(">II", width & 0xFFFFFFFF, height & 0xFFFFFFFF)
        found[29:33] = struct.pack(">I", zlib.crc32(found[12:29]))
    elif name.startswith("bmp"):
        found[18:26] = struct.pack("<ii", _signed(width), _signed(height))
    elif name.startswith("jpeg"):
        start = next((found.find(marker) for marker in (b"\xff\xc0", b"\xff\xc2") if marker in found), -1)
        if start >= 0:
            found[start + 5 : start + 9] = struct.pack(">HH", height & 0xFFFF, width & 0xFFFF)
    elif name.startswith("tiff"):
        for tag, value in ((256, width), (257, height)):
            # An entry is tag, type (4: 32 bits; 3: 16 bits), count and value.
            for kind, form in ((4, "<HHII"), (3, "<HHIHxx")):
                start = found.find(struct.pack("<HHI", tag, kind, 1))
                if start >= 0:
                    limit = 0xFFFFFFFF if kind == 4 else 0xFFFF
                    found[start : start + 12] = struct.pack(form, tag, kind, 1, value & limit)
    elif name.startswith("gif"):
        found[6:10] = struct.pack("<HH", width & 0xFFFF, height & 0xFFFF)
    elif name.startswith("ppm"):
        found = bytearray(b"P6\n%d %d\n255\n" % (width, height) + data.split(b"255\n", 1)[1])
    return bytes(found)


def damaged_images(files: dict[str, bytes]) -> st.SearchStrategy[bytes]:
    """Return a strategy for image files: whole, stirred, cut, of a wrong size, or all of it."""
    sizes = st.sampled_from([0, 1, 2, 63, 65, 300, 5000, 40000, 65535, 2**31 - 1, 2**32 - 1])

    @st.composite
    def draw_image(draw: st.DrawFn) -> bytes:
        name = draw(st.sampled_from(sorted(files)))
        data = files[name]
        what = draw(st.sampled_from(["whole", "stirred", "stirred", "stirred", "cut", "resized", "both"]))
        if what in {"resized", "both"}:
            data = declares(name, data, draw(sizes), draw(sizes))
        if what == "cut":
            data = data[: draw(st.integers(0, len(data)))]
        return draw(damaged_bytes(data)).content() if what in {"stirred", "both"} else data

    return draw_image()


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Any:
    if path:
        yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in entries:
        yield from _paths(item, (*path, key))


def _edit(draw: st.DrawFn, tree: Any, path: tuple[Any, ...], raw: list[str]) -> None:
    parent = tree
    for key in path[:-1]:
        if not _holds(parent, key):
            return  # an earlier edit took it away
        parent = parent[key]
    key = path[-1]
    if not _holds(parent, key):
        return
    what = draw(st.sampled_from(["value", "value", "value", "raw", "delete", "rename", "wrap", "text"]))
    if what == "value":
        parent[key] = copy.deepcopy(draw(st.sampled_from(_VALUES)))
    elif what == "raw":
        raw.append(draw(st.sampled_from(_RAW)))
        parent[key] = f"@raw{len(raw) - 1}@"
    elif what == "delete":
        del parent[key]
    elif what == "rename" and isinstance(parent, dict):
        parent[draw(st.sampled_from([*_TEXTS, *_PLACES]))] = parent.pop(key)
    elif what == "wrap":
        parent[key] = draw(st.sampled_from([[parent[key]], {"a": parent[key]}, [parent[key]] * 3]))
    else:
        parent[key] = str(parent[key])


def _holds(parent: Any, key: Any) -> bool:
    if isinstance(parent, list):
        return isinstance(key, int) and key < len(parent)
    return isinstance(parent, dict) and key in parent


def _stir(chance: random.Random, data: bytearray) -> None:
    # Headers lie in front and decide most.
    where = chance.randint(0, min(len(data), 64) if chance.random() < 0.5 else len(data))
    what = chance.choice(["byte", "byte", "bit", "run", "insert", "delete", "cut", "copy"])
    if what == "byte" and where < len(data):
        data[where] = chance.choice(_BYTES)
    elif what == "bit" and where < len(data):
        data[where] ^= 1 << chance.randrange(8)
    elif what == "run":
        data[where : where + chance.randint(1, 64)] = chance.randbytes(chance.randint(1, 16))
    elif what == "insert":
        data[where:where] = chance.randbytes(chance.randint(1, 32))
    elif what == "delete":
        del data[where : where + chance.randint(1, 64)]
    elif what == "cut":
        del data[where:]
    elif what == "copy":
        start = chance.randint(0, len(data))
        data[where:where] = data[start : start + chance.randint(1, 256)]


def _encoded(image: Image.Image, kind: str, options: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _signed(value: int) -> int:
    return value - 2**32 if value >= 2**31 else value
