"""What is timed, what is refused, and what is said of it."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from kdx.bundle.graph_contract import PAIR
from kdx.cli.bench import _report, _show, _show_stages
from kdx.errors import BackendError, OptionError
from kdx.imaging.images import InputSpec
from kdx.progress import SILENT
from kdx.workflows.bench import measure_budget, measure_latency, measure_stages
from tests.conftest import stated_latency


class WithProfiler:
    """A backend whose profiler has measured one node."""

    name = "profiled"

    def node_times(self, images, runs, warm_up):
        return {PAIR: 2.0}


def fail(*_: object):
    raise BackendError("does not open here", received="another driver")


PROFILED = SimpleNamespace(name="profiled", open=lambda *_: nullcontext(WithProfiler()))
PLAIN = SimpleNamespace(name="plain", open=lambda *_: nullcontext(SimpleNamespace(name="plain")))
BROKEN = SimpleNamespace(name="broken", open=fail)


def bundle_of(tiling: object) -> SimpleNamespace:
    return SimpleNamespace(
        path=Path("tile.kdx"),
        manifest=SimpleNamespace(tiling=tiling),
        golden=lambda: SimpleNamespace(images=()),
        graph_of=lambda precision: None,
    )


def offer(monkeypatch, *infos: SimpleNamespace) -> None:
    pairs = [(info, "fp32") for info in infos]
    monkeypatch.setattr("kdx.workflows.bench.backend_precision_pairs", lambda bundle: pairs)


def shown(capsys) -> str:
    """Return what was printed, without the breaks of a title over a narrow table."""
    return " ".join(capsys.readouterr().out.split())


def test_the_eager_baseline_knows_no_tiles(tmp_path):
    bundle = SimpleNamespace(manifest=SimpleNamespace(tiling=object()))
    with pytest.raises(OptionError, match="knows no tiles") as caught:
        measure_latency(bundle, 1, baseline=tmp_path, batches=(1,), runs=1, warm_up=0, progress=SILENT)
    assert caught.value.fix == "leave out `baseline`"


def test_a_backend_without_a_profile_is_named_and_the_others_are_profiled(monkeypatch, capsys):
    offer(monkeypatch, BROKEN, PLAIN, PROFILED)
    record = measure_stages(bundle_of(None), 1, 1, 0)
    assert [stages.backend for stages in record["stages"]] == ["profiled"]
    named = [
        "broken, fp32, batch 1: does not open here; received another driver",
        "plain, fp32, batch 1: has no profiler",
    ]
    assert list(map(str, record["not_timed"])) == named
    _report(record, None, _show_stages, json=False)
    printed = shown(capsys)
    assert "milliseconds for one image and share of it" in printed
    assert all(f"not timed: {each}" in printed for each in named)
    offer(monkeypatch, BROKEN, PLAIN)
    with pytest.raises(BackendError, match="no backend on this machine can be profiled") as caught:
        measure_stages(bundle_of(None), 1, 1, 0)
    assert caught.value.received == "; ".join(named)


def test_the_profile_of_large_frames_is_of_one_tile(monkeypatch, capsys):
    offer(monkeypatch, PROFILED)
    record = measure_stages(bundle_of(SimpleNamespace(count=6)), 1, 1, 0)
    assert record["tiles"] == 6
    _report(record, None, _show_stages, json=False)
    assert "milliseconds for one tile (a frame has 6) and share of it" in shown(capsys)


def test_each_batch_has_its_number_of_runs(capsys):
    first = stated_latency("onnxruntime-cpu", 2.0, 1000)
    record = {
        **dict.fromkeys(("bundle", "method", "backbone", "input"), "a"),
        "machine": SimpleNamespace(cpu="a CPU", threads=2, versions={}),
        "results": [first, msgspec.structs.replace(first, batch=8, runs=125)],
        "not_timed": [],
    }
    _show(record)
    assert "1000 runs at batch 1, 125 runs at batch 8, after 0 warm-ups" in shown(capsys)


def test_frames_that_are_read_in_bands_are_never_made_whole():
    camera = InputSpec(height=65536, width=32768, bands=True)
    bundle = SimpleNamespace(manifest=SimpleNamespace(camera=camera, tiling=object()))
    with pytest.raises(OptionError, match="kdx bench without --profile reads whole frames"):
        measure_latency(bundle, 1, baseline=None, batches=(1,), runs=20, warm_up=0, progress=SILENT)
    with pytest.raises(OptionError, match="kdx bench without --profile reads whole frames"):
        measure_budget(bundle, "auto", 1, budget_ms=5, percentile=99, runs=None, warm_up=0, progress=SILENT)
