"""The check at the start of a shift: what it passes, and that each of its checks can fail."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest

from kdx.bundle.manifest import GOLDEN_SCORES
from kdx.bundle.open import open_bundle
from kdx.bundle.store import write_manifest
from kdx.errors import BackendError, OptionError
from kdx.loading.selftest import run_selftest
from kdx.storage.npy import encode_array
from tests.schema1 import old_bundle


@pytest.fixture
def bundle(tiny_bundle, tmp_path):
    return shutil.copytree(tiny_bundle, tmp_path / "tile.kdx")


def test_a_sound_bundle_passes_in_about_a_second(tiny_bundle, cli):
    result = cli("selftest", tiny_bundle, "--backend", "onnxruntime-cpu", "--budget-ms", 10_000, "--json").json
    assert result["passed"]
    assert [check["name"] for check in result["checks"]] == ["files", "golden", "latency"]
    assert (result["backend"], result["precision"]) == ("onnxruntime-cpu", "fp32")
    assert "0 verdicts flipped" in result["checks"][1]["said"]
    assert "within 10000 ms" in result["checks"][2]["said"]
    shown = cli("selftest", tiny_bundle, "--backend", "onnxruntime-cpu").stdout
    assert shown.rstrip().endswith("passed")
    assert "no budget to compare with" in shown


def test_a_bundle_that_was_never_calibrated_fails(raw_bundle, cli):
    result = cli("selftest", raw_bundle, "--backend", "onnxruntime-cpu", "--json", code=1).json
    assert [check["passed"] for check in result["checks"]] == [True, False]
    said = f"not calibrated: every verdict is undecided; run kdx calibrate {raw_bundle} DATA"
    assert result["checks"][1]["said"] == said


def test_an_altered_file_fails(bundle, cli):
    with (bundle / "model.onnx").open("r+b") as file:
        file.seek(100)
        file.write(b"\0\1\2")
    result = cli("selftest", bundle, "--json", code=1).json
    assert not result["passed"]
    (check,) = result["checks"]
    assert check["name"] == "files"
    assert "was altered" in check["said"]


def test_another_reference_fails(bundle, cli):
    # The files are whole, but the graph does not score as the reference did.
    opened = open_bundle(bundle)
    scores = opened.golden().scores * np.float32(1.01)
    (bundle / GOLDEN_SCORES).write_bytes(encode_array(scores))
    write_manifest(bundle, opened.manifest)
    result = cli("selftest", bundle, "--backend", "onnxruntime-cpu", "--json", code=1).json
    assert [check["passed"] for check in result["checks"]] == [True, False]
    assert "expected scores within 0.0001" in result["checks"][1]["said"]
    assert "do not start the line" in cli("selftest", bundle, "--backend", "onnxruntime-cpu", code=1).stdout


def test_a_missed_budget_fails(tiny_bundle, cli):
    result = cli("selftest", tiny_bundle, "--backend", "onnxruntime-cpu", "--budget-ms", 1e-6, "--json", code=1).json
    assert [check["passed"] for check in result["checks"]] == [True, True, False]
    assert "over the budget" in result["checks"][2]["said"]


def test_a_failing_runtime_fails_the_golden_images(tiny_bundle, monkeypatch):
    from kdx.errors import BackendError
    from kdx.runtime.onnxruntime.cpu import OnnxRuntimeCpu

    def fail(self, images):
        raise BackendError("the runtime failed")

    monkeypatch.setattr(OnnxRuntimeCpu, "run", fail)
    result = run_selftest(tiny_bundle, "onnxruntime-cpu")
    assert [check.passed for check in result.checks] == [True, False]
    assert result.checks[1].said == "the runtime failed"


def test_a_remembered_backend_that_fails_now_is_replaced_as_in_load(tiny_bundle, monkeypatch, tmp_path):
    pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'kdx[openvino]'")
    monkeypatch.setenv("KDX_CACHE_DIR", str(tmp_path))
    remembered = run_selftest(tiny_bundle, threads=1)
    assert remembered.passed

    def fail(self, images):
        raise BackendError("its driver was updated")

    classes = {"openvino": "openvino.backend.OpenVino", "onnxruntime-cpu": "onnxruntime.cpu.OnnxRuntimeCpu"}
    monkeypatch.setattr(f"kdx.runtime.{classes[remembered.backend]}.run", fail)
    result = run_selftest(tiny_bundle, threads=1)
    assert result.passed, result
    assert result.backend != remembered.backend


def test_golden_images_go_through_the_graph_in_the_batches_of_a_frames_tiles(tmp_path, monkeypatch):
    from kdx.runtime.backend import Outputs
    from kdx.runtime.onnxruntime.cpu import OnnxRuntimeCpu

    run = OnnxRuntimeCpu.run

    def wrong_in_batches(self, images):
        maps, scores = run(self, images)
        return Outputs(maps, scores * np.float32(1 if len(images) == 1 else 1.01))

    bundle = old_bundle("tiled", tmp_path)
    assert run_selftest(bundle, "onnxruntime-cpu").checks[1].passed
    monkeypatch.setattr(OnnxRuntimeCpu, "run", wrong_in_batches)
    golden = run_selftest(bundle, "onnxruntime-cpu").checks[1]
    assert not golden.passed
    assert re.search(r"golden images in batches of [2-9]: ", golden.said)


@pytest.mark.parametrize("budget", ["nan", "inf", "0", "-1"])
def test_a_budget_that_is_kept_whatever_happens_is_refused(tiny_bundle, cli, budget):
    for command in ("selftest", "bench"):
        stderr = cli(command, tiny_bundle, "--backend", "onnxruntime-cpu", f"--budget-ms={budget}", code=2).stderr
        assert "invalid --budget-ms" in stderr


def test_what_cannot_be_asked_is_refused(tiny_bundle, cli):
    with pytest.raises(OptionError, match="percentile"):
        run_selftest(tiny_bundle, "onnxruntime-cpu", budget_ms=5, percentile=100)
    with pytest.raises(OptionError, match="too few runs"):
        run_selftest(tiny_bundle, "onnxruntime-cpu", runs=0)
    assert "too few runs" in cli(
        "selftest", tiny_bundle, "--backend", "onnxruntime-cpu", "--percentile", 99, "--runs", 5, code=2
    ).stderr  # fmt: skip
    assert "no backend" in cli("selftest", tiny_bundle, "--backend", "abacus", code=1).stdout.lower()
