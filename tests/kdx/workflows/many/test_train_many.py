"""A bundle for each product of a catalogue: what is wrong is said before any is trained, and what
is done stands."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
from msgspec.structs import replace

import kdx
from kd_train.training.run_folder import Run
from kdx.bundle.manifest import SIGNATURE
from kdx.bundle.open import open_bundle
from kdx.errors import DataError, OptionError
from kdx.folders.data_folder import open_folder
from kdx.storage.json_records import encode_record
from kdx.storage.locks import locked_output
from kdx.workflows.many import engines, product
from kdx.workflows.many.catalog import read_catalog
from kdx.workflows.many.orders import orders_of
from kdx.workflows.many.product_records import CatalogSummary, ProductOrder
from tests.kdx.archive.faults import arm, write_hook
from tests.platforms import needs_links

DEFAULTS = """
[defaults]
backbone = "test_resnet"
weights = "random"
image_size = 64
batch_size = 4
epochs = 1
validation_fraction = 0.5
learning_rate = 0.05
workers = 0
device = "cpu"
false_reject_rate = 0.2
backend = "onnxruntime-cpu"
"""


def catalog(folder: Path, text: str) -> Path:
    path = folder / "catalog.toml"
    path.write_text(DEFAULTS + text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[products.tile]\ndata = "x"\nepoch = 3', r"\[products.tile\] has an unknown key 'epoch'\n  expected: epochs"),
        (
            '[products.tile]\ndata = "C:\\new\\tile"',
            r"data holds a line break.*\n  received: .*\n  fix: in double quotes",
        ),
        ('[products.tile]\ndata = "x"\nweights = "w\\t.pth"', r"weights holds a line break"),
        ('[products.tile]\ndata = "x"\ndistance = "cosine"', r"'distance' is no longer a key\n  fix: leave it out"),
        ('[products.tile]\ndata = "x"\nsize = 3', r"unknown key 'size'\n  expected: batch_size or image_size\n"),
        ('[products.tile]\ndata = "x"\nimage-size = 3', r"unknown key 'image-size'\n  expected: image_size"),
        ('[product.tile]\ndata = "x"', r"unknown table 'product'\n  expected: products"),
        ("[products.tile]\nepochs = 3", r"\[products.tile\] names no data"),
        ('[products.tile]\ndata = "x"\nepochs = "many"', r"received: epochs = 'many'"),
        ('[products.tile]\ndata = "x"\nscore = "mean"', "expected: max or sum"),
        ('[products.tile]\ndata = "x"\nprecisions = ["fp8"]', "received: fp8"),
        ('[products.tile]\ndata = "x"\nfalse_reject_rate = 1.5', "false_reject_rate is out of range"),
        ('[products."a/b"]\ndata = "x"', "is not usable as a file's name"),
        ('[products]\ntile = "x"', r"\[products.tile\] is not a table"),
        ("", "names no product"),
    ],
)
def test_what_a_catalogue_must_not_say(tmp_path, text, said):
    with pytest.raises(OptionError, match=said):
        read_catalog(catalog(tmp_path, text))


def test_a_catalogue_that_is_no_toml(tmp_path):
    with pytest.raises(DataError, match="is not valid TOML"):
        read_catalog(catalog(tmp_path, "products.tile = ["))
    with pytest.raises(DataError, match=r"not valid TOML: .*\n  fix: in double quotes"):
        read_catalog(catalog(tmp_path, '[products.tile]\ndata = "D:\\parts"'))
    with pytest.raises(
        DataError, match=r"cannot be read: No such file.*\n.*\n  fix: the page 'Scale-out' of the documentation shows"
    ):
        read_catalog(tmp_path / "missing.toml")


def test_a_catalogue_of_windows_is_read(tmp_path):
    path = tmp_path / "catalog.toml"
    path.write_bytes(b"\xef\xbb\xbf[products.tile]\r\ndata = 'parts'\r\n")  # as its editor writes it
    assert read_catalog(path)["tile"].data == str(tmp_path / "parts")


@pytest.mark.skipif(os.sep != "/", reason="there the path is right")
def test_a_windows_path_names_a_fix(tmp_path):
    with pytest.raises(OptionError, match=r"there is no 'parts\\tile'\n  fix: separate folders by /"):
        read_catalog(catalog(tmp_path, "[products.tile]\ndata = 'parts\\tile'"))


def test_products_override_defaults_and_paths_are_the_catalogues(tmp_path):
    products = read_catalog(
        catalog(
            tmp_path,
            'method = "dual-det"\noptions = { part = "kd" }\n'
            '[products.a]\ndata = "x/a"\nepochs = 7\nweights = "w.safetensors, imagenet"\nparts = "parts.csv"\n'
            '[products.b]\ndata = "/abs/b"\nmethod = "stpm"\n',
        )
    )
    a, b = products["a"], products["b"]
    assert (a.data, a.epochs, a.method, a.options) == (str(tmp_path / "x/a"), 7, "dual-det", {"part": "kd"})
    assert a.weights == f"{tmp_path / 'w.safetensors'},imagenet"
    assert a.files == [tmp_path / "w.safetensors", tmp_path / "parts.csv"]
    assert (b.data, b.epochs) == ("/abs/b", 1)
    assert b.options == {}  # those of the defaults belong to the defaults' method


def test_no_product_is_trained_when_one_is_not_possible(cli, dataset, tmp_path):
    text = f'[products.a]\ndata = "{dataset}"\n[products.b]\ndata = "{dataset}"\nmethod = "stpn"\n'
    stderr = cli("train-many", catalog(tmp_path, text), "-o", tmp_path / "out", code=2).stderr
    assert "[products.b]: " in stderr
    assert "stpn" in stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("workers = 5000", "[products.a]: workers is out of range"),  # also an option of the command
        ("sigma = 100.0", "[products.a]: sigma is out of range"),  # the key of another name
        ("group_by = '('", "[products.a]: group_by is not a regular expression"),
        # What export and calibration would refuse after the training.
        ("review_rate = nan", "[products.a]: the review rate is out of range"),
        ("max_batch = 0", "[products.a]: max_batch is out of range"),
        ("backend = 'x'", "[products.a]: there is no backend 'x'"),
        ("input_size = [0, 0]", "[products.a]: input_size is out of range"),
        ("frame = [128, 128]", "[products.a]: frame has no effect without tiles"),
        ("tile = 64\ninput_size = [64, 64]", "[products.a]: input_size is for whole images"),
        ("crop = [0, 0, 32, 32]\ninput_size = [80, 80]", "[products.a]: crop and input_size exclude each other"),
        ("precision = 'int8'", "[products.a]: precision = int8 has no effect"),
    ],
)
def test_errors_of_a_catalogue_name_its_keys_and_where_they_are_listed(cli, dataset, tmp_path, key, said):
    text = f'[products.a]\ndata = "{dataset}"\n{key}\n'
    stderr = cli("train-many", catalog(tmp_path, text), "-o", tmp_path / "out", code=2).stderr
    assert said in stderr
    assert "the page 'Scale-out' of the documentation lists the keys" in stderr or "leave it out" in stderr


def test_an_unknown_key_says_where_keys_are_listed(tmp_path):
    with pytest.raises(OptionError, match="the page 'Scale-out' of the documentation lists the keys"):
        read_catalog(catalog(tmp_path, '[products.a]\ndata = "x"\nepoch = 3'))


def results_of(out: Path) -> dict[str, dict]:
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    return {product["name"]: product for product in summary["products"]}


@pytest.mark.slow
def test_products_are_made_each_for_itself_and_a_second_call_resumes(cli, dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(write_hook(tmp_path / "hook")))
    out, frames = tmp_path / "out", Path(shutil.copytree(dataset, tmp_path / "tile"))
    # Its process is killed once, and started again.
    armed = arm((frames / "train/good/000.png").rename(frames / "train/good/kills-once.png"))
    text = '[products.bolt]\ndata = "missing"\n[products.tile]\ndata = "tile"\nmax_batch = 1\n'
    arguments = ("train-many", catalog(tmp_path, text), "-o", out)
    first = cli(*arguments, code=1)
    assert "tile: its process died (killed by SIGKILL) and is started again" in first.stderr
    assert "bolt failed:" in first.stdout
    assert not armed.exists()
    bolt, tile = (results_of(out)[name] for name in ("bolt", "tile"))
    assert (bolt["state"], tile["state"]) == ("failed", "trained")
    assert "missing' does not exist" in bolt["error"]["message"]
    assert (tile["train_images"], tile["held_out_images"], tile["epochs"]) == (6, 6, 1)
    assert 0 <= tile["image_auroc"] <= 1
    assert 0 <= tile["false_reject_rate"] <= 1
    with kdx.load(out / "tile.kdx", "onnxruntime-cpu") as detector:
        assert detector.threshold == tile["threshold"]
    assert not (out / "bolt.kdx").exists()
    assert not (out / "staged").exists()

    began = (out / "tile.kdx/bundle.json").stat().st_mtime_ns
    options = ()
    if find_spec("ray") is not None:  # and it goes on wherever the next call works
        options = ("--engine", "ray", "--threads", 1, "--workers", 1)
    second = cli(*arguments, *options, "--json", code=1).json
    assert (second["trained"], second["unchanged"], second["failed"]) == (0, 1, 1)
    assert results_of(out)["tile"] == {**tile, "state": "unchanged"}
    assert (out / "tile.kdx/bundle.json").stat().st_mtime_ns == began


def order_of(folder: Path, data: Path, text: str = "") -> ProductOrder:
    entry = read_catalog(catalog(folder, f'[products.a]\ndata = "{data}"\n{text}'))["a"]
    return ProductOrder(name="a", product=entry, out=str(folder / "out"), threads=1)


def test_what_decides_a_bundle_is_in_its_fingerprint(dataset_copy, tmp_path):
    def fingerprint(data: Path, text: str = "") -> str:
        return product.product_fingerprint(order_of(tmp_path, data, text), open_folder(data))

    first = fingerprint(dataset_copy)
    assert fingerprint(dataset_copy, "workers = 1\ndevice = 'cuda'\nmemory_mib = 99") == first
    assert fingerprint(Path(shutil.copytree(dataset_copy, tmp_path / "moved"))) == first
    assert fingerprint(dataset_copy, "seed = 1") != first
    assert fingerprint(dataset_copy, "false_reject_rate = 0.3") != first
    (dataset_copy / "test/good/012.png").unlink()
    assert fingerprint(dataset_copy) != first


def test_training_resumes_where_a_call_stopped_and_starts_again_for_other_options(dataset, tmp_path, monkeypatch):
    trained: list[bool] = []
    real = product._train

    def stop_after_training(order, *, resume):
        real(order, resume=resume)
        trained.append(resume)
        raise RuntimeError("the power is gone")

    monkeypatch.setattr(product, "_train", stop_after_training)
    order = order_of(tmp_path, dataset)
    first = product.make(order)
    assert (first.state, first.error["type"]) == ("failed", "Bug")
    assert "the power is gone" in first.error["message"]
    began = (order.run / "last.json").stat().st_mtime_ns
    product.make(order)
    assert (order.run / "last.json").stat().st_mtime_ns == began  # nothing was trained again
    product.make(order_of(tmp_path, dataset, "seed = 1"))
    assert (order.run / "last.json").stat().st_mtime_ns != began
    assert trained == [False, True, False]


@pytest.mark.slow
def test_a_product_of_an_earlier_release_is_skipped(dataset, tiny_bundle, run_copy, tmp_path, monkeypatch):
    """Its fingerprint is recorded as the new one."""
    order = order_of(tmp_path, dataset)
    finished_product(order, run_copy)
    shutil.copytree(tiny_bundle, order.bundle)
    checkpoint = open_bundle(order.bundle).manifest.provenance.checkpoint_sha256
    kept = replace(product._result(order, "trained", "of roles unknown"), checkpoint_sha256=checkpoint)
    product.keep(order, kept)
    monkeypatch.setattr(product, "is_of_earlier_kdx", lambda *_: True)
    assert product.make(order).state == "unchanged"
    monkeypatch.undo()
    assert product.make(order).state == "unchanged"


def finished_product(order: ProductOrder, run: Path) -> None:
    """Put a finished run in the place of a product's, as a call left it that died after it."""
    order.run.parent.mkdir(parents=True)
    run.rename(order.run)
    product.keep(order, product._result(order, "begun", product.product_fingerprint(order, product._open(order))))


