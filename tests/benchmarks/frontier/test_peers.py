"""Peers, with a toy in the place of another library: trained, exported, run and judged."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'kdx[openvino]'")
from benchmarks.frontier import peer_exports, peers
from benchmarks.frontier.loaders import as_floats
from benchmarks.frontier.peers import PeerOptions, PeerTraining, Runner
from benchmarks.results import this_cpu
from kdx.errors import TrainingError
from kdx.imaging.images import encode_png
from tests.benchmarks.frontier import toy_peer

OPTIONS = {"peer": "anomalib", "model": "Toy", "image_size": 64, "validation_fraction": 0.5}
VARIANTS = ["fp32", "bf16", "int8"]


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Let the toy be the peer, and its process a call; return the commands that were run."""
    ran: list[list[str]] = []

    def run(command: list[str], **_: Any) -> Any:
        ran.append(command)
        monkeypatch.setattr(sys, "argv", command[4:])
        peer_exports.main()
        return SimpleNamespace(returncode=0)

    runners = (
        Runner("fp32", "openvino", "good", "brightness"),
        Runner("fp32", "onnxruntime-cpu", "good", "brightness"),
        Runner("bf16", "openvino", "good", "crash"),
        Runner("int8", "openvino", "broken", "brightness"),
    )
    monkeypatch.setattr(peers, "subprocess", SimpleNamespace(run=run))
    monkeypatch.setattr(peers, "RUNNERS", {"anomalib": runners})
    monkeypatch.setattr(peers, "_LOADERS", "tests.benchmarks.frontier.toy_peer")
    monkeypatch.setattr(peers, "offers_bf16", lambda: True)
    monkeypatch.setattr(peer_exports, "import_module", lambda _: toy_peer)
    return ran


def training(data: Path, folder: Path, **options: Any) -> PeerTraining:
    return PeerTraining(data, PeerOptions(**{**OPTIONS, **options}), folder, sys.executable, 0.2)


def test_a_peer_is_trained_once_and_judged_by_kdx(commands: list[Any], dataset: Path, tmp_path: Path) -> None:
    made = training(dataset, tmp_path / "peer", seed=3)
    (row,) = made.measure(VARIANTS, {"pair": "toy"})
    figures = row["test"]["fp32"]
    assert list(row["test"]) == ["fp32"]
    assert (figures["good"], figures["defective"]) == (4, 4)
    assert all(0 <= figures[name] <= 1 for name in ("image_auroc", "pixel_auroc", "pro", "false_reject_rate"))
    assert row["refused"]["int8"] == "ValueError: no such layer"
    assert row["unable"]["bf16"]["reason"].startswith("it does not run: the worker died (killed by SIGABRT)")
    assert row["unable"]["bf16"]["on"] == this_cpu()
    assert (figures["backend"], figures["on"]) == ("openvino", this_cpu())
    assert (row["pair"], row["images"], row["facts"]) == ("toy", {"train": 6, "held_out": 6}, {"seed": 3})
    assert row["seconds"]["students"] == 1.5
    assert row["versions"]["numpy"] == np.__version__
    assert made.size() == {"graph_bytes": {"fp32": 101, "bf16": 101}, "images": [64, 64]}
    assert [(each.precision, each.backends, each.python) for each in made.variants()] == [
        ("fp32", ("openvino",), (sys.executable,)),
        ("fp32", ("onnxruntime-cpu",), (sys.executable,)),
        ("bf16", ("openvino",), (sys.executable,)),
    ]
    list(training(dataset, tmp_path / "peer", seed=3).measure(["int8"], {}))
    assert len(commands) == 1


def test_of_random_weights_nothing_but_latency_is_measured(
    commands: list[Any], dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "offers_bf16", lambda: False)
    made = training(dataset, tmp_path / "peer", weights="random")
    (row,) = made.measure(VARIANTS, {})
    assert row["test"] == {}
    reasons = ["random weights: latency alone", "random weights: latency alone", "ValueError: no such layer"]
    assert [row["refused"][variant] for variant in VARIANTS] == reasons
    assert [each.precision for each in made.variants()] == ["fp32", "fp32"]  # what OpenVINO chooses is FP32 there


