"""CIFAR-10 as one-class classification: one class is good, the other nine are defects."""

from __future__ import annotations

import hashlib
import io
import pickle  # only through _Unpickler, and only for files with the published checksums
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from kd_train.datasets.layout import AGAIN, DatasetInfo, Layout, Location, is_folder
from kd_train.datasets.unpack import Unpacker
from kdx.errors import DataError
from kdx.folders.data_folder import GOOD, ImageFolder, TestImage, folders, image_files
from kdx.imaging.images import encode_png

_FOLDER = "cifar-10-batches-py"
_TRAIN, _TEST = "train", "test"
_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# The checksums of the published files, as in torchvision.datasets.CIFAR10.
_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}


class _Unpickler(pickle.Unpickler):
    """Unpickles arrays and nothing else.

    A pickle may call any function; the data set's files need only three.
    """

    # NumPy 2 moved the first one; an array's own __reduce__ gives it in every version.
    _ALLOWED = {  # noqa: RUF012 (never changed)
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it calls {module}.{name}")
        return self._ALLOWED[module, name]


def _find(root: Path) -> Location | None:
    for home in (root / _FOLDER, root):
        if is_folder(home) and (home.name == _FOLDER or (home / "data_batch_1").is_file()):
            return Location(home)
    return None


def _categories(home: Path) -> tuple[str, ...]:
    return _CLASSES


def _open(home: Path, category: str, unpacker: Unpacker) -> ImageFolder:
    # One folder serves all ten choices of the good class.
    root = unpacker.folder(home, "cifar10", _MD5, lambda target: _unpack(home, target, unpacker))
    test = [
        TestImage(path, GOOD if folder.name == category else folder.name, None)
        for folder in folders(root / _TEST)
        for path in image_files(folder)
    ]
    return ImageFolder(root, "cifar10", image_files(root / _TRAIN / category), tuple(test))


def _unpack(home: Path, target: Path, unpacker: Unpacker) -> None:
    """Write every image as ``train/CLASS/NNNNN.png`` or ``test/CLASS/NNNNN.png``.

    The numbers follow the order of the images in the batches.
    """
    count = {_TRAIN: 0, _TEST: 0}
    batches = {name: _read(home / name, md5) for name, md5 in _MD5.items()}
    for part in count:
        for name in _CLASSES:
            (target / part / name).mkdir(parents=True)
    with unpacker.progress.task("unpacking CIFAR-10", len(batches)) as task:
        for name, (images, labels) in batches.items():
            part = _TEST if name.startswith(_TEST) else _TRAIN
            for image, label in zip(images, labels, strict=True):
                path = target / part / _CLASSES[label] / f"{count[part]:05d}.png"
                path.write_bytes(encode_png(image))
                count[part] += 1
            task.advance()


def _read(path: Path, md5: str) -> tuple[NDArray[np.uint8], list[int]]:
    """Read a batch: images ``(N, 32, 32, 3)`` and their labels.

    Raises:
        DataError: The file is missing, cannot be read, or is not the published one.
    """
    try:
        data = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise DataError(
            f"'{path}' cannot be read: {error.strerror}",
            expected=f"the files {', '.join(_MD5)} in '{path.parent}'",
            received=type(error).__name__,
            fix="unpack cifar-10-python.tar.gz again, and check that you have permission to read its files",
        ) from error
    received = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if received != md5:
        raise DataError(
            f"'{path}' is not the published file: it was altered, or the download is incomplete",
            expected=f"MD5 {md5}",
            received=f"MD5 {received}, {len(data):,} bytes",
            fix=AGAIN,
        )
    try:
        batch = _Unpickler(io.BytesIO(data), encoding="latin1").load()
        images = np.asarray(batch["data"], np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        labels = [int(label) for label in batch["labels"]]
        if len(labels) != len(images) or not all(0 <= label < len(_CLASSES) for label in labels):
            raise ValueError(f"{len(images)} images and {len(labels)} labels")
    # The errors of a damaged pickle are not all documented ("including but not necessarily limited
    # to").
    except Exception as error:
        raise DataError(
            f"'{path}' cannot be unpacked",
            expected="a batch of images (N × 3072 bytes) and N labels from 0 to 9",
            received=f"{type(error).__name__}: {error}",
            fix=AGAIN,
        ) from error
    return cast(NDArray[np.uint8], np.ascontiguousarray(images)), labels


LAYOUT = Layout(
    DatasetInfo(
        key="cifar10",
        title="CIFAR-10",
        source="A. Krizhevsky: Learning multiple layers of features from tiny images. 2009.",
        image_size=32,
        split="one class at a time: its training images to train on, its test images as good ones and those of the "
        "nine other classes as defective ones to test on",
    ),
    looked_for="CIFAR-10: cifar-10-batches-py with data_batch_1 to 5 and test_batch",
    find=_find,
    categories=_categories,
    open=_open,
)
