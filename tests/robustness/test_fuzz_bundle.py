"""Damaged bundles: every file is refused in words of kdx's own, or changes no answer."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

import kdx
from kdx.bundle.open import open_bundle
from kdx.errors import BundleError
from kdx.storage.files import sha256_file

pytest.importorskip("hypothesis", reason="hypothesis is not installed: pip install -e '.[test]'")
if sys.platform != "linux":
    pytest.skip("the tools measure time and memory as Linux does", allow_module_level=True)

# The benchmark tries many more.
EXAMPLES = {"index": 150, "reference": 120, "training": 80, "engine": 150}


@pytest.fixture
def image(dataset) -> Path:
    return dataset / "train/good/000.png"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", sorted(EXAMPLES))
def test_damaged_files_are_refused_or_change_nothing(kind, bundle_copy, image) -> None:
    from tests.robustness.tools.fuzz import fuzz, targets_of

    for name, target in targets_of(kind, bundle_copy, image).items():
        found = fuzz(name, target, EXAMPLES[kind])
        assert found.faults == []
        assert found.tried >= 0.9 * EXAMPLES[kind]
        # Both ends of the scale were reached: what is damaged is seen, what is harmless is not
        # refused.
        assert 0 < found.accepted < found.tried
    open_bundle(bundle_copy)  # the tools put back what they damaged


def test_damaged_graphs_are_refused_beneath_their_hash(tool, tiny_bundle, image, tmp_path) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "tile.kdx")
    job = {"kind": "graph", "folder": str(tmp_path), "image": str(image), "examples": 150, "start": 1}
    # In a process of its own: a runtime that crashes takes its process with it.
    (found,) = tool("tests.robustness.tools.fuzz", job)
    assert found["faults"] == []
    assert found["tried"] >= 140
    assert found["accepted"] < found["tried"]


def test_the_tool_sees_what_is_wrong(bundle_copy, image, monkeypatch) -> None:
    """A reader that raises, reads elsewhere or answers otherwise must not pass unnoticed."""
    from tests.robustness.tools import fuzz as tools

    for fault in (KeyError("boom"), None):

        def broken(path, fault=fault):
            if fault:
                raise fault
            Path("/etc/hostname").open("rb").close()
            return open_bundle(path)

        targets = tools.targets_of("index", bundle_copy, image)
        monkeypatch.setattr(tools, "open_bundle", broken)
        found = tools.fuzz("index as JSON", targets["index as JSON"], 20)
        monkeypatch.undo()
        (text,) = found.faults
        assert ("KeyError: 'boom'" if fault else "opened outside the bundle: ['/etc/hostname']") in text


# What was found by them, one by one


def edit(bundle: Path, **changes: object) -> None:
    index = bundle / "bundle.json"
    index.write_text(json.dumps({**json.loads(index.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def rehash(bundle: Path, name: str) -> None:
    files = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))["files"]
    edit(bundle, files={**files, name: sha256_file(bundle / name)})


def test_an_index_that_is_nested_too_deep(cli, bundle_copy) -> None:
    index = bundle_copy / "bundle.json"
    text = index.read_text(encoding="utf-8").replace(
        '"pair_spec": {', '"pair_spec": {"a": ' + "[" * 9000 + "]" * 9000 + ","
    )
    index.write_text(text, encoding="utf-8")
    assert "is not valid" in cli("inspect", bundle_copy, code=2).stderr


@pytest.mark.parametrize(
    "changes",
    [
        {"max_batch": 0},
        {"max_batch": -1},
        {"map_size": [0, 64]},
        {"field_of_view": 0},
        {"field_of_view": 2},
        {"files": {"model.onnx": "00"}},
        {"golden": ["/etc/hostname"]},
        {"golden": ["../bundle.json"]},
    ],
    ids=str,
)
def test_values_that_no_bundle_has(bundle_copy, changes) -> None:
    edit(bundle_copy, **changes)
    with pytest.raises(BundleError, match="is not valid"):
        open_bundle(bundle_copy)


@pytest.mark.parametrize(
    "changes",
    [{"height": 0}, {"width": 10**9}, {"height": 131072, "width": 131072}, {"sixteen_bit_range": [7, 7]}],
    ids=str,
)
def test_inputs_that_no_camera_gives(bundle_copy, changes) -> None:
    edit(
        bundle_copy, input={**json.loads((bundle_copy / "bundle.json").read_text(encoding="utf-8"))["input"], **changes}
    )
    with pytest.raises(BundleError, match="is not valid"):
        open_bundle(bundle_copy)


def test_a_golden_image_elsewhere_is_not_read(bundle_copy, tmp_path) -> None:
    """``golden//tmp/x.png`` is inside the bundle, ``/tmp/x.png`` is not; pathlib confuses them."""
    inside, name = bundle_copy / "golden", str(tmp_path / "x.png")
    shutil.copy(inside / "0-good.png", name)
    (inside / name[1:]).parent.mkdir(parents=True)
    shutil.copy(name, inside / name[1:])
    index = json.loads((bundle_copy / "bundle.json").read_text(encoding="utf-8"))
    edit(
        bundle_copy,
        golden=[name, *index["golden"][1:]],
        files={**index["files"], f"golden/{name}": sha256_file(Path(name))},
    )
    with pytest.raises(BundleError, match="is not valid"):
        open_bundle(bundle_copy)