def test_without_bf16_a_cpu_is_named_and_only_what_it_lacked_is_tried_elsewhere(
    commands: list[Any], dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "offers_bf16", lambda: False)
    made = training(dataset, tmp_path / "peer")
    (row,) = made.measure(["bf16"], {**this_cpu()})
    assert row["unable"] == {"bf16": {"reason": "no BF16", "on": this_cpu()}}
    monkeypatch.setattr(peers, "offers_bf16", lambda: True)
    tried = []
    made = training(dataset, tmp_path / "peer")
    monkeypatch.setattr(made, "_evaluated", lambda variant: tried.append(variant.precision) or {})
    (row,) = made.measure(["fp32", "bf16"], {**row, "test": {"fp32": {"pro": 0.5}}})
    assert tried == ["bf16"]
    assert (row["test"], row["unable"]) == ({"fp32": {"pro": 0.5}, "bf16": {"backend": "openvino"}}, {})


@pytest.mark.parametrize(("bf16", "precision"), [(True, "bf16"), (False, "fp32")])
def test_openvino_without_a_hint_is_named_after_what_it_computes_in(
    bf16: bool, precision: str, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "offers_bf16", lambda: bf16)
    for peer in ("anomalib", "anomavision"):
        found = training(dataset, tmp_path, peer=peer).runners
        unasked = [each for each in found if each.backend == "openvino" and not each.hint and each.export == "openvino"]
        assert {each.precision for each in unasked} <= {precision}
        assert {each.precision for each in found if each.backend == "onnxruntime-cpu"} <= {"fp32", "int8"}


def test_the_minutes_of_a_training_begin_before_the_images_are_written(
    commands: list[Any], dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Any] = []
    monkeypatch.setattr(peers, "encode_png", lambda pixels: written.append(pixels) or encode_png(pixels))
    monkeypatch.setattr(peers, "time", SimpleNamespace(perf_counter=lambda: float(len(written))))
    assert training(dataset, tmp_path / "peer").exported()["seconds"]["whole"] == len(written) == 12


def test_a_process_that_fails_says_its_last_line(dataset: Path, tmp_path: Path, monkeypatch) -> None:
    def run(_: Any, *, stdout: Any, **rest: Any) -> Any:
        stdout.write("Traceback\nModuleNotFoundError: No module named 'anomalib'\n")
        return SimpleNamespace(returncode=1)

    monkeypatch.setattr(peers, "subprocess", SimpleNamespace(run=run))
    with pytest.raises(TrainingError, match="anomalib ended with status 1: ModuleNotFoundError"):
        list(training(dataset, tmp_path / "peer").measure(VARIANTS, {}))


def test_exports_get_floats_as_the_peers_make_them() -> None:
    images = np.random.default_rng(0).integers(0, 256, (1, 4, 5, 3), np.uint8)
    floats = as_floats(images)
    assert (floats.shape, floats.dtype, floats.flags.c_contiguous) == ((1, 3, 4, 5), np.float32, True)
    np.testing.assert_allclose(floats[0, 2, 1, 3] * 255, images[0, 1, 3, 2], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("peer", "arguments"),
    [
        ("anomalib", {"backbone": "tf_efficientnet_lite0", "layers": ["blocks.1", "blocks.2"], "n_features": 30}),
        ("anomavision", {"backbone": "lite0"}),
    ],
)
def test_a_library_trains_and_exports(peer: str, arguments: dict[str, Any], dataset: Path, tmp_path: Path) -> None:
    pytest.importorskip(peer, reason=f"{peer} is not installed: it is measured in a Python of its own")
    made = training(dataset, tmp_path / "peer", peer=peer, model="Padim", arguments=arguments)
    (row,) = made.measure(["fp32"], {})
    assert not row["refused"]
    assert 0 <= row["test"]["fp32"]["image_auroc"] <= 1
    assert all("path" in export for export in made.exported()["exports"].values())
