"""Runs and bundles that are incomplete, altered, too new or dangerous."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdx.bundle.open import open_bundle
from kdx.errors import BundleError
from kdx.storage.files import sha256_file
from tests.platforms import needs_links


def edit_index(path: Path, **changes: object) -> None:
    """Change entries of a JSON index."""
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def add_file(bundle: Path, name: str, digest: str) -> None:
    """List one more file in a bundle's index."""
    files = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))["files"]
    edit_index(bundle / "bundle.json", files={**files, name: digest})


def tensors_of(run: Path) -> Path:
    return run / json.loads((run / "last.json").read_text(encoding="utf-8"))["file"]


def flip_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.fixture
def export(cli, tmp_path):
    return lambda run, *options, code=2: cli("export", run, "-o", tmp_path / "out.kdx", *options, code=code)


# Checkpoints


def test_missing_run(export, tmp_path):
    assert "there is no run folder" in export(tmp_path / "nowhere").stderr


def test_runs_and_bundles_are_not_mistaken_for_each_other(cli, export, tiny_run, tiny_bundle):
    assert f"'{tiny_bundle}' is not a run folder but a bundle" in export(tiny_bundle).stderr
    stderr = cli("verify", tiny_run, code=2).stderr
    assert f"'{tiny_run}' is not a bundle but a run folder" in stderr
    assert f"kdx export {tiny_run} -o NAME.kdx" in stderr


def test_a_file_is_not_a_bundle(cli, tmp_path):
    (tmp_path / "tile.kdx").write_text("packed", encoding="utf-8")
    assert "is a file, and a bundle is a folder" in cli("verify", tmp_path / "tile.kdx", code=2).stderr


@pytest.mark.parametrize("name", ["run.json", "last.json"])
def test_run_with_a_missing_record(export, run_copy, name):
    (run_copy / name).unlink()
    assert f"'{name}' is missing" in export(run_copy).stderr


def test_run_with_missing_tensors(export, run_copy):
    tensors = tensors_of(run_copy)
    tensors.unlink()
    assert f"'{tensors.name}' is missing" in export(run_copy).stderr


def test_run_with_altered_tensors(export, run_copy):
    flip_byte(tensors_of(run_copy))
    stderr = export(run_copy).stderr
    assert "was altered" in stderr
    assert stderr.count("sha256 ") == 2


def test_run_with_a_missing_golden_image(export, run_copy, tmp_path):
    (run_copy / "golden/0-good.png").unlink()
    assert "0-good.png' does not exist" in export(run_copy).stderr
    assert not (tmp_path / "out.kdx").exists()


def test_run_of_a_newer_schema(export, run_copy):
    edit_index(run_copy / "run.json", schema=99)
    stderr = export(run_copy).stderr
    assert "was written by a newer kdx" in stderr
    assert "schema 99" in stderr


def test_run_of_a_newer_schema_with_another_layout_is_called_newer(export, run_copy):
    (run_copy / "run.json").write_text('{"schema": 99, "something": "else"}', encoding="utf-8")
    assert "was written by a newer kdx" in export(run_copy).stderr


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"schema": "one"}'])
def test_run_with_a_damaged_record(export, run_copy, text):
    (run_copy / "run.json").write_bytes(text)
    assert "is not valid" in export(run_copy).stderr


def test_run_that_names_a_file_outside(export, run_copy):
    edit_index(run_copy / "last.json", file="../elsewhere.safetensors")
    assert "names a file outside the run" in export(run_copy).stderr


def test_run_whose_tensors_do_not_fit(export, run_copy):
    from safetensors.torch import load_file, save_file

    path = tensors_of(run_copy)
    state = load_file(path)
    state.pop(next(name for name in state if name.startswith("student.") and name.endswith(".weight")))
    save_file(state, path)
    edit_index(run_copy / "last.json", sha256=sha256_file(path))
    assert "does not fit its pair" in export(run_copy).stderr


# Bundles


@pytest.mark.parametrize("command", ["predict", "evaluate", "calibrate", "verify", "bench", "inspect"])
def test_every_command_refuses_an_altered_bundle(cli, bundle_copy, dataset, command):
    flip_byte(bundle_copy / "model.onnx")
    data = {"predict": [dataset / "test/good"], "evaluate": [dataset], "calibrate": [dataset]}.get(command, [])
    stderr = cli(command, bundle_copy, *data, code=2).stderr
    assert f"'model.onnx' in '{bundle_copy}' was altered" in stderr
    assert stderr.count("sha256 ") == 2


@pytest.mark.parametrize("name", ["model.onnx", "golden/anomaly_map.npy", "golden/0-good.png", "training_images.json"])
def test_bundle_with_a_missing_file(cli, bundle_copy, name):
    (bundle_copy / name).unlink()
    assert f"'{name}' is missing" in cli("inspect", bundle_copy, code=2).stderr


@pytest.mark.parametrize("name", ["golden/anomaly_score.npy", "golden/0-good.png", "training_images.json"])
def test_bundle_with_an_altered_file(bundle_copy, name):
    flip_byte(bundle_copy / name)
    with pytest.raises(BundleError, match="was altered"):
        open_bundle(bundle_copy)


def test_bundle_that_does_not_list_a_file_it_needs(bundle_copy):
    files = json.loads((bundle_copy / "bundle.json").read_text(encoding="utf-8"))["files"]
    del files["model.onnx"]
    edit_index(bundle_copy / "bundle.json", files=files)
    with pytest.raises(BundleError, match=r"does not list 'model\.onnx'"):
        open_bundle(bundle_copy)


