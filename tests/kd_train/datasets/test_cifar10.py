"""CIFAR-10 in torchvision's folder, cifar-10-batches-py: five training batches, a test batch."""

from __future__ import annotations

import hashlib
import os
import pickle
import struct
from importlib import util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kd_train.datasets import categories, cifar10, open_data, recognise
from kdx.errors import OutputError


class Python2Pickler(pickle._Pickler):
    """Writes pickles as Python 2 does, like the published files: bytes and text are the same."""

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

    def save_string(self, value):
        data = value if isinstance(value, bytes) else value.encode("latin1")
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = save_string


def write_batch(path: Path, batch: object) -> str:
    with path.open("wb") as file:
        Python2Pickler(file, protocol=2).dump(batch)
    data = path.read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    path.write_bytes(data)
    return hashlib.md5(data).hexdigest()


@pytest.fixture
def images(picture):
    """Real pictures by batch: one of each class in a training batch, two in the test batch."""
    names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
    labels = {name: list(range(10)) * (2 if name == "test_batch" else 1) for name in names}
    pixels = {
        name: np.stack([np.asarray(picture(100 * batch + i, (32, 32), "RGB")) for i in range(len(labels[name]))])
        for batch, name in enumerate(names)
    }
    return {name: (pixels[name], labels[name]) for name in names}


@pytest.fixture
def root(images, tmp_path, monkeypatch):
    home = tmp_path / "torchvision/cifar-10-batches-py"
    home.mkdir(parents=True)
    sums = {}
    for name, (pixels, labels) in images.items():
        data = pixels.transpose(0, 3, 1, 2).reshape(len(labels), -1)
        batch = {"data": data, "labels": labels, "batch_label": name, "filenames": [f"{i}.png" for i in labels]}
        sums[name] = write_batch(home / name, batch)
    monkeypatch.setattr(cifar10, "_MD5", sums)
    return tmp_path / "torchvision"


@pytest.fixture
def home(root):
    return root / "cifar-10-batches-py"


def test_one_class_is_good(root, counts, images):
    folder = open_data(root, "bird")
    assert (folder.dataset, folder.category, len(folder.good)) == ("cifar10", "bird", 5)
    assert counts(folder) == {name: 2 for name in cifar10._CLASSES if name != "bird"} | {"good": 2}
    assert all(image.mask is None for image in folder.test)
    first = images["data_batch_1"][0][2]
    assert np.array_equal(np.asarray(Image.open(folder.good[0])), first)
    assert np.array_equal(np.asarray(Image.open(folder.good[4])), images["data_batch_5"][0][2])
    ship = [image.path for image in folder.test if image.defect_type == "ship"]
    assert np.array_equal(np.asarray(Image.open(ship[1])), images["test_batch"][0][18])


def test_facts(root, home):
    assert len(categories(root)) == 10
    assert (recognise(root).key, recognise(root).image_size) == ("cifar10", 32)
    assert recognise(home) == recognise(root)


def test_class_is_needed(root, refused):
    with refused("10 categories of CIFAR-10", "airplane, automobile, bird"):
        open_data(root)


def test_unpacked_once_for_all_classes(root, tmp_path, monkeypatch):
    folder = open_data(root, "bird")
    assert folder.root.parent == root / ".kdx-cache"
    monkeypatch.setattr(cifar10, "_unpack", None)
    assert open_data(root, "bird") == folder
    assert len(open_data(root, "truck").good) == 5


def test_cache_where_it_is_wanted(root, tmp_path):
    assert open_data(root, "bird", cache=tmp_path / "here").root.parent == tmp_path / "here"


def test_cache_of_the_user_where_the_data_may_not_be_written(root, tmp_path, monkeypatch):
    original = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: str(root) not in str(path) and original(path, mode))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    assert open_data(root, "bird").root.parent == tmp_path / "user/kdx/datasets"


def test_nothing_may_be_written(root, refused, tmp_path):
    (tmp_path / "file").touch()
    with refused("the unpacked images cannot be written anywhere", str(tmp_path / "file"), error=OutputError):
        open_data(root, "bird", cache=tmp_path / "file")


def test_missing_batch(root, home, refused):
    (home / "data_batch_4").unlink()
    with refused("data_batch_4' cannot be read: No such file", "cifar-10-python.tar.gz"):
        open_data(root, "bird")


def test_forbidden_batch(root, home, refused, forbid):
    forbid(home / "data_batch_4")
    with refused("data_batch_4' cannot be read: Permission denied"):
        open_data(root, "bird")


def test_altered_batch_is_not_even_unpickled(root, home, refused, monkeypatch):
    monkeypatch.setattr(cifar10, "_Unpickler", None)
    data = (home / "data_batch_1").read_bytes()
    (home / "data_batch_1").write_bytes(data[: len(data) // 2])
    with refused("data_batch_1' is not the published file", cifar10._MD5["data_batch_1"]):
        open_data(root, "bird")
    assert not list((root / ".kdx-cache").iterdir())  # nothing half unpacked stays


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("pwned",)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (Malicious(), "it calls posix.mkdir"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0]}, "2 images and 1 labels"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": [10]}, "1 images and 1 labels"),
        ({"data": np.zeros((1, 3000), np.uint8), "labels": [0]}, "ValueError"),
        ({"labels": [0]}, "KeyError"),
        ([1, 2], "TypeError"),
    ],
    ids=["function", "labels", "class", "shape", "no data", "no batch"],
)
def test_only_batches_are_unpickled(root, home, refused, monkeypatch, tmp_path, batch, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(cifar10._MD5, "data_batch_2", write_batch(home / "data_batch_2", batch))
    with refused("data_batch_2' cannot be unpacked", message):
        open_data(root, "bird")
    assert not (tmp_path / "pwned").exists()


def test_damaged_pickles_are_data_errors(root, home, refused, monkeypatch):
    rng = np.random.default_rng(0)
    original = (home / "data_batch_2").read_bytes()
    for _ in range(40):
        data = bytearray(original[: rng.integers(1, 200)])
        for position in rng.integers(0, len(data), 3):
            data[position] = rng.integers(256)
        (home / "data_batch_2").write_bytes(data)
        monkeypatch.setitem(cifar10._MD5, "data_batch_2", hashlib.md5(data).hexdigest())
        with refused("data_batch_2' cannot be unpacked"):
            open_data(root, "bird")


def test_the_sums_are_those_of_torchvision():
    found = util.find_spec("torchvision")
    if found is None:
        pytest.skip("torchvision is not installed")
    source = (Path(found.submodule_search_locations[0]) / "datasets/cifar.py").read_text(encoding="utf-8")
    for name, md5 in cifar10._MD5.items():
        assert f'["{name}", "{md5}"]' in source
