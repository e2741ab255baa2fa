"""What an image file is read as, or why it is refused: orientation, several pictures, transparency,
deep values."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

import kdx
from kdx.errors import ImageError, InputError
from kdx.imaging.decoded_image import GreyConversionWarning
from kdx.imaging.images import InputSpec, decode_image, read_header, read_image
from kdx.imaging.value_range import NarrowRangeWarning
from tests.tiff import tiff

ORIENTATION = 0x0112
UPRIGHT = np.arange(6 * 4, dtype=np.uint8).reshape(6, 4) * 10  # every pixel differs: each turn shows


def turned(orientation: int) -> tuple[np.ndarray, Image.Exif]:
    """Return what a camera held so would store of UPRIGHT, and the tag that says so (EXIF 2.3,
    table 6)."""
    stored = {
        1: UPRIGHT, 2: UPRIGHT[:, ::-1], 3: UPRIGHT[::-1, ::-1], 4: UPRIGHT[::-1],
        5: UPRIGHT.T, 6: np.rot90(UPRIGHT, 1), 7: UPRIGHT[::-1, ::-1].T, 8: np.rot90(UPRIGHT, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return np.ascontiguousarray(stored), exif


def png_with(image: Image.Image, path: Path, kind: bytes, data: bytes) -> None:
    """Write a PNG with a chunk after its pixels, which only decoding finds."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    whole = buffer.getvalue()
    chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    path.write_bytes(whole[:-12] + chunk + whole[-12:])


# Orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "tif", "webp", "png, late", "png, XMP"])
def test_an_image_is_read_the_right_way_up_once(tmp_path, kind, orientation):
    stored, exif = turned(orientation)
    image, file = Image.fromarray(stored), tmp_path / f"x.{kind[:4].strip(',')}"
    if kind == "png, late":
        png_with(image, file, b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    elif kind == "png, XMP":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", f'<x tiff:Orientation="{orientation}"/>')
        image.save(file, pnginfo=info)
    elif kind == "webp":
        image.convert("RGB").save(file, exif=exif, lossless=True)
    else:
        image.save(file, exif=exif)
    np.testing.assert_array_equal(decode_image(file, channels=1)[..., 0], UPRIGHT)
    assert read_header(file)[:2] == (4, 6)
    spec = InputSpec(height=6, width=4, channels=1)
    np.testing.assert_array_equal(read_image(file, spec)[..., 0], UPRIGHT)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_read_the_right_way_up(tmp_path, orientation):
    stored, exif = turned(orientation)
    big = np.kron(stored, np.ones((8, 8), np.uint8))
    Image.fromarray(big).save(tmp_path / "x.jpg", exif=exif, quality=100)
    found = decode_image(tmp_path / "x.jpg", channels=1)[..., 0]
    assert read_header(tmp_path / "x.jpg")[:2] == (32, 48)
    np.testing.assert_allclose(found[4::8, 4::8], UPRIGHT, atol=2)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_deep_images_are_turned_too(tmp_path, dtype):
    stored, exif = turned(6)
    Image.fromarray(stored.astype(dtype)).save(tmp_path / "x.tif", exif=exif)
    found = decode_image(tmp_path / "x.tif", channels=1, sixteen_bit_range=(0, 255))
    np.testing.assert_array_equal(found[..., 0], UPRIGHT)


@pytest.mark.parametrize("value", [0, 9, 77])
def test_an_orientation_that_means_nothing_turns_nothing(tmp_path, value):
    exif = Image.Exif()
    exif[ORIENTATION] = value
    Image.fromarray(UPRIGHT).save(tmp_path / "x.png", exif=exif)
    np.testing.assert_array_equal(decode_image(tmp_path / "x.png", channels=1)[..., 0], UPRIGHT)


@pytest.mark.slow
def test_a_fifth_of_tagged_images_makes_no_other_detector(cli, make_images, tiny_options, tmp_path):
    (tmp_path / "data").mkdir()
    for index, image in enumerate(make_images(10)):
        upright = image.resize((96, 64))
        exif = Image.Exif()
        if index % 5 == 0:
            exif[ORIENTATION] = 6
            upright = upright.transpose(Image.Transpose.ROTATE_90)
        upright.save(tmp_path / f"data/{index}.png", exif=exif)
    cli("train", tmp_path / "data", "-o", tmp_path / "run", "--epochs", 1, *tiny_options)
    found = cli("export", tmp_path / "run", "-o", tmp_path / "b.kdx", "--max-batch", 1, "--json")
    assert found.exit_code == 0
    shown = cli("inspect", tmp_path / "b.kdx", "--json").json["manifest"]["input"]
    assert (shown["width"], shown["height"], shown.get("fixed_size", True)) == (96, 64, True)


# Several pictures


def save_several(path: Path, **options) -> None:
    others = [Image.fromarray(255 - UPRIGHT), Image.fromarray(UPRIGHT // 2)]
    Image.fromarray(UPRIGHT).save(path, save_all=True, append_images=others, **options)


@pytest.mark.parametrize("suffix", ["tif", "gif", "png", "webp", "mpo"])
def test_a_file_of_several_pictures_is_refused_with_its_count(tmp_path, suffix):
    file = tmp_path / f"x.{suffix}"
    save_several(file)
    for read in (read_header, lambda path: decode_image(path, channels=1)):
        with pytest.raises(ImageError, match="holds 3 pictures") as caught:
            read(file)
        assert "separate file" in caught.value.fix


def test_a_file_of_several_pictures_is_found_whatever_its_name(tmp_path):
    save_several(tmp_path / "x.mpo")
    (tmp_path / "x.mpo").rename(tmp_path / "x.jpg")
    with pytest.raises(ImageError, match="holds 3 pictures"):
        decode_image(tmp_path / "x.jpg", channels=1)


NETPBM = {
    "plain bits": b"P1\n4 2\n0 1 0 1\n1 0 1 0\n",
    "plain grey": b"P2 # a P2 file\n2 2\n255\n1 2\n3 4 # P5 is another kind\n",
    "plain colour": b"P3\n1 1\n255\n1 2 3\n",
    "bits": b"P4\n12 2\nP4 P",
    "grey": b"P5\n2 2\n255\nP5 P",
    "grey below 255": b"P5\n2 2\n99\nP5 P",
    "deep grey": b"P5\n2 2\n65535\nP5 P5 P5",
    "twelve bits": b"P5\n2 2\n4095\n\1P\2P\3P\4P",
    "colour": b"P6\n2 1\n255\nP6 P6 ",
}


@pytest.mark.parametrize("kind", NETPBM)
@pytest.mark.parametrize("between", [b"", b"\n"], ids=["directly", "after a line"])
def test_netpbm_pictures_in_a_row_are_refused_and_one_is_read(tmp_path, kind, between):
    file = tmp_path / "x.ppm"
    file.write_bytes(NETPBM[kind])
    decode_image(file, channels=1)
    file.write_bytes(NETPBM[kind] + between + NETPBM[kind])
    for read in (read_header, lambda path: decode_image(path, channels=1)):
        with pytest.raises(ImageError, match="holds several pictures"):
            read(file)


@pytest.mark.parametrize("suffix", ["tif", "gif", "png", "webp"])
def test_one_frame_is_one_picture(tmp_path, suffix):
    Image.fromarray(UPRIGHT).save(tmp_path / f"x.{suffix}", save_all=True)
    assert decode_image(tmp_path / f"x.{suffix}", channels=1).shape == (6, 4, 1)


@pytest.mark.parametrize("mark", [{254: 1}, {255: 2}])
def test_a_thumbnail_after_a_page_is_no_second_picture(tmp_path, mark):
    (tmp_path / "x.tif").write_bytes(tiff((UPRIGHT, {}), (UPRIGHT[::2, ::2], mark)))
    np.testing.assert_array_equal(decode_image(tmp_path / "x.tif", channels=1)[..., 0], UPRIGHT)
    (tmp_path / "y.tif").write_bytes(tiff((UPRIGHT, {}), (UPRIGHT[::2, ::2], mark), (UPRIGHT, {})))
    with pytest.raises(ImageError, match="holds 2 pictures"):
        decode_image(tmp_path / "y.tif", channels=1)


@pytest.mark.parametrize("tags", [{254: 1}, {50706: (1, 4)}])
def test_a_preview_is_not_taken_for_the_picture(tmp_path, tags):
    (tmp_path / "x.tif").write_bytes(tiff((UPRIGHT[::2, ::2], tags), (UPRIGHT, {})))
    with pytest.raises(ImageError, match="is a preview of a larger picture"):
        decode_image(tmp_path / "x.tif", channels=1)


def test_a_thumbnail_in_a_photograph_is_no_second_picture(tmp_path):
    """A camera's large thumbnail stands in the same index as further pictures, and is of another
    kind."""
    save_several(tmp_path / "x.jpg", format="MPO")
    data = bytearray((tmp_path / "x.jpg").read_bytes())
    entries = data.find(struct.pack("<LL", 0x030000, data.find(b"\xff\xd8\xff", 2)))  # kind and size of the first
    assert entries > 0
    for index, kind in ((1, 0x010001), (2, 0x010002)):
        data[entries + 16 * index : entries + 16 * index + 4] = struct.pack("<L", kind)
    (tmp_path / "x.jpg").write_bytes(data)
    assert decode_image(tmp_path / "x.jpg", channels=1).shape == (6, 4, 1)


# Transparency


def with_alpha(mode: str, alpha: int) -> Image.Image:
    image = Image.fromarray(np.stack([UPRIGHT, 255 - UPRIGHT, UPRIGHT // 2, np.full_like(UPRIGHT, 255)], 2), "RGBA")
    image.putpixel((1, 2), (*image.getpixel((1, 2))[:3], alpha))
    return image.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("kind", ["png", "tif"])
def test_alpha_that_hides_something_is_refused_and_any_other_is_dropped(tmp_path, mode, kind):
    file = tmp_path / f"x.{kind}"
    with_alpha(mode, 255).save(file)
    opaque = decode_image(file, channels=3)
    np.testing.assert_array_equal(opaque, np.asarray(with_alpha(mode, 255).convert("RGB")))
    for alpha in (0, 254):
        with_alpha(mode, alpha).save(file)
        with pytest.raises(ImageError, match="has transparent pixels"):
            decode_image(file, channels=3)


@pytest.mark.parametrize(("mode", "key"), [("L", 30), ("1", 0), ("I;16", 30), ("RGB", (30, 30, 30)), ("P", 30)])
def test_a_colour_that_stands_for_transparent_is_refused_where_it_occurs(tmp_path, mode, key):
    image = Image.fromarray(UPRIGHT.astype(np.uint16)) if mode == "I;16" else Image.fromarray(UPRIGHT).convert(mode)
    image.save(tmp_path / "x.png", transparency=key)
    with pytest.raises(ImageError, match="has transparent pixels"):
        decode_image(tmp_path / "x.png", channels=1)
    if mode not in {"1", "P"}:
        unused = (31, 31, 31) if mode == "RGB" else 31
        image.save(tmp_path / "x.png", transparency=unused)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NarrowRangeWarning)
            assert decode_image(tmp_path / "x.png", channels=1).shape == (6, 4, 1)


@pytest.mark.parametrize(("bits", "row"), [(2, 0b00_11_01_01), (4, 0b1111_0001)])
def test_a_grey_value_of_few_bits_that_stands_for_transparent_is_refused_where_it_occurs(tmp_path, bits, row):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 8 // bits, 1, bits, 0, 0, 0, 0))
    for key, occurs in ((2**bits - 1, True), (1, True), (2, False)):  # Pillow widens the pixels, and not the key
        pixels = chunk(b"tRNS", struct.pack(">H", key)) + chunk(b"IDAT", zlib.compress(bytes([0, row])))
        (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + head + pixels + chunk(b"IEND", b""))
        if occurs:
            with pytest.raises(ImageError, match="has transparent pixels"):
                decode_image(tmp_path / "x.png", channels=1)
        else:
            assert decode_image(tmp_path / "x.png", channels=1).max() == 255


# Deep values


def test_a_range_is_applied_to_arrays_as_to_files(tmp_path):
    frame = np.random.default_rng(0).integers(0, 65536, (40, 30), dtype=np.uint16)
    Image.fromarray(frame).save(tmp_path / "x.png")
    for declared in ((0, 65535), (0, 4095), (1000, 3000), (7, 8)):
        spec = InputSpec(height=40, width=30, channels=1, sixteen_bit_range=declared)
        found = kdx.to_eight_bits(frame, spec)
        np.testing.assert_array_equal(found, read_image(tmp_path / "x.png", spec)[..., 0])
        low, high = declared
        exact = np.clip((frame.astype(float) - low) / (high - low), 0, 1) * 255
        assert np.abs(found - exact).max() <= 0.5 + 1e-4
    colour = kdx.to_eight_bits(np.stack([frame] * 3, 2), InputSpec(height=40, width=30))
    assert (colour.dtype, colour.shape) == (np.uint8, (40, 30, 3))
    big_endian = kdx.to_eight_bits(frame.astype(">u2"), spec)
    np.testing.assert_array_equal(big_endian, found)


@pytest.mark.parametrize("frame", [np.zeros(4, np.uint8), np.zeros(4, np.float32), np.zeros(4, int), [1]])
def test_only_sixteen_bits_are_brought_to_eight(frame):
    with pytest.raises(InputError, match="only 16-bit frames"):
        kdx.to_eight_bits(frame, InputSpec(height=4, width=4, channels=1))


@pytest.mark.slow
def test_a_detector_names_the_function_that_a_sixteen_bit_frame_needs(tiny_bundle):
    with kdx.load(tiny_bundle) as detector:
        frame = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
        with pytest.raises(InputError, match=r"kdx.to_eight_bits\(frame, detector.input\)"):
            detector(frame)
        assert detector(kdx.to_eight_bits(frame, detector.input)).score > 0


def test_a_frame_that_hardly_uses_its_range_is_warned_of():
    frame = np.linspace(0, 4095, 64).astype(np.uint16).reshape(8, 8)
    spec = InputSpec(height=8, width=8, channels=1)
    with pytest.warns(NarrowRangeWarning, match="at most 12 bits fill less than a tenth of the declared range 0:65535"):
        kdx.to_eight_bits(frame, spec)
    declared = InputSpec(height=8, width=8, channels=1, sixteen_bit_range=(0, 4095))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kdx.to_eight_bits(frame, declared)
        kdx.to_eight_bits(frame * np.uint16(2), spec)


def test_colour_that_a_mono_detector_does_not_see_is_warned_of(tmp_path):
    rgb = np.zeros((8, 8, 3), np.uint8)
    Image.fromarray(rgb).save(tmp_path / "grey.png")
    rgb[3, 4] = 10, 10, 11
    Image.fromarray(rgb).save(tmp_path / "blue.png")
    mono, colour = (InputSpec(height=8, width=8, channels=channels) for channels in (1, 3))
    with pytest.warns(GreyConversionWarning, match="converted to grey"):
        kdx.read_image(tmp_path / "blue.png", mono)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kdx.read_image(tmp_path / "blue.png", colour)
        kdx.read_image(tmp_path / "grey.png", mono)


def twelve_bits(folder: Path, images: list[Image.Image], name: str = "{}.png") -> Path:
    folder.mkdir(parents=True)
    for index, image in enumerate(images):
        Image.fromarray(np.asarray(image).astype(np.uint16) * 16).save(folder / name.format(index))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_training_says_once_that_a_range_is_missing(cli, make_images, tiny_options, tmp_path, workers):
    data = twelve_bits(tmp_path / "data", [image.resize((32, 32)) for image in make_images(70)])
    options = [*tiny_options, "--workers", workers, "--memory-mib", 1024]
    found = cli("train", data, "-o", tmp_path / "run", "--epochs", 1, *options)
    assert found.stderr.count("less than a tenth of the declared range 0:65535") == 1
    assert "70 16-bit images hold values from 160 to 4048" in found.stderr.replace("\n", " ")
    assert "--sixteen-bit-range 0:4095" in found.stderr
    declared = cli("train", data, "-o", tmp_path / "b", "--epochs", 1, *options, "--sixteen-bit-range", "0:4095")
    assert "less than a tenth" not in declared.stderr


def test_predict_says_once_that_a_range_is_missing(cli, tiny_bundle, make_images, tmp_path):
    data = twelve_bits(tmp_path / "data", make_images(3))
    found = cli("predict", tiny_bundle, data, "--json")
    assert len(found.lines) == 3
    assert found.stderr.count("less than a tenth") == 1
    assert "3 16-bit images hold values from" in found.stderr


@pytest.mark.parametrize("plain", [True, False])
def test_a_netpbm_header_names_the_range(tmp_path, plain):
    values = np.array([[0, 1, 2047, 4095]])
    body = " ".join(map(str, values.ravel())).encode() if plain else values.astype(">u2").tobytes()
    (tmp_path / "x.pgm").write_bytes((b"P2" if plain else b"P5") + b"\n4 1\n4095\n" + body)
    for declared in ((0, 65535), (0, 4095)):
        found = decode_image(tmp_path / "x.pgm", channels=1, sixteen_bit_range=declared)
        assert found.ravel().tolist() == [0, 0, 127, 255]
    narrow = decode_image(tmp_path / "x.pgm", channels=1, sixteen_bit_range=(0, 2))
    assert narrow.ravel().tolist() == [0, 128, 255, 255]


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint32])
def test_wider_integers_are_read_by_the_same_rule_or_refused(tmp_path, dtype):
    values = np.array([[0, 1000, 2000, 4095]], dtype)
    (tmp_path / "x.tif").write_bytes(tiff((values, {})))
    found = decode_image(tmp_path / "x.tif", channels=1, sixteen_bit_range=(0, 4095))
    assert found.ravel().tolist() == [0, 62, 125, 255]
    for odd in (-1, 70000, 2**31):
        if np.iinfo(dtype).min <= odd <= np.iinfo(dtype).max:
            values[0, 0] = odd
            (tmp_path / "x.tif").write_bytes(tiff((values, {})))
            with pytest.raises(ImageError, match="values that do not fit into 16 bits"):
                decode_image(tmp_path / "x.tif", channels=1)


@pytest.mark.parametrize(
    ("values", "tags", "kind"),
    [
        (np.full((4, 4, 3), 700, np.uint16), {}, "16-bit colour"),
        (np.full((3, 4, 4), 700, np.uint16), {284: 2}, "16-bit colour"),
        (np.full((4, 4, 4), 700, np.uint16), {338: 2}, "16-bit colour"),
        (np.full((4, 4), 700, np.uint16), {262: 0}, "16-bit grey in which 0 is white"),
        (np.full((4, 4), -3, np.int8), {}, "signed 8-bit numbers"),
        (np.full((4, 4), 0.5, np.float32), {}, "F"),
    ],
)
def test_values_that_would_change_in_silence_are_refused(tmp_path, values, tags, kind):
    (tmp_path / "x.tif").write_bytes(tiff((values, tags)))
    for read in (read_header, lambda path: decode_image(path, channels=1)):
        with pytest.raises(ImageError, match=f"unsupported kind: {kind}"):
            read(tmp_path / "x.tif")


@pytest.mark.parametrize(
    ("samples", "tags"),
    [(4, {338: 0}), (2, {338: 0}), (5, {338: (0, 0)}), (5, {338: (2, 0)})],
    ids=["near infrared", "grey and another", "two more", "alpha and another"],
)
def test_samples_that_are_no_colour_are_refused(tmp_path, samples, tags):
    (tmp_path / "x.tif").write_bytes(tiff((np.full((4, 4, samples), 200, np.uint8), tags)))
    for read in (read_header, lambda path: decode_image(path, channels=3)):
        with pytest.raises(ImageError) as caught:
            read(tmp_path / "x.tif")
        # Of some combinations Pillow knows nothing, and reads nothing.
        assert "near infrared" in caught.value.message or "is not a readable image" in caught.value.message


def test_four_samples_with_near_infrared_name_a_fix(tmp_path):
    (tmp_path / "x.tif").write_bytes(tiff((np.full((4, 4, 4), 200, np.uint8), {338: 0})))
    with pytest.raises(ImageError, match="near infrared") as caught:
        decode_image(tmp_path / "x.tif", channels=3)
    assert "separate file" in caught.value.fix


def test_sixteen_bit_colour_of_netpbm_is_refused(tmp_path):
    (tmp_path / "x.ppm").write_bytes(b"P6\n2 1\n65535\n" + b"\1\2" * 6)
    with pytest.raises(ImageError, match="16-bit colour"):
        decode_image(tmp_path / "x.ppm", channels=3)


def test_sixteen_bits_a_pixel_are_not_sixteen_a_channel(tmp_path):
    """BMP with 5, 6 and 5 bits for red, green and blue."""
    pixels = struct.pack("<4H", 0xF800, 0x07E0, 0x001F, 0xFFFF)
    header = struct.pack("<IiiHHIIiiII", 40, 4, 1, 1, 16, 3, len(pixels), 0, 0, 0, 0)
    masks = struct.pack("<3I", 0xF800, 0x07E0, 0x001F)
    start = 14 + len(header) + len(masks)
    file = struct.pack("<2sIHHI", b"BM", start + len(pixels), 0, 0, start) + header + masks + pixels
    (tmp_path / "x.bmp").write_bytes(file)
    found = decode_image(tmp_path / "x.bmp", channels=3)
    assert found.tolist() == [[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]]


# Files of other kinds


@pytest.mark.parametrize(
    ("name", "head", "said"),
    [
        ("x.heic", b"\0\0\0\x18ftypheic", "Most Compatible"),
        ("photo.jpg", b"\0\0\0\x18ftypheic", "Most Compatible"),
        ("x.cr2", b"rubbish", "develop"),
        ("x.pdf", b"%PDF-1.7", "pdftoppm"),
        ("x.npy", b"\x93NUMPY\1\0", "to_eight_bits"),
        ("x.jp2", b"\0\0\0\x0cjP  \r\n\x87\n", "convert it to PNG"),
    ],
)
def test_what_is_no_image_is_named_with_a_fix(cli, tiny_bundle, tmp_path, name, head, said):
    (tmp_path / name).write_bytes(head.ljust(64, b"\0"))
    stderr = cli("predict", tiny_bundle, tmp_path / name, code=2).stderr
    assert "is not a readable image, but" in stderr
    assert said in stderr


@pytest.mark.parametrize(("name", "head"), [("x.mp4", b"\0\0\0\x18ftypmp42"), ("x.avi", b"RIFF\0\0\0\0AVI LIST")])
def test_a_video_without_frames_is_named_with_a_fix(cli, tiny_bundle, tmp_path, name, head):
    pytest.importorskip("av", reason="the extra video is not installed")
    (tmp_path / name).write_bytes(head.ljust(64, b"\0"))
    stderr = cli("predict", tiny_bundle, tmp_path / name, code=2).stderr
    assert "is not a readable video" in stderr
    assert "copy or record it again" in stderr


@pytest.mark.parametrize(
    ("name", "said"), [("line.mp4", "ffmpeg"), ("parts.zip", "unpack it"), ("a.png", "holds the file")]
)
def test_a_file_where_a_folder_belongs_is_named_with_a_fix(cli, tmp_path, name, said):
    (tmp_path / name).write_bytes(b"x")
    stderr = cli("train", tmp_path / name, "-o", tmp_path / "run", code=2).stderr
    assert "is not a folder" in stderr
    assert said in stderr


def test_a_camera_raw_file_that_opens_as_tiff_is_refused(tmp_path):
    (tmp_path / "x.nef").write_bytes(tiff((UPRIGHT, {})))
    with pytest.raises(ImageError, match=r"is a camera raw file.*preview") as caught:
        decode_image(tmp_path / "x.nef", channels=1)
    assert "develop" in caught.value.fix


def test_print_colours_are_refused_with_a_fix(tmp_path):
    Image.fromarray(UPRIGHT).convert("CMYK").save(tmp_path / "x.jpg")
    with pytest.raises(ImageError, match="unsupported kind: CMYK") as caught:
        decode_image(tmp_path / "x.jpg", channels=3)
    assert "-colorspace sRGB" in caught.value.fix
