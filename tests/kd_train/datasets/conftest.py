"""Pictures, files and checks that the tests of all data sets share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from kdx.errors import DataError, KdxError
from kdx.folders.data_folder import ImageFolder
from kdx.imaging.images import decode_image, read_header
from kdx.imaging.masks import read_mask
from tests.images import cell_paths

SIZE = (48, 40)


@pytest.fixture(scope="session")
def picture() -> Callable[..., Image.Image]:
    """Return a real solar cell, the same one for the same number."""

    paths = cell_paths()

    def make(number: int = 0, size: tuple[int, int] = SIZE, mode: str = "L") -> Image.Image:
        return Image.open(paths[number % len(paths)]).convert(mode).resize(size)

    return make


@pytest.fixture
def write(picture) -> Callable[..., Path]:
    """Write a real picture, another one for each file of a test; or a mask with a defect."""
    count = 0

    def save(path: Path, *, is_mask: bool = False, size: tuple[int, int] = SIZE, mode: str = "L") -> Path:
        nonlocal count
        path.parent.mkdir(parents=True, exist_ok=True)
        count += 1
        image = picture(count, size, mode)
        if is_mask:
            image = Image.new("L", size)
            image.paste(255, (4, 4, 12, 12))
        image.save(path)
        return path

    return save


@pytest.fixture(scope="session")
def refused() -> Callable[..., object]:
    """Expect a user error with expected, received and fix, and with some phrases."""

    @contextmanager
    def check(*phrases: str, error: type[KdxError] = DataError) -> Iterator[None]:
        with pytest.raises(error) as caught:
            yield
        assert caught.value.expected
        assert caught.value.received
        assert caught.value.fix
        for phrase in phrases:
            assert phrase in str(caught.value)

    return check


@pytest.fixture
def forbid(monkeypatch) -> Callable[[Path], None]:
    """Make a folder or file unreadable, also for root, who runs the tests in containers."""
    forbidden: set[Path] = set()
    original = {name: getattr(Path, name) for name in ("iterdir", "open", "read_bytes")}

    def guard(name: str):
        def guarded(self: Path, *args, **kwargs):
            if self in forbidden:
                raise PermissionError(13, "Permission denied", str(self))
            return original[name](self, *args, **kwargs)

        return guarded

    for name in original:
        monkeypatch.setattr(Path, name, guard(name))
    return forbidden.add


@pytest.fixture(scope="session")
def counts() -> Callable[[ImageFolder], dict[str, int]]:
    """Count test images by type; check that every image can be read and every mask fits it."""

    def count(folder: ImageFolder) -> dict[str, int]:
        for path in folder.good:
            decode_image(path, channels=3)
        for image in folder.test:
            width, height, _ = read_header(image.path)
            if image.mask is not None:
                assert read_mask(image.mask, (width, height)).any()
        assert len({path.name for path in folder.good}) == len(folder.good)  # runs record them by name
        assert not {*folder.good} & {image.path for image in folder.test}
        return dict(Counter(image.defect_type for image in folder.test))

    return count
