"""Damaged image files: an ImageError, or pixels of the size that the file declares."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdx.errors import ImageError
from kdx.imaging.images import InputSpec, decode_image, read_header, read_image

pytest.importorskip("hypothesis", reason="hypothesis is not installed: pip install -e '.[test]'")
if sys.platform != "linux":
    pytest.skip("the tools measure time and memory as Linux does", allow_module_level=True)

EXAMPLES = 400
SIZE = (40, 48)
UNSUPPORTED = {
    *("jpeg-cmyk", "tiff-cmyk", "tiff-float", "eps", "png-palette"),  # of the palette, a used colour is transparent
    *("gif-frames", "png-frames", "webp-frames", "tiff-pages", "mpo"),
}


@pytest.fixture(scope="module")
def grey(make_images) -> Image.Image:
    return make_images(1)[0].resize(SIZE)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_damaged_images_are_refused_or_decoded(grey, tmp_path) -> None:
    from tests.robustness.tools.fuzz import fuzz, image_target

    grey.save(tmp_path / "real.png")
    found = fuzz("image", image_target(tmp_path / "real.png", tmp_path), EXAMPLES)
    assert found.faults == []
    assert found.tried >= 0.9 * EXAMPLES
    assert 0.05 * found.tried < found.accepted < 0.9 * found.tried


def test_whole_images_of_every_kind(grey, tmp_path) -> None:
    from tests.robustness.tools.damage import image_files

    expected = np.asarray(grey)
    for name, data in image_files(grey).items():
        file = tmp_path / "x.png"  # whatever it is called
        file.write_bytes(data)
        if name in UNSUPPORTED:
            with pytest.raises(ImageError):
                decode_image(file, channels=1)
            continue
        for channels in (1, 3):
            pixels = decode_image(file, channels=channels)
            assert pixels.dtype == np.uint8
            assert pixels.shape == (*read_header(file)[1::-1], channels), name
        if name in {"png-grey", "png-16-bit", "bmp-grey", "tiff-grey", "tiff-deflate", "tiff-16-bit", "gif"}:
            np.testing.assert_array_equal(decode_image(file, channels=1)[..., 0], expected, err_msg=name)


@pytest.mark.parametrize("name", ["png-grey", "bmp-colour", "jpeg-colour", "tiff-grey", "gif", "ppm"])
def test_bombs_are_refused_before_memory_is_taken(grey, tmp_path, name) -> None:
    from tests.robustness.tools.damage import declares, image_files

    file = tmp_path / "bomb.png"
    file.write_bytes(declares(name, image_files(grey)[name], 60000, 60000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for spec in (InputSpec(height=8, width=8), InputSpec(height=8, width=8, fixed_size=False)):
        with pytest.raises(ImageError, match="too many pixels"):
            read_image(file, spec)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB; 3.6 gigapixels are declared


def test_no_other_program_decodes_an_image(grey, tmp_path, monkeypatch) -> None:
    """Pillow hands PostScript to Ghostscript, whatever the file is called."""
    from tests.robustness.tools.damage import image_files

    started = []
    monkeypatch.setattr("subprocess.Popen", lambda *a, **k: started.append(a))
    (tmp_path / "x.png").write_bytes(image_files(grey)["eps"])
    with pytest.raises(ImageError, match="is not a readable image"):
        decode_image(tmp_path / "x.png", channels=1)
    assert started == []


@pytest.mark.parametrize(
    "error", [KeyError("x"), ZeroDivisionError(), OverflowError("y"), RuntimeError("z"), AttributeError()]
)
def test_whatever_a_decoder_raises_is_a_damaged_image(grey, tmp_path, monkeypatch, error) -> None:
    grey.save(tmp_path / "x.png")

    def broken(self: object) -> None:
        raise error

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", broken)
    with pytest.raises(ImageError, match=r"is damaged: \S"):
        decode_image(tmp_path / "x.png", channels=1)


def test_too_little_memory_is_not_called_damage(grey, tmp_path, monkeypatch) -> None:
    grey.save(tmp_path / "x.png")

    def short(self: object) -> None:
        raise MemoryError

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", short)
    with pytest.raises(ImageError, match="fit into the free memory"):
        decode_image(tmp_path / "x.png", channels=1)


def test_turned_images_are_read_alike(grey, tmp_path) -> None:
    """What read_header says before training must be what decode_image gives in it."""
    from tests.robustness.tools.damage import image_files

    for name in ("jpeg-turned", "tiff-turned", "png-turned", "webp-turned"):
        file = Path(tmp_path / name)
        file.write_bytes(image_files(grey)[name])
        width, height, _ = read_header(file)
        assert decode_image(file, channels=1).shape == (height, width, 1), name
