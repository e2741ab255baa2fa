"""A product's options have the same hash in every release: trained products stay valid.

The hashes were computed before the options came from one table.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from PIL import Image

from kd_train.reproduction.runs import ReproduceOptions
from kd_train.training.options import TrainOptions
from kd_train.training.run_folder import Run
from kdx.folders.data_folder import open_folder
from kdx.storage.files import sha256_bytes
from kdx.storage.json_records import encode_record
from kdx.workflows.fit.request import FitRequest
from kdx.workflows.many.catalog import read_catalog
from kdx.workflows.many.fingerprints import is_of_earlier_kdx, product_fingerprint
from kdx.workflows.many.product_records import ProductOrder, ProductResult
from tests.images import solar_cells

CATALOGUES = {
    "defaults": "",
    "train": 'category = "screw"\nmethod = "dual-det"\noptions = { part = "kd" }\nbackbone = "resnet18"\nepochs = 3\n'
    "image_size = 64\ncrop_from = 80\nbatch_size = 4\nlearning_rate = 0.05\ntaps = 'layer1,layer2'\n"
    "combine = 'sum'\nscore = 'max'\nsigma = 1.5\nseed = 7\ntrain_fraction = 0.5\nvalidation_fraction = 0.25\n"
    "group_by = 'part(\\d+)'\nchannels = 3\nsixteen_bit_range = [0, 4095]\nmax_bad_images = 2\n",
    "weights": "weights = 'imagenet, w.safetensors'\nparts = 'parts.csv'\n",
    "later": "subfolders = true\ngood_folders = ['fine', 'gut']\nodd_images = 'skip'\nchannels = 'auto'\n",
    "one of the later": "good_folders = ['fine']\nchannels = 1\n",
    "bundle": "checkpoint = 'best'\ninput_size = [48, 64]\nchannel_order = 'bgr'\nmax_batch = 4\n"
    "precisions = ['fp32', 'int8']\nfalse_reject_rate = 0.2\nreview_rate = 0.3\nbackend = 'onnxruntime-cpu'\n",
    "machine": "workers = 0\nmemory_mib = 99\ndevice = 'cuda'\n",
}
RECORDED = {
    "defaults": "4c345f2c33773ead",
    "train": "a085f0d2bf8ebe97",
    "weights": "356ce9ef741a0d90",
    "later": "b2847e1a915c60fe",
    "one of the later": "b9678f1da6bac77a",
    "bundle": "50896051bfaddbbb",
    "machine": "4c345f2c33773ead",
}
FIT = {
    "backbone": "resnet18", "blur_sigma": 1.5, "channels": "1", "crop_from": 0, "good_folders": ["fine"],
    "method_options": {"maps": "1"}, "odd_images": "keep", "parts": "parts.csv", "seed": 3,
    "sixteen_bit_range": [0, 4095], "subfolders": True, "tile": 128,
}  # fmt: skip
PAPER = {name: value for name, value in FIT.items() if name not in {"parts", "seed"}} | {"image_size": 64}


def decisive(folder: Path, keys: str) -> bytes:
    path = folder / "catalog.toml"
    path.write_text(f"[products.p]\ndata = 'x'\n{keys}", encoding="utf-8")
    return msgspec.json.encode(read_catalog(path)["p"].decisive)


@pytest.mark.parametrize("name", CATALOGUES)
def test_a_product_has_the_fingerprint_that_it_had(tmp_path, name):
    assert sha256_bytes(decisive(tmp_path, CATALOGUES[name]))[:16] == RECORDED[name]


GIVEN = TrainOptions(
    method="dskd",
    category="screw",
    subfolders=True,
    good_folders=("fine",),
    backbone="resnet18",
    image_size=64,
    tile=128,
    crop_from=0,
    blur_sigma=1.5,
    seed=3,
    parts=Path("parts.csv"),
    sixteen_bit_range=(0, 4095),
    channels="1",
    odd_images="keep",
    method_options={"maps": "1"},
    resume=True,
    force=True,
    workers=0,
    memory_mib=99,
    max_bad_images=7,
    device="cpu",
)


def as_json(value: object) -> object:
    return msgspec.json.decode(msgspec.json.encode(value))


def test_fit_records_the_training_options_that_it_recorded():
    request = FitRequest(Path("x"), Path("y"), 1.0, 95.0, (), (64,), ("fp32",), 1, None, 0.01, training=GIVEN)
    assert as_json(request.asked()) == FIT
    assert replace(request, training=TrainOptions()).asked() == {}


def test_reproduce_records_the_training_options_that_it_recorded():
    options = ReproduceOptions("dskd", Path("x"), Path("y"), training=replace(GIVEN, parts=None))
    assert as_json(options.asked()) == PAPER


def test_a_later_key_is_hashed_where_it_is_given(tmp_path):
    plain = decisive(tmp_path, "")
    later = ("tile = 64", "frame = [96, 128]", "overlap = 8", "tile_batch = 2", "per_position = true")
    for keys in (*later, "precision = 'int8'"):
        name = keys.partition(" ")[0]
        assert name not in msgspec.json.decode(plain)
        assert name in msgspec.json.decode(decisive(tmp_path, keys))


def test_a_compact_teachers_files_are_hashed_by_their_role(tmp_path):
    """An image that is moved from the good ones to the further ones makes another product."""
    from kd_train.datasets import open_data

    for name in ("good", "further", "kept"):
        (tmp_path / name).mkdir()
    for index, pixels in enumerate(solar_cells(4, (32, 32))):
        Image.fromarray(pixels).save(tmp_path / "good" / f"{index}.png")
    shutil.copy(tmp_path / "good/0.png", tmp_path / "further/a.png")
    (tmp_path / "kept/run.json").write_text("{}", encoding="utf-8")
    (tmp_path / "kept/teacher.safetensors").write_bytes(b"teacher")
    catalog = tmp_path / "catalog.toml"

    def fingerprint() -> list[str]:
        catalog.write_text(
            "[defaults]\nteacher_epochs = 3\nbackbone = 'compact-s'\nextra_images = ['further']\n"
            "[products.a]\ndata = 'good'\n[products.b]\ndata = 'good'\nteacher_from = 'kept'\n",
            encoding="utf-8",
        )
        products = read_catalog(catalog)
        absolute = catalog.read_text(encoding="utf-8").replace("'kept'", f"'{tmp_path / 'kept'}'")
        catalog.write_text(absolute, encoding="utf-8")
        assert read_catalog(catalog) == products
        # A teacher that exists has learnt already: what the defaults say of others is not for it.
        assert (products["b"].teacher_epochs, products["b"].extra_images) == (None, ())
        assert products["b"].teacher_from == str(tmp_path / "kept")
        folder = open_data(tmp_path / "good")
        return [product_fingerprint(SimpleNamespace(product=each), folder) for each in products.values()]

    before = fingerprint()
    assert fingerprint() == before
    (tmp_path / "kept/teacher.safetensors").write_bytes(b"another")
    assert [one == other for one, other in zip(before, fingerprint(), strict=True)] == [True, False]
    (tmp_path / "good/1.png").rename(tmp_path / "further/1.png")
    assert fingerprint()[0] != before[0]


def order_of(data: Path, out: Path) -> ProductOrder:
    catalog = out.parent / "catalog.toml"
    catalog.write_text(f"[products.a]\ndata = '{data}'\nmethod = 'stpm'\n", encoding="utf-8")
    return ProductOrder(name="a", product=read_catalog(catalog)["a"], out=str(out), threads=1)


@pytest.mark.parametrize(
    ("name", "moved"),
    [
        ("train/good/001.png", "test/scratch"),  # an inspector has found a defect
        ("test/scratch/016.png", "train/good"),
        ("test/good/012.png", "train/good"),
        ("test/scratch/016.png", "test/dent"),
    ],
)
def test_an_image_of_another_label_makes_another_product(dataset_copy, tmp_path, name, moved):
    order = order_of(dataset_copy, tmp_path / "out")
    before = product_fingerprint(order, open_folder(dataset_copy))
    (dataset_copy / moved).mkdir(exist_ok=True)
    shutil.move(dataset_copy / name, dataset_copy / moved)
    assert product_fingerprint(order, open_folder(dataset_copy)) != before


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' file names are text")
def test_a_name_that_is_no_utf8_has_a_fingerprint(dataset_copy, tmp_path):
    odd = Path(os.fsdecode(os.fsencode(dataset_copy / "train/good") + b"/\xff.png"))
    shutil.copy(dataset_copy / "train/good/000.png", odd)
    order = order_of(dataset_copy, tmp_path / "out")
    before = product_fingerprint(order, open_folder(dataset_copy))
    odd.unlink()
    assert product_fingerprint(order, open_folder(dataset_copy)) != before


@pytest.mark.parametrize("change", ["none", "label", "image", "not finished"])
def test_a_product_that_an_earlier_release_finished_is_kept(dataset_copy, run_copy, tmp_path, change):
    """Its fingerprint, without roles, was computed by that release."""
    order = order_of(dataset_copy, tmp_path / "out")
    order.run.parent.mkdir(parents=True)
    run_copy.rename(order.run)
    recorded = earlier_fingerprint(order, dataset_copy)
    state = "begun" if change == "not finished" else "trained"
    kept = ProductResult(name="a", method="stpm", state=state, fingerprint=recorded)
    used = next(iter(Run(order.run).config.train_images))
    if change == "label":
        shutil.move(dataset_copy / "train/good" / used, dataset_copy / "test/scratch")
        assert earlier_fingerprint(order, dataset_copy) == recorded
    if change == "image":
        (dataset_copy / "test/good/012.png").unlink()
    assert is_of_earlier_kdx(order, open_folder(dataset_copy), kept) is (change == "none")


def earlier_fingerprint(order: ProductOrder, data: Path) -> str:
    files = list(data.rglob("*.png"))
    hashes = sorted(f"{path.name} {sha256_bytes(path.read_bytes())}" for path in files)
    contents = sha256_bytes("\n".join(hashes).encode())
    return sha256_bytes(msgspec.json.encode([order.product.decisive, contents]))


def test_the_students_to_start_from_are_hashed_and_not_needed_again(tmp_path, tiny_run):
    from kd_train.datasets import open_data
    from kd_train.training.run_config import InitialStudents

    (tmp_path / "good").mkdir()
    for index, pixels in enumerate(solar_cells(3, (32, 32))):
        Image.fromarray(pixels).save(tmp_path / "good" / f"{index}.png")
    earlier, own = (Path(shutil.copytree(tiny_run, tmp_path / name)) for name in ("earlier", "own"))
    catalog = tmp_path / "catalog.toml"
    catalog.write_text("[products.a]\ndata = 'good'\ninit = 'earlier'\n", encoding="utf-8")
    product = read_catalog(catalog)["a"]
    assert product.train_options().init == earlier

    def fingerprint() -> str:
        return product_fingerprint(SimpleNamespace(product=product, run=own), open_data(tmp_path / "good"))

    run = Run(earlier)
    checkpoint = run.checkpoint(run.config.recipe.checkpoint)
    students = InitialStudents(
        run=str(earlier), checkpoint_sha256=checkpoint.sha256, teacher_sha256="", epoch=1, data_sha256=""
    )
    config = msgspec.structs.replace(Run(own).config, init=students)
    (own / "run.json").write_bytes(encode_record(config))
    before = fingerprint()
    earlier.rename(tmp_path / "moved")
    assert fingerprint() == before
    (tmp_path / "moved").rename(earlier)
    other = encode_record(msgspec.structs.replace(checkpoint, sha256="1"))
    for name in ("last", "best"):
        (earlier / f"{name}.json").write_bytes(other)
    assert fingerprint() != before