@pytest.mark.parametrize(("name", "share"), [("dark", 64), ("bright", -0.5)])
def test_bundle_with_a_share_that_is_none(bundle_copy, name, share):
    limits = json.loads((bundle_copy / "bundle.json").read_text(encoding="utf-8"))["frame_limits"]
    edit_index(bundle_copy / "bundle.json", frame_limits=limits | {name: share})
    with pytest.raises(BundleError, match=rf"frame_limits\.{name}"):  # with 64, no frame would be black
        open_bundle(bundle_copy)


def test_bundle_without_an_index(cli, bundle_copy):
    (bundle_copy / "bundle.json").unlink()
    assert "bundle.json is missing" in cli("inspect", bundle_copy, code=2).stderr


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"schema": 1}', b'{"schema": "one"}'])
def test_bundle_with_a_damaged_index(cli, bundle_copy, text):
    (bundle_copy / "bundle.json").write_bytes(text)
    assert "bundle.json'" in cli("inspect", bundle_copy, code=2).stderr


@pytest.mark.parametrize("record", ["run.json", "bundle.json"])
def test_index_with_damaged_text(export, cli, run_copy, bundle_copy, record):
    folder = run_copy if record == "run.json" else bundle_copy
    data = (folder / record).read_bytes()
    (folder / record).write_bytes(data.replace(b"stpm", b"st\xff\xfe", 1))
    result = export(folder, code=None) if record == "run.json" else cli("inspect", folder, code=None)
    assert result.exit_code == 2


@pytest.mark.parametrize("schema", [0, -1, True, 1.5])
def test_a_schema_that_never_existed(cli, export, bundle_copy, run_copy, schema):
    edit_index(bundle_copy / "bundle.json", schema=schema)
    edit_index(run_copy / "run.json", schema=schema)
    for stderr in (cli("inspect", bundle_copy, code=2).stderr, export(run_copy).stderr):
        assert "is not valid" in stderr
        assert "newer" not in stderr
        assert isinstance(schema, (bool, float)) or f"there is no schema {schema}" in stderr


@pytest.mark.parametrize("content", [{"schema": 99}, {"schema": 99, "files": 7}])
def test_bundle_of_a_newer_schema(cli, bundle_copy, content):
    edit_index(bundle_copy / "bundle.json", **content)
    stderr = cli("inspect", bundle_copy, code=2).stderr
    assert "was written by a newer kdx" in stderr
    assert "schema 99" in stderr


@pytest.mark.parametrize("name", ["../secret.txt", "golden/../../secret.txt", "ABSOLUTE", "..\\secret.txt", "C:secret"])
def test_bundle_that_names_a_file_outside(bundle_copy, name):
    secret = bundle_copy.parent / "secret.txt"
    secret.write_text("secret", encoding="utf-8")
    add_file(bundle_copy, str(secret) if name == "ABSOLUTE" else name, sha256_file(secret))
    with pytest.raises(BundleError, match="names a file outside the bundle"):
        open_bundle(bundle_copy)


def test_bundle_that_names_an_impossible_file(cli, bundle_copy):
    add_file(bundle_copy, "a\0b", "00")
    cli("inspect", bundle_copy, code=2)


@needs_links
def test_bundle_with_a_link_that_leads_to_other_content(bundle_copy):
    secret = bundle_copy.parent / "secret.txt"
    secret.write_text("secret", encoding="utf-8")
    for name in ("model.onnx", "golden/anomaly_map.npy"):
        kept = (bundle_copy / name).rename(bundle_copy.parent / "kept")
        (bundle_copy / name).symlink_to(secret)
        with pytest.raises(
            BundleError, match=rf"'{name}' .* is a link to a file outside the bundle(.|\n)*cp -rL"
        ) as caught:
            open_bundle(bundle_copy)
        assert sha256_file(secret) not in str(caught.value)
        kept.replace(bundle_copy / name)
    open_bundle(bundle_copy)


@needs_links
def test_a_link_to_a_bundle_opens(tiny_bundle, tmp_path):
    (tmp_path / "link.kdx").symlink_to(tiny_bundle)
    assert open_bundle(tmp_path / "link.kdx").manifest == open_bundle(tiny_bundle).manifest


def test_rubbish_with_a_right_hash_is_a_backend_error(cli, bundle_copy, dataset):
    (bundle_copy / "model.onnx").write_bytes(b"rubbish")
    add_file(bundle_copy, "model.onnx", sha256_file(bundle_copy / "model.onnx"))
    index = json.loads((bundle_copy / "bundle.json").read_text(encoding="utf-8"))
    index["threshold"] = None  # it belonged to the graph
    (bundle_copy / "bundle.json").write_text(json.dumps(index), encoding="utf-8")
    assert "cannot load" in cli("predict", bundle_copy, dataset / "test/good", code=2).stderr


def test_pickled_reference_is_not_loaded(cli, bundle_copy):
    import numpy as np

    np.save(bundle_copy / "golden/anomaly_map.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    add_file(bundle_copy, "golden/anomaly_map.npy", sha256_file(bundle_copy / "golden/anomaly_map.npy"))
    assert "cannot be read" in cli("verify", bundle_copy, code=2).stderr


def test_a_missing_field_is_not_taken_for_an_option(cli, bundle_copy, dataset):
    """A field of the file may bear the name of an option of the command that reads it."""
    index = bundle_copy / "bundle.json"
    threshold = json.loads(index.read_text(encoding="utf-8"))["threshold"]
    del threshold["false_reject_rate"]
    edit_index(index, threshold=threshold)
    stderr = cli("calibrate", bundle_copy, dataset, code=2).stderr
    assert "missing required field 'false_reject_rate'" in stderr
    assert "--false-reject-rate" not in stderr