def test_names_that_the_system_does_not_take(cli, bundle_copy) -> None:
    index = json.loads((bundle_copy / "bundle.json").read_text(encoding="utf-8"))
    (bundle_copy / "loop").symlink_to("loop")
    itself = "is a link that leads back to itself"
    for name, said in {"a" * 5000: "cannot be read", "loop": itself, "loop/x": itself}.items():
        edit(bundle_copy, files={**index["files"], name: "0" * 64})
        with pytest.raises(BundleError, match=said):
            open_bundle(bundle_copy)


@pytest.mark.parametrize(
    ("kind", "shape"),
    # The last one ends the process when NumPy maps it.
    [("<f4", (1 << 40,)), ("<f4", (-1,)), ("<f4", (-4, -2)), ("<f8", (4,)), (">f4", (8,)), ("|V0", (-1,))],
    ids=str,
)
def test_a_reference_that_declares_what_it_does_not_hold(bundle_copy, kind, shape) -> None:
    maps = bundle_copy / "golden/anomaly_map.npy"
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    maps.write_bytes(b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text + bytes(32))
    rehash(bundle_copy, "golden/anomaly_map.npy")
    with pytest.raises(BundleError, match="cannot be read"):
        open_bundle(bundle_copy).golden()


@pytest.mark.parametrize("shape", [(), (0,), (8,), (8, 1, 64, 64), (8, 63, 64), (7, 64, 64)], ids=str)
def test_a_reference_of_another_shape(bundle_copy, shape) -> None:
    np.save(bundle_copy / "golden/anomaly_map.npy", np.zeros(shape, np.float32))
    rehash(bundle_copy, "golden/anomaly_map.npy")
    with pytest.raises(BundleError, match="do not match their reference"):
        open_bundle(bundle_copy).golden()


def test_golden_images_of_another_size(bundle_copy) -> None:
    from PIL import Image

    name = open_bundle(bundle_copy).manifest.golden[0]
    Image.new("L", (65, 64)).save(bundle_copy / "golden" / name)
    rehash(bundle_copy, f"golden/{name}")
    with pytest.raises(BundleError, match="has the wrong size"):
        open_bundle(bundle_copy).golden()


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[1]", b"[" * 5000, b'["\xff"]'], ids=["empty", "object", "number", "deep", "bytes"]
)
def test_training_images_that_are_no_list_of_hashes(bundle_copy, content) -> None:
    (bundle_copy / "training_images.json").write_bytes(content)
    rehash(bundle_copy, "training_images.json")
    with pytest.raises(BundleError, match="is not valid"):
        open_bundle(bundle_copy).training_images()


@pytest.mark.slow
def test_a_choice_that_no_backend_here_can_carry_out_is_made_again(tiny_bundle, monkeypatch, tmp_path) -> None:
    from kdx.verification import backend_choice as choice

    monkeypatch.setenv("KDX_CACHE_DIR", str(tmp_path))
    opened = open_bundle(tiny_bundle)
    first = choice.BackendChooser(opened, threads=1).fastest()
    if len(first.candidates) < 2:
        pytest.skip("one backend is installed: nothing is chosen")
    (file,) = (tmp_path / "choices").iterdir()
    for content in (b"[" * 9000, msgspec.json.encode(msgspec.structs.replace(first, backend="elsewhere"))):
        file.write_bytes(content)
        with kdx.load(tiny_bundle, threads=1) as detector:
            assert detector.backend.name in {candidate.backend for candidate in first.candidates}