@pytest.mark.slow
def test_what_follows_the_last_epoch_is_done_by_the_next_call(dataset_copy, tmp_path, monkeypatch):
    """Border weights are measured after the last epoch, and remarks are only in the result."""
    shutil.copy(dataset_copy / "train/good/001.png", dataset_copy / "train/good/copy.png")
    order = order_of(tmp_path, dataset_copy, 'border_weights = "on"')

    class Killed(BaseException):
        """What ends the process: no failure is recorded."""

    def die(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("kd_train.training.students.measure_border_weights", die)
        with pytest.raises(Killed):
            product.make(order)
    assert Run(order.run).checkpoint("last").epoch == 1
    trained = product._train(order, resume=True)
    Run(order.run).require_finished()
    assert any("is a copy of another" in str(each) for each in trained.remarks)


def test_a_run_that_cannot_be_continued_is_named_with_what_a_catalogue_can_do(dataset, run_copy, tmp_path):
    order = order_of(tmp_path, dataset, "seed = 5\nepochs = 2")
    finished_product(order, run_copy)
    error = product.make(order).error
    assert "cannot be resumed: " in error["message"]
    assert error["fix"].startswith(f"delete '{order.run}' and run the same command again")


def test_a_product_that_failed_before_its_images_were_read_is_continued(dataset_copy, tmp_path, monkeypatch):
    order = order_of(tmp_path, dataset_copy)
    begun = product._result(order, "begun", product.product_fingerprint(order, product._open(order)))
    product.keep(order, begun)
    dataset_copy.rename(tmp_path / "elsewhere")
    assert product.make(order).state == "failed"
    assert product.kept_result(order).state == "failed"
    (tmp_path / "elsewhere").rename(dataset_copy)
    asked: list[bool] = []

    def stop(*_: object, resume: bool) -> None:
        asked.append(resume)
        raise RuntimeError

    monkeypatch.setattr(product, "_make", stop)
    assert product.make(order).fingerprint == begun.fingerprint
    assert asked == [True]


def test_a_failure_before_anything_was_begun_leaves_what_is_finished(dataset_copy, tiny_bundle, tmp_path):
    """Else the next call would replace the bundle, with the threshold that a person set in it."""
    order = order_of(tmp_path, dataset_copy)
    shutil.copytree(tiny_bundle, order.bundle)
    finished = replace(
        product._result(order, "trained", product.product_fingerprint(order, product._open(order))),
        checkpoint_sha256=open_bundle(order.bundle).manifest.provenance.checkpoint_sha256,
    )
    product.keep(order, finished)
    dataset_copy.rename(tmp_path / "share that is not mounted")
    assert product.make(order).state == "failed"
    assert engines._died(order, "killed", "").state == "failed"
    (tmp_path / "share that is not mounted").rename(dataset_copy)
    assert product.make(order) == replace(finished, state="unchanged")


@pytest.mark.parametrize("how", ["dies", "fails"])
def test_an_old_run_is_not_continued_by_the_call_after_one_that_died(dataset, run_copy, tmp_path, monkeypatch, how):
    """What the old run learnt would be published under the fingerprint of the new options."""
    order, changed = order_of(tmp_path, dataset), order_of(tmp_path, dataset, "seed = 5")
    finished_product(order, run_copy)
    asked: list[bool] = []

    class Killed(BaseException):
        """What ends the process: no failure is recorded."""

    def stop(*_: object, resume: bool) -> None:
        asked.append(resume)
        raise Killed if how == "dies" else RuntimeError

    monkeypatch.setattr(product, "_make", stop)
    for _ in range(3):  # the second and third have the fingerprint of the first
        with pytest.raises(Killed) if how == "dies" else contextlib.nullcontext():
            product.make(changed)
    assert asked == [False, False, False]
    # The new run exists now: a call that dies later continues it.
    config = Run(order.run).config
    (order.run / "run.json").write_bytes(encode_record(replace(config, seed=5)))
    for _ in range(2):
        with pytest.raises(Killed) if how == "dies" else contextlib.nullcontext():
            product.make(changed)
    assert asked[3:] == [True, True]


@pytest.mark.slow
def test_a_product_gets_an_int8_stage(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("kd_train.training.quantization._EPOCHS", 1)
    monkeypatch.setattr("kdx.verification.decisions.decision_faults", lambda *_: [])
    keys = "precision = 'int8'\nprecisions = ['fp32', 'int8']\n"
    order = order_of(tmp_path, dataset, keys)
    result = product.make(order)
    assert (result.error, result.refused) == (None, {})
    assert open_bundle(order.bundle).manifest.provenance.int8.epoch == 1
    shutil.rmtree(order.run / "int8")
    monkeypatch.setattr("kd_train.training.train.quantize", _stop)
    shutil.rmtree(order.bundle)
    assert product.make(order).error["message"] == "RuntimeError: the stage is trained", "as it is not there"


def _stop(*_: object, **__: object) -> None:
    raise RuntimeError("the stage is trained")


OTHER_RESULTS = ("results/plot.png", "results/stpm-64.json", "teachers/a.json")  # of kdx fit and others


@pytest.mark.parametrize("name", ["thesis.txt", "tile.kdx", *OTHER_RESULTS])
def test_a_folder_of_something_else_is_refused(cli, dataset, tmp_path, name):
    out = tmp_path / "out"
    out.mkdir()
    path = catalog(out, f'[products.a]\ndata = "{dataset}"\n')
    (out / name).parent.mkdir(exist_ok=True)
    content = '{"candidate": {}, "name": "a", "state": "retired"}' if name.endswith(".json") else "precious"
    (out / name).write_text(content, encoding="utf-8")
    stderr = cli("train-many", path, "-o", out, code=2).stderr
    assert f"'{out}' exists and is not of kdx train-many" in stderr
    assert "choose another --out" in stderr
    assert sorted(each.relative_to(out).as_posix() for each in out.rglob("*.*")) == ["catalog.toml", name]


def test_a_folder_with_the_catalogue_alone_is_taken(dataset, tmp_path):
    path = catalog(tmp_path, f'[products.a]\ndata = "{dataset}"\n')
    (tmp_path / "results").mkdir()  # of a call that was killed
    (order,) = orders_of(path, tmp_path, "local", None, 1)
    product.keep(order, product._result(order, "begun", ""))
    (tmp_path / "notes.txt").write_text("the user's own", encoding="utf-8")
    assert orders_of(path, tmp_path, "local", None, 1) == [order]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such locks")
def test_a_folder_in_which_another_call_works_is_left_alone(cli, dataset, tmp_path):
    out = tmp_path / "out"
    (out / "results").mkdir(parents=True)
    path = catalog(tmp_path, f'[products.a]\ndata = "{dataset}"\n')
    with locked_output(out / "results", "kdx train-many", out):
        stderr = cli("train-many", path, "-o", out, code=2).stderr
    assert f"another kdx train-many is working in '{out}'" in stderr
    assert [each.name for each in out.rglob("*")] == ["results"]


@pytest.mark.parametrize("json", [(), ("--json",)])
def test_the_result_is_printed_where_the_summary_cannot_be_written(cli, tmp_path, monkeypatch, json):
    (tmp_path / "out/summary.json").mkdir(parents=True)  # as on a full disk, nothing can be written there
    failed = product.failed(order_of(tmp_path, tmp_path / "missing"), {"message": "it is missing"})
    summary = CatalogSummary(
        schema=1, catalog="c", engine="local", trained=0, unchanged=0, failed=1, seconds=0.0, created="",
        products=[failed],
    )  # fmt: skip
    monkeypatch.setattr("kdx.workflows.many.orders.orders_of", lambda *_: [])
    monkeypatch.setattr("kdx.workflows.many.orders.make_all", lambda *_: summary)
    result = cli("train-many", tmp_path / "catalog.toml", "-o", tmp_path / "out", *json, code=2)
    assert "directory" in result.stderr + result.stdout
    assert "it is missing" in result.stdout


@pytest.mark.slow
def test_frames_in_tiles_with_a_level_map(large_frames, tmp_path, monkeypatch):
    keys = 'tile = 64\nframe = [96, 160]\noverlap = 32\ntile_batch = 2\nper_position = true\nbackbone = "test_resnet"\n'
    monkeypatch.setattr("kdx.imaging.tiling.SEAM_TOLERANCE", -1.0)
    result = product.make(order_of(tmp_path, large_frames, keys))
    assert result.error is None
    assert "seams" in {each.kind for each in result.remarks}
    manifest = open_bundle(tmp_path / "out/a.kdx").manifest
    assert (manifest.input.height, manifest.camera.height, manifest.camera.width) == (64, 96, 160)
    assert (manifest.tiling.batch, manifest.tiling.overlap) == (2, 32)
    assert manifest.level_sha256 is not None
    assert product.make(order_of(tmp_path, large_frames, keys)).state == "unchanged"


def test_a_folder_in_a_bundles_place_is_not_touched(dataset, tmp_path, monkeypatch):
    (tmp_path / "out/a.kdx").mkdir(parents=True)
    (tmp_path / "out/a.kdx/thesis.txt").write_text("precious", encoding="utf-8")
    result = product.make(order_of(tmp_path, dataset))
    assert result.state == "failed"
    assert "exists and is no bundle" in result.error["message"]
    assert (tmp_path / "out/a.kdx/thesis.txt").read_text(encoding="utf-8") == "precious"


def test_a_product_whose_process_always_dies_fails_alone(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(write_hook(tmp_path / "hook")))
    frames = Path(shutil.copytree(dataset, tmp_path / "nut"))
    (frames / "train/good/000.png").rename(frames / "train/good/kills.png")
    said: list[str] = []
    orders = [order_of(tmp_path, frames), replace(order_of(tmp_path, tmp_path / "missing"), name="b")]
    dead, missing = sorted(engines.run_local(orders, 2, 1, said.append), key=lambda result: result.name)
    assert dead.error["message"] == "its process died: killed by SIGKILL"
    assert "memory" in dead.error["fix"]
    assert "does not exist" in missing.error["message"]
    assert said == ["a: its process died (killed by SIGKILL) and is started again"]
    assert product.kept_result(orders[0]) == dead


def exit_at_once(connection: object, order: object) -> None:
    raise SystemExit(70)


def test_a_process_that_exits_is_not_said_to_lack_memory(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "serve_order", exit_at_once)
    (dead,) = engines.run_local([order_of(tmp_path, dataset)], 1, 0, print)
    assert dead.error["message"] == "its process died: exit status 70"
    assert "memory" not in dead.error["fix"]
    assert "read what it wrote above" in dead.error["fix"]


@pytest.mark.slow
@needs_links
def test_what_is_odd_and_what_is_replaced_is_in_the_products_result(dataset_copy, tiny_bundle, tmp_path):
    import numpy as np
    from PIL import Image

    for path in dataset_copy.glob("t*/*/*.png"):
        with Image.open(path) as image:
            values = np.asarray(image.convert("L")).astype(np.uint16) * 16
        Image.fromarray(values).save(path)
    (dataset_copy / "ground_truth/scratch/016_mask.png").unlink()
    for name in ("train/good/gone.png", "test/good/lost.png"):
        (dataset_copy / name).symlink_to("nowhere.png")
    for path in dataset_copy.glob("train/good/0*.png"):  # of these, half were trained on, and half chose the threshold
        shutil.copy(path, dataset_copy / "test/good")
    order = order_of(tmp_path, dataset_copy, "max_bad_images = 1")
    (shutil.copytree(tiny_bundle, order.bundle) / SIGNATURE).write_text("{}", encoding="utf-8")
    result = product.make(order)
    assert result.error is None
    said = {one.kind: str(one) for one in result.remarks}
    assert str(said["gone_with_replaced"]) == "1 thing of the replaced bundle is gone: signature"
    assert said["trained_on"].startswith("6 test images were trained on")
    assert said["calibrated_on"].startswith("6 of 16 good images chose the threshold")
    assert "32 16-bit images hold values from" in said["narrow_range"]
    assert "1 of 4 defective images has no mask" in said["without_mask"]
    assert re.match(r"2 images that cannot be read were skipped: .*gone\.png' is a .*lost\.png' is a", said["skipped"])
