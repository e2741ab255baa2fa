"""kdx fit from the command line: real training and real graphs, latencies by decree."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

import kdx
from kd_train.training.run_folder import Run
from kdx.bundle.manifest import SIGNATURE
from kdx.bundle.open import open_bundle
from kdx.errors import BackendError, TrainingError
from kdx.remarks import Remark
from kdx.runtime.cycle_time import compare_with_budget
from kdx.workflows.fit.cpu_timing import time_precision
from kdx.workflows.fit.deadline import TooLongError
from kdx.workflows.fit.fit_folder import FitFolder
from kdx.workflows.fit.request import FitRequest
from kdx.workflows.fit.screen import screening_outcome
from kdx.workflows.fit.trial_records import Screened, Timing
from tests.conftest import BACKBONE, CliResult, invoke, write_dataset

BUDGET = 8.0
# What a call takes, in milliseconds, by the networks' image size: 96 misses the budget, 160 is
# hopeless.
LATENCY_MS = {32: 2.0, 64: 4.0, 96: 9.0, 128: 20.0, 160: 30.0}
OPTIONS = (
    *("--methods", "stpm", "--sizes", "32,64,96", "--backbone", BACKBONE, "--weights", "random", "--epochs", "2"),
    *("--precision", "fp32", "--false-reject-rate", "0.2", "--workers", "0", "--device", "cpu", "--threads", "1"),
)


def decreed(detector, images, *, budget_ms, percentile=99.9, runs=None, warm_up=50, progress=None):
    """Stand in for the measuring function: run once, and take as long as the image size says."""
    size = detector.outputs(images[:1]).maps.shape[1]
    return compare_with_budget(
        detector.backend.name, [LATENCY_MS[size]] * (runs or 1000), budget_ms, percentile, warm_up
    )


def screened(candidate, request, material):
    """Stand in for the screening of a candidate: exporting takes seconds, and one test does it."""
    ms = LATENCY_MS[candidate.size]
    way = {"backend": "onnxruntime-cpu", "precision": "fp32"}
    timing = Timing(**way, percentile=99, measured_ms=ms, p50_ms=ms, max_ms=ms, runs=10)
    return screening_outcome(candidate, [timing], request.budget_ms)


@pytest.fixture
def screening(monkeypatch):
    monkeypatch.setattr("kdx.workflows.fit.screen._screen", screened)


@pytest.fixture(scope="module", autouse=True)
def decreed_latencies():
    with pytest.MonkeyPatch.context() as patch:
        # Compact teachers have their own test file, and half of the trainings.
        patch.setattr(FitRequest, "compact_and_source", None)
        patch.setattr("kdx.workflows.fit.cpu_timing.measure_cycle_time", decreed)
        yield


@pytest.fixture
def plots() -> None:
    """Let ``kdx fit`` draw its plots."""


@pytest.fixture(autouse=True)
def no_plots(request, monkeypatch):
    """Spare tests that look at no plots the drawing, which takes longer than their trainings."""
    if "plots" not in request.fixturenames:
        monkeypatch.setattr("kdx.workflows.fit.search.write_plots", lambda report, files: None)


def fit(data: Path, out: Path, *more: object, code: int = 0, budget: float = BUDGET) -> CliResult:
    return invoke("fit", data, "--budget-ms", budget, "--out", out, *OPTIONS, *more, code=code)


@dataclass(frozen=True)
class Fitted:
    """Where a fit stands that was interrupted in its second training, and what both calls said."""

    data: Path
    out: Path
    interrupted: CliResult
    kept: list[Any]
    result: CliResult


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    root = tmp_path_factory.mktemp("fit")
    data, out = write_dataset(root / "cells"), root / "out"
    save, saved = Run.save, []

    def interrupt(self, *args, **options):
        save(self, *args, **options)
        saved.append(self.path.name)
        if len(saved) == 3:  # two epochs of the first candidate, one of the second
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdx.workflows.fit.screen._screen", screened)
        with patch.context() as once:
            once.setattr(Run, "save", interrupt)
            interrupted = fit(data, out, code=130)
        kept = Run(out / "runs/stpm-32").checkpoint("last").history
        return Fitted(data, out, interrupted, kept, fit(data, out))


@pytest.fixture
def out(fitted, screening, tmp_path):
    """A finished fit that the test may change."""
    return Path(shutil.copytree(fitted.out, tmp_path / "out"))


@pytest.fixture
def no_training(monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("trained again")

    monkeypatch.setattr("kdx.workflows.fit.trial.train", refuse)


def begin(out: Path, settings: dict[str, Any], *, force: bool = False) -> list[str]:
    with FitFolder(out, settings).held(force=force) as discarded:
        return discarded


def report_of(out: Path) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in JSON")

    return json.loads((out / "fit.json").read_text(encoding="utf-8"), parse_constant=refuse)


# The whole road


@pytest.mark.slow
def test_an_interruption_says_what_is_kept_and_the_next_call_resumes(fitted):
    assert "run the same command again to continue" in fitted.interrupted.stderr
    # The larger size that may keep the budget came first, and was done; the smaller one had an
    # epoch.
    assert [epoch.epoch for epoch in fitted.kept] == [1]
    history = Run(fitted.out / "runs/stpm-32").checkpoint("last").history
    assert len(history) == 2
    assert history[0] == fitted.kept[0]


def test_what_misses_the_budget_is_not_trained_and_its_latency_is_reported(fitted):
    assert sorted(path.name for path in (fitted.out / "runs").iterdir()) == ["stpm-32", "stpm-64"]
    dropped = report_of(fitted.out)["dropped"]
    assert [(d["candidate"]["size"], d["measured_ms"]) for d in dropped] == [(96, LATENCY_MS[96])]
    assert "9.0 ms" in fitted.result.stdout


def test_the_table_has_every_figure_and_says_what_it_was_measured_on(fitted):
    report = report_of(fitted.out)
    assert report["evidence"] == "labelled test images"
    assert any("optimistic" in note for note in report["notes"])
    assert [row["candidate"]["size"] for row in report["rows"]] == [32, 64]
    for row in report["rows"]:
        scores = row["scores"]
        assert row["timing"]["measured_ms"] == LATENCY_MS[row["candidate"]["size"]]
        assert row["keeps_budget"]
        assert all(0 <= scores[name] <= 1 for name in ("image_auroc", "pixel_auroc", "pro", "false_reject_rate"))
        assert (scores["good"], scores["defective"]) == (4, 4)
    assert "optimistic" in fitted.result.stdout
    assert "±: one standard error" in fitted.result.stdout


def test_the_figures_are_those_of_kdx_evaluate(fitted):
    row = report_of(fitted.out)["rows"][0]
    bundle = fitted.out / row["bundle"]
    own = invoke("evaluate", bundle, fitted.data, "--backend", row["timing"]["backend"], "--json").json
    for name in ("image_auroc", "pixel_auroc", "pro", "false_reject_rate", "detection_rate"):
        assert row["scores"][name] == pytest.approx(own[name])


def test_the_best_bundle_is_ready_for_use(fitted, frame):
    report = report_of(fitted.out)
    best = max(report["rows"], key=lambda row: (round(row["scores"]["image_auroc"], 3), -row["timing"]["measured_ms"]))
    assert report["best"]["row"] == best
    assert kdx.load(fitted.out / "best.kdx", threads=1)(frame).decision.value in {"good", "defective"}
    bundle = open_bundle(fitted.out / "best.kdx")
    assert bundle.manifest.map_size == (best["candidate"]["size"],) * 2
    assert f"kdx bench {fitted.out / 'best.kdx'} --budget-ms 8 --percentile 99" in fitted.result.stdout


def test_the_plots_are_there(fitted):
    with Image.open(fitted.out / "frontier.png") as image:
        image.verify()
    assert (fitted.out / "frontier.svg").read_text(encoding="utf-8").startswith("<?xml")


# Further calls


@pytest.mark.slow
def test_a_second_call_trains_nothing_and_finds_the_same(fitted, out, no_training):
    again = fit(fitted.data, out, "--json").json
    first = report_of(fitted.out)
    assert again["rows"] == first["rows"]
    assert again["best"]["row"] == first["best"]["row"]


@pytest.mark.slow
def test_a_bundle_that_another_call_or_command_changed_is_measured_again(fitted, out, no_training, monkeypatch):
    small, large = (out / f"bundles/stpm-{size}.kdx" for size in (32, 64))
    held_out = Run(out / "runs/stpm-32").config.recipe.validation_fraction

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("kdx.workflows.fit.trial.calibrate_each", interrupt)
        fit(fitted.data, out, "--false-reject-rate", 0.3, "--validation-fraction", held_out, code=130)
    assert open_bundle(large).manifest.threshold is None  # exported for the other rate, and no more
    invoke("calibrate", small, fitted.data, "--false-reject-rate", 0.4)
    said = fit(fitted.data, out).stderr
    assert f"stpm 32: '{small}' was changed after it was measured: it is exported and measured again" in said
    for bundle in (small, large, out / "best.kdx"):
        assert open_bundle(bundle).manifest.threshold.false_reject_rate == 0.2
    next((small / "golden").iterdir()).write_bytes(b"")  # damaged
    assert [row["candidate"]["size"] for row in fit(fitted.data, out, "--json").json["rows"]] == [32, 64]


@pytest.mark.slow
def test_a_bundle_that_is_changed_while_the_search_runs_is_not_the_best(fitted, out, no_training, monkeypatch):
    first = report_of(out)["best"]["row"]

    def change(*_: object, **__: object) -> str:
        invoke("calibrate", out / first["bundle"], fitted.data, "--false-reject-rate", 0.4)
        return ""

    monkeypatch.setattr("kdx.workflows.fit.search.was_disturbed", change)
    report = fit(fitted.data, out, "--json").json
    assert report["best"]["row"]["candidate"] != first["candidate"]
    assert "was changed after it was measured" in report["unconfirmed"][0]


def test_a_tighter_budget_is_judged_again_and_the_stale_bundle_is_removed(fitted, out, no_training, tmp_path):
    elsewhere = shutil.move(out / "best.kdx", tmp_path / "elsewhere.kdx")
    (out / "best.kdx").symlink_to(elsewhere)
    result = fit(fitted.data, out, "--sizes", "32", code=1, budget=1.9)
    assert "nothing keeps 1.9 ms" in result.stdout
    assert "fastest: stpm 32" in result.stdout
    assert "what would help" in result.stdout
    assert not os.path.lexists(out / "best.kdx")
    assert open_bundle(elsewhere).manifest.threshold is not None
    assert report_of(out)["best"] is None


@pytest.mark.slow
def test_a_best_one_that_misses_when_measured_again_is_skipped(fitted, out, no_training, monkeypatch):
    first = report_of(out)["best"]["row"]["candidate"]["size"]
    measured = []

    def slower_at_last(detector, images, **options):
        contract = decreed(detector, images, **options)
        size = detector.outputs(images[:1]).maps.shape[1]
        measured.append(size)
        return compare_with_budget("x", [9.0] * 1000, BUDGET, 99, 0) if size == first else contract

    monkeypatch.setattr("kdx.workflows.fit.cpu_timing.measure_cycle_time", slower_at_last)
    (out / "best.kdx" / SIGNATURE).write_text("{}", encoding="utf-8")
    report = fit(fitted.data, out, "--json").json
    assert measured[0] == first
    assert report["best"]["row"]["candidate"]["size"] != first
    assert "9.00 ms when measured once more" in report["unconfirmed"][0]
    assert "1 thing of the replaced bundle is gone: signature" in report["notes"]


@pytest.mark.slow
def test_a_backend_that_fails_at_last_leaves_the_next_best(fitted, out, no_training, monkeypatch):
    first = report_of(out)["best"]["row"]["candidate"]["size"]

    def fail_at_last(detector, images, **options):
        if detector.outputs(images[:1]).maps.shape[1] == first:
            raise BackendError("no memory is left")
        return decreed(detector, images, **options)

    monkeypatch.setattr("kdx.workflows.fit.cpu_timing.measure_cycle_time", fail_at_last)
    report = fit(fitted.data, out, "--json").json
    assert report["best"]["row"]["candidate"]["size"] != first
    assert report["unconfirmed"] == [f"stpm {first} fp32: no memory is left"]
    assert open_bundle(out / "best.kdx").manifest.threshold is not None


@pytest.mark.slow
def test_a_backend_that_fails_after_the_first_look_has_the_reason_as_its_latency(fitted, monkeypatch):
    bundle = open_bundle(fitted.out / report_of(fitted.out)["best"]["row"]["bundle"])

    def fail_in_earnest(detector, images, *, percentile=99.9, **options):
        if percentile != 50:
            raise BackendError("no memory is left")
        return decreed(detector, images, percentile=percentile, **options)

    monkeypatch.setattr("kdx.workflows.fit.cpu_timing.measure_cycle_time", fail_in_earnest)
    timings = time_precision(bundle, "fp32", bundle.golden().images, budget_ms=BUDGET, percentile=99.9, threads=1)
    assert {(one.measured_ms, one.error) for one in timings} == {(None, "no memory is left")}


@pytest.mark.slow
def test_where_none_keeps_the_budget_when_measured_again_the_report_says_so(fitted, out, no_training, monkeypatch):
    slow = compare_with_budget("x", [9.0] * 1000, BUDGET, 99, 0)
    monkeypatch.setattr("kdx.workflows.fit.cpu_timing.measure_cycle_time", lambda *_, **__: slow)
    result = fit(fitted.data, out, code=1)
    missed = [f"stpm {size} fp32: 9.00 ms when measured once more" for size in (64, 32)]
    report = report_of(out)
    assert report["best"] is None
    assert report["unconfirmed"] == missed
    assert all(f"skipped: {each}" in result.stdout for each in missed)
    assert "none of these was confirmed to keep 8 ms at p99" in result.stdout
    assert "idle machine" in report["advice"][0]
    assert not any("a budget of" in each for each in report["advice"])  # they did every call in less than this one


@pytest.mark.slow
def test_a_busy_machine_is_noticed_and_measured_again(fitted, out, no_training, monkeypatch):
    path = out / "results/stpm-64.json"
    trial = json.loads(path.read_text(encoding="utf-8"))
    for one in trial["measured"][0]["timings"]:
        one.update(measured_ms=40.0, p50_ms=30.0)
    path.write_text(json.dumps(trial), encoding="utf-8")
    result = fit(fitted.data, out)
    assert "measuring it once more" in result.stderr
    assert [row["timing"]["measured_ms"] for row in report_of(out)["rows"]] == [2.0, 4.0]


@pytest.mark.slow
def test_on_a_cpu_with_other_instructions_everything_is_measured_again(fitted, out, no_training, monkeypatch):
    measured = []

    def recorded(candidate, request, material):
        measured.append(("screened", candidate.size))
        return screened(candidate, request, material)

    def timed(bundle, precision, *args, **options):
        measured.append(("timed", bundle.manifest.map_size[0]))
        return time_precision(bundle, precision, *args, **options)

    def cpu(*flags):
        known = {"model name": "CPU", "flags": " ".join(flags)}
        monkeypatch.setattr("kdx.runtime.machine._cpuinfo", lambda name: known.get(name, ""))
        measured.clear()
        fit(fitted.data, out, "--sizes", "32,96")
        return sorted(measured)

    monkeypatch.setattr("kdx.workflows.fit.screen._screen", recorded)
    monkeypatch.setattr("kdx.workflows.fit.trial.time_precision", timed)
    everything = [("screened", 32), ("screened", 96), ("timed", 32)]
    assert cpu("avx2") == everything
    assert cpu("avx2") == [("screened", 96)]  # which missed the budget by less than noise
    assert cpu("avx2", "avx512_vnni") == everything


@pytest.mark.slow
def test_what_makes_the_best_figures_doubtful_is_noted_in_later_calls_too(fitted, out, no_training, monkeypatch):
    for path in (out / "results").iterdir():
        path.unlink()  # so that everything is measured again
    doubt = Remark(kind="not_separated", text="defective images do not score significantly higher", count=4, first=())
    with monkeypatch.context() as patch:
        patch.setattr("kd_train.evaluation.evaluate.separation_remarks", lambda *_: [doubt])
        patch.setattr("kd_train.data.reduction._MUCH", 0.5)
        result = fit(fitted.data, out, "--sizes", 32)
    report = report_of(out)
    best = f"stpm {report['best']['row']['candidate']['size']} fp32"
    noted = [note for note in report["notes"] if note.startswith("stpm ")]
    assert any(note.startswith(f"{best}: 12 images are reduced to ") for note in noted)
    assert f"{best}: {doubt}" in noted
    assert all(note.startswith(best) and note in result.stdout for note in noted)
    assert fit(fitted.data, out, "--sizes", 32, "--json").json["notes"] == report["notes"]


@pytest.mark.slow
def test_a_report_is_never_of_another_budget_than_the_best_bundle(fitted, out, no_training, monkeypatch):
    def fail(error):
        def raised(*_: object, **__: object) -> None:
            raise error

        return raised

    with monkeypatch.context() as patch:
        patch.setattr("kdx.workflows.fit.search.write_plots", fail(OSError(28, "No space left on device")))
        fit(fitted.data, out, "--sizes", 32, budget=7.0, code=None)
    assert report_of(out)["budget_ms"] == 7.0
    with monkeypatch.context() as patch:
        patch.setattr("kdx.workflows.fit.best.time_as_loaded", fail(KeyboardInterrupt()))
        fit(fitted.data, out, "--sizes", 32, budget=6.0, code=130)
    assert (out / "best.kdx").exists()
    assert not [path for path in (out / "fit.json", out / "frontier.png", out / "frontier.svg") if path.exists()]


def change_results(out: Path, change: Callable[[Any], None]) -> None:
    """Change the first measured precision of each result that a fit keeps."""
    for path in (out / "results").iterdir():
        trial = json.loads(path.read_text(encoding="utf-8"))
        change(trial["measured"][0])
        path.write_text(json.dumps(trial), encoding="utf-8")


@pytest.mark.slow
def test_scores_are_measured_again_where_another_backend_is_the_fastest_now(fitted, out, no_training, monkeypatch):
    first = {row["candidate"]["size"]: row["scores"]["image_auroc"] for row in report_of(out)["rows"]}

    def change(measured: Any) -> None:
        measured["scores"]["image_auroc"] = 0.123
        for timing in measured["timings"]:
            if timing["measured_ms"] == LATENCY_MS[64]:
                timing["backend"] = "former"

    change_results(out, change)
    monkeypatch.setattr("kdx.workflows.fit.search.was_disturbed", lambda *_: "it was busy")
    report = fit(fitted.data, out, "--json").json
    assert {row["candidate"]["size"]: row["scores"]["image_auroc"] for row in report["rows"]} == {
        32: 0.123,
        64: first[64],
    }


@pytest.mark.slow
def test_what_no_backend_can_time_again_is_named_and_its_former_result_is_kept(fitted, out, no_training, monkeypatch):
    def fail(detector, images, **options):
        if detector.outputs(images[:1]).maps.shape[1] == 64:
            raise BackendError("no memory is left")
        return decreed(detector, images, **options)

    before = (out / "results/stpm-64.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("kdx.workflows.fit.search.was_disturbed", lambda *_: "it was busy")
        patch.setattr("kdx.workflows.fit.cpu_timing.measure_cycle_time", fail)
        report = fit(fitted.data, out, "--json").json
    assert [row["candidate"]["size"] for row in report["rows"]] == [32]
    (dropped,) = [each for each in report["dropped"] if each["candidate"]["size"] == 64]
    assert (dropped["cause"], dropped["precision"]) == ("failed", "fp32")
    assert "its latency could not be measured: " in dropped["reason"]
    assert "onnxruntime-cpu: no memory is left" in dropped["reason"]
    assert (out / "results/stpm-64.json").read_bytes() == before
    (out / "results/stpm-64.json").unlink()
    with monkeypatch.context() as patch:
        patch.setattr("kdx.workflows.fit.cpu_timing.measure_cycle_time", fail)
        assert fit(fitted.data, out, "--json").json["dropped"] == report["dropped"]
    assert not (out / "results/stpm-64.json").exists()
    assert [row["candidate"]["size"] for row in fit(fitted.data, out, "--json").json["rows"]] == [32, 64]


@pytest.mark.slow
def test_spent_hours_begin_no_training_but_report_on_what_is_trained(fitted, out, no_training):
    shutil.rmtree(out / "runs/stpm-32")
    report = fit(fitted.data, out, "--hours", 0, "--json").json
    assert [row["candidate"]["size"] for row in report["rows"]] == [64]
    assert any("hours were spent" in d["reason"] and d["candidate"]["size"] == 32 for d in report["dropped"])


@pytest.mark.slow
def test_what_would_end_after_the_hours_is_stopped_and_more_hours_train_it(tmp_path, screening, monkeypatch):
    data, out = write_dataset(tmp_path / "cells"), tmp_path / "out"
    epochs = ("--epochs", 16)  # of two steps, each of which seems to take hundreds of seconds
    seconds = iter(range(0, 10**6, 100))
    with monkeypatch.context() as patch:
        patch.setattr("kdx.workflows.fit.deadline.time", SimpleNamespace(monotonic=lambda: next(seconds)))
        result = fit(data, out, *epochs, "--hours", 0.3, code=1)
    dropped = {each["candidate"]["size"]: each for each in report_of(out)["dropped"]}
    assert re.fullmatch(r"not trained: it would take about \d+ min, and \d+ min are left", dropped[64]["reason"])
    assert f"stpm 64 is {dropped[64]['reason']}" in result.stderr
    assert {each["cause"] for size, each in dropped.items() if size < 96} == {"hours"}
    assert "more time for training" in result.stdout
    assert [row["candidate"]["size"] for row in fit(data, out, *epochs, "--hours", 99, "--json").json["rows"]] == [
        32,
        64,
    ]


def test_other_settings_are_refused_in_the_same_folder(fitted, out):
    error = fit(fitted.data, out, "--epochs", 3, code=2).stderr
    assert "epochs changed" in error
    assert "--force" in error


def test_a_rate_that_holds_out_other_images_is_named_with_the_share_that_serves_it(fitted, out, no_training):
    error = fit(fitted.data, out, "--false-reject-rate", 0.3, code=2).stderr
    assert "validation_fraction changed: where it is not given, it follows from --false-reject-rate" in error
    assert "give --validation-fraction 0.3334" in error
    fit(fitted.data, out, "--false-reject-rate", 0.3, "--validation-fraction", 0.3334)
    assert report_of(out)["false_reject_rate"] == 0.3


def test_files_that_decide_runs_are_compared_by_their_content(dataset, tmp_path, screening):
    parts, weights, out = tmp_path / "parts.csv", tmp_path / "weights.pth", tmp_path / "out"
    names = sorted(path.name for path in (dataset / "train/good").iterdir())
    options = ("--hours", 0, "--parts", parts, "--weights", weights)

    def write(size: int, content: bytes) -> None:
        """Write parts of so many images, and the file of weights."""
        parts.write_text("".join(f"{name},{index // size}\n" for index, name in enumerate(names)), encoding="utf-8")
        weights.write_bytes(content)

    write(2, b"some")
    fit(dataset, out, *options)
    (out / "runs").mkdir()
    write(3, b"some")
    assert "other held-out images: the file of --parts changed" in fit(dataset, out, *options, code=2).stderr
    write(2, b"others")
    assert f"content of '{weights}' changed" in fit(dataset, out, *options, code=2).stderr
    write(2, b"some")
    fit(dataset, out, *options)


def test_notes_name_flags(dataset, tmp_path, screening):
    result = fit(dataset, tmp_path / "out", "--hours", 0, "--group-by", r"\d+")
    assert "each a part of their own, so --group-by has no effect" in result.stdout


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_test_image_may_have_a_name_that_is_not_utf_8(out, dataset_copy, no_training):
    index = out / "fit-settings.json"
    record = json.loads(index.read_bytes())
    record["settings"]["data"] = str(dataset_copy.resolve())
    index.write_text(json.dumps(record), encoding="utf-8")
    image = next((dataset_copy / "test/good").iterdir())
    image.rename(image.with_name(os.fsdecode(b"gro\xdf.png")))
    report = fit(dataset_copy, out, "--json").json
    assert [row["candidate"]["size"] for row in report["rows"]] == [32, 64]


@pytest.mark.parametrize(("name", "said"), [("test/good", "truncated"), ("ground_truth/scratch", "damaged")])
def test_what_accuracy_cannot_be_measured_on_is_an_error_before_anything_takes_time(
    dataset_copy, tmp_path, screening, name, said
):
    image = next((dataset_copy / name).iterdir())
    image.write_bytes(image.read_bytes()[:200])
    error = fit(dataset_copy, tmp_path / "out", "--hours", 0, code=2).stderr
    assert image.name in error
    assert said in error
    assert not (tmp_path / "out").exists()


def test_the_screening_is_repeated_where_noise_or_another_graph_may_change_it(dataset, tmp_path, monkeypatch):
    tried = []

    def recorded(candidate, request, material):
        tried.append(candidate.size)
        return screened(candidate, request, material)

    def outcomes(*more: object) -> dict[int, str]:
        tried.clear()
        sizes = ("--sizes", "32,96,128,160", "--hours", 0)
        report = fit(dataset, tmp_path / "out", *sizes, *more, "--json").json
        return {one["candidate"]["size"]: one["outcome"] for one in report["screened"]}

    monkeypatch.setattr("kdx.workflows.fit.screen._screen", recorded)
    assert outcomes() == {32: "may keep", 96: "misses", 128: "misses", 160: "skipped"}
    assert tried == [32, 96, 128]
    monkeypatch.setitem(LATENCY_MS, 96, 7.0)
    assert outcomes() == {32: "may keep", 96: "may keep", 128: "misses", 160: "skipped"}
    assert tried == [96]  # 9 ms of 8 may be noise, and 20 ms are not
    outcomes("--epochs", 3)
    assert tried == []
    for more in (("--crop", "0,0,32,32"), ("--channels", "1"), ("--sixteen-bit-range", "0:4095")):
        outcomes(*more)
        assert tried == [32, 96, 128]


def test_what_cannot_be_built_is_named_with_its_reason_before_anything_is_trained(tmp_path, monkeypatch, no_training):
    def screened_or_failed(candidate, request, material):
        if candidate.size == 32:
            return screened(candidate, request, material)
        return Screened(candidate=candidate, outcome="failed", reason="there are no weights")

    monkeypatch.setattr("kdx.workflows.fit.screen._screen", screened_or_failed)
    result = fit(write_dataset(tmp_path / "cells"), tmp_path / "out", "--hours", 0)
    assert result.stderr.splitlines()[:3] == [
        "screening the latency of 3 candidates",
        "1 of 3 candidates may keep 8 ms at p99",
        "failed: stpm 64, stpm 96: there are no weights",
    ]
    left_out = ["stpm 64, stpm 96: there are no weights", "stpm 32: not trained: the hours were spent"]
    assert result.stdout.splitlines()[:3] == ["left out:", *(f"  {each}" for each in left_out)]


@pytest.mark.slow
def test_a_folder_of_an_earlier_version_is_continued(fitted, out, no_training):
    path = out / "fit-settings.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    held_out = record["settings"].pop("held_out_images")
    path.write_text(json.dumps(record), encoding="utf-8")
    assert [row["candidate"]["size"] for row in fit(fitted.data, out, "--json").json["rows"]] == [32, 64]
    # From then on, another division is noticed.
    assert json.loads(path.read_text(encoding="utf-8"))["settings"]["held_out_images"] == held_out


@pytest.mark.slow
def test_a_training_that_fails_is_recorded_and_the_others_continue(fitted, out, monkeypatch):
    def fail(*args, **options):
        raise TrainingError("too many images are bad", fix="allow more: a larger `max_bad_images`")

    shutil.rmtree(out / "runs/stpm-64")
    monkeypatch.setattr("kdx.workflows.fit.trial.train", fail)
    said = "too many images are bad; allow more: a larger --max-bad-images"
    assert f"stpm 64 failed: {said}" in fit(fitted.data, out).stderr
    report = report_of(out)
    assert [row["candidate"]["size"] for row in report["rows"]] == [32]
    assert said in [d["reason"] for d in report["dropped"]]


# Without labels, in other precisions


@pytest.mark.slow
@pytest.mark.usefixtures("short_search", "plots")
def test_without_defective_images_synthetic_defects_stand_in_and_everything_says_so(tmp_path, make_images):
    for index, image in enumerate(make_images(12)):
        (tmp_path / "parts").mkdir(exist_ok=True)
        image.save(tmp_path / f"parts/{index:02d}.png")
    more = ("--sizes", "32", "--epochs", "1", "--precision", "fp32,int8")
    result = fit(tmp_path / "parts", tmp_path / "out", *more)
    report = report_of(tmp_path / "out")
    assert report["evidence"] == "synthetic defects"
    assert "synthetic defects" in result.stdout
    assert "synthetic defects" in (tmp_path / "out/frontier.svg").read_text(encoding="utf-8")
    rows = {row["timing"]["precision"]: row for row in report["rows"]}
    refused = {d["precision"] for d in report["dropped"]}
    assert rows.keys() | refused == {"fp32", "int8"}  # INT8 passes its gate, or says why not
    for row in rows.values():
        assert row["scores"]["defective"] == 3 * row["scores"]["good"]
        assert row["scores"]["false_reject_rate"] is None  # of images that set the threshold, it is no measurement
        assert row["scores"]["pro"] is not None
    chosen = report["best"]["row"]["timing"]["precision"]
    assert set(open_bundle(tmp_path / "out/best.kdx").manifest.precisions) == {"fp32", chosen}


@pytest.fixture
def refused_after_training(tmp_path, make_images, monkeypatch):
    """A folder of good parts, whose INT8 after the training is refused and whose students pass."""
    for index, image in enumerate(make_images(20)):
        (tmp_path / "parts").mkdir(exist_ok=True)
        image.save(tmp_path / f"parts/{index:02d}.png")
    about = {"percentile": 99, "measured_ms": 2.0, "p50_ms": 2.0, "max_ms": 2.0, "runs": 10}
    timings = [Timing(backend="onnxruntime-cpu", precision=each, **about) for each in ("fp32", "int8")]

    def screen(candidate, request, material):
        return screening_outcome(candidate, timings, request.budget_ms)

    monkeypatch.setattr("kdx.workflows.fit.screen._screen", screen)
    monkeypatch.setattr("kd_export.bundle_export.write_int8", lambda *_: (None, "too far from FP32"))
    monkeypatch.setattr("kdx.verification.decisions.decision_faults", lambda *_: [])
    return tmp_path


OF_STUDENTS = ("--sizes", "32", "--epochs", "1", "--precision", "fp32,int8", "--validation-fraction", "0.4")


def bundle_and_reasons(out: Path) -> tuple[Any, str]:
    dropped = [each["reason"] for each in report_of(out)["dropped"] if each["precision"] == "int8"]
    return open_bundle(out / "bundles/stpm-32.kdx").manifest, "".join(dropped)


@pytest.mark.slow
def test_where_int8_after_training_is_refused_students_are_trained_as_int8(refused_after_training, monkeypatch):
    parts, out = refused_after_training / "parts", refused_after_training / "out"
    result = fit(parts, out, *OF_STUDENTS)
    assert "stpm 32: INT8 after training was refused, so its students are trained as INT8" in result.stderr
    bundle, reasons = bundle_and_reasons(out)
    assert (bundle.provenance.int8.epoch, reasons) == (8, "")

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("trained or measured again")

    with monkeypatch.context() as patch:
        patch.setattr("kdx.workflows.fit.trial.Workshop._measure", fail)
        fit(parts, out, *OF_STUDENTS)
    # A stage that the user trains instead is taken as it is, and what it replaced is not kept.
    invoke("quantize", out / "runs/stpm-32", "--epochs", 1, "--workers", 0, "--device", "cpu", "--force")
    with monkeypatch.context() as patch:
        patch.setattr("kd_train.training.trainer.Trainer._train_epoch", fail)
        fit(parts, out, *OF_STUDENTS)
    assert bundle_and_reasons(out)[0].provenance.int8.epoch == 1


@pytest.mark.slow
def test_an_int8_stage_that_does_not_fit_into_the_hours_is_left_to_a_later_call(refused_after_training, monkeypatch):
    parts, out = refused_after_training / "parts", refused_after_training / "out"

    def fail(error: Exception) -> Any:
        def quantize_run(*_: object, **__: object) -> None:
            raise error

        return quantize_run

    with monkeypatch.context() as patch:
        patch.setattr("kdx.workflows.fit.trial.quantize_run", fail(TooLongError(7200, 3600)))
        # The latencies are measured again, which must not keep the result either.
        patch.setattr("kdx.workflows.fit.search.was_disturbed", lambda *_: "it was busy")
        fit(parts, out, *OF_STUDENTS, "--hours", 1)
        assert "its students were not trained as INT8: it would take about 120 min" in bundle_and_reasons(out)[1]
        assert [each["cause"] for each in report_of(out)["dropped"]] == ["hours"]
        patch.setattr("kdx.workflows.fit.trial.quantize_run", fail(AssertionError("trained")))
        result = fit(parts, out, *OF_STUDENTS, "--hours", 0)
        assert "so its students are trained as INT8" not in result.stderr
        assert "its students were not trained as INT8: the hours were spent" in bundle_and_reasons(out)[1]
    fit(parts, out, *OF_STUDENTS)
    assert bundle_and_reasons(out)[0].provenance.int8.epoch == 8


@pytest.mark.slow
def test_fp32_remains_where_students_cannot_be_trained_as_int8(refused_after_training, monkeypatch):
    parts, out = refused_after_training / "parts", refused_after_training / "out"

    def fail(*_: object, **__: object) -> None:
        raise TrainingError("the loss became nan in epoch 1, step 1")

    monkeypatch.setattr("kdx.workflows.fit.trial.quantize_run", fail)
    fit(parts, out, *OF_STUDENTS)
    bundle, reasons = bundle_and_reasons(out)
    assert bundle.precisions == ["fp32"]
    assert "too far from FP32; its students could not be trained as INT8: the loss became nan" in reasons


def test_nothing_that_keeps_the_budget_is_exit_status_1_before_any_training(dataset, tmp_path, screening, plots):
    result = fit(dataset, tmp_path / "out", "--sizes", "128,160", code=1)
    report = report_of(tmp_path / "out")
    assert not (tmp_path / "out/runs").exists()
    assert report["rows"] == []
    assert [(s["candidate"]["size"], s["outcome"]) for s in report["screened"]] == [(128, "misses"), (160, "skipped")]
    assert "128 takes 20.0 ms already" in result.stdout
    assert "fastest: stpm 128" in result.stdout
    assert "--sizes 64,128" in result.stdout
    assert "smaller images: --sizes 64,128" in report["advice"]
    assert "`" not in " ".join(report["advice"])
    assert not (tmp_path / "out/frontier.png").exists()


# What cannot be


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--budget-ms", "0"), "--budget-ms is out of range"),
        (("--budget-ms", "-3"), "--budget-ms is out of range"),
        (("--budget-ms", "nan"), "--budget-ms is out of range"),
        (("--budget-ms", "1e9"), "--budget-ms is out of range"),
        (("--percentile", "100"), "--percentile is too high"),
        (("--percentile", "7"), "--percentile is out of range"),
        (("--false-reject-rate", "0"), "--false-reject-rate is out of range"),
        (("--false-reject-rate", "0.001"), "too few good images"),
        (("--hours", "-1"), "--hours is out of range"),
        (("--methods", "stmp"), "there is no method 'stmp'"),
        (("--sizes", "big"), "--sizes is not a size"),
        (("--sizes", "8"), "--sizes is out of range"),
        (("--sizes", ","), "--sizes names no size"),
        (("--precision", "fp16"), "kdx build-engine"),
        (("--precision", "fp4"), "invalid --precision"),
        (("--epochs", "0"), "epochs is out of range"),
        (("--backbone", "resnet1"), "resnet1"),
        (("--group-by", "("), "--group-by is not a regular expression"),
        (("--device", "toaster"), "the device 'toaster' cannot be used"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_trained(dataset, tmp_path, options, said):
    result = fit(dataset, tmp_path / "out", *options, code=2)
    assert said in result.stderr
    assert not (tmp_path / "out/runs").exists()


def test_a_folder_of_something_else_is_left_alone(dataset, tmp_path):
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    error = fit(dataset, tmp_path, "--force", code=2).stderr
    assert "is not of kdx fit" in error
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_other_settings_are_taken_while_nothing_was_made(tmp_path):
    begin(tmp_path / "out", {"backbone": "mistyped"})
    begin(tmp_path / "out", {"backbone": "resnet18"})
    (tmp_path / "out/runs").mkdir()
    with pytest.raises(kdx.KdxError, match=r"(?s)backbone changed.*expected: backbone resnet18"):
        begin(tmp_path / "out", {"backbone": "mistyped"})


@pytest.mark.parametrize(("options", "is_named"), [({"parts": "parts.csv"}, True), ({}, False)])
def test_the_file_of_parts_is_named_only_where_there_is_one(tmp_path, options, is_named):
    begin(tmp_path / "out", {"held_out_images": "some", **options})
    (tmp_path / "out/runs").mkdir()
    with pytest.raises(kdx.KdxError, match="holds runs with other held-out images") as error:
        begin(tmp_path / "out", {"held_out_images": "others", **options})
    assert ("`parts`" in str(error.value)) is is_named
    assert ("names and places of the images" in str(error.value)) is not is_named


def test_what_earlier_versions_did_not_record_is_taken_as_it_is(tmp_path):
    begin(tmp_path / "out", {"weights": "w.pth"})
    (tmp_path / "out/runs").mkdir()
    begin(tmp_path / "out", {"weights": "w.pth", "held_out_images": "some", "content of 'w.pth'": "some"})
    with pytest.raises(kdx.KdxError, match="holds runs of other settings: weights"):
        begin(tmp_path / "out", {"weights": "other.pth", "content of 'other.pth'": "some"})


@pytest.mark.slow
def test_a_best_bundle_that_cannot_be_removed_is_named_and_the_report_is_written(fitted, out, monkeypatch):
    def busy(path):
        raise OSError(16, "Device or resource busy", str(path))

    (out / "fit.json").unlink()
    monkeypatch.setattr("kdx.workflows.fit.best.discard", busy)
    result = fit(fitted.data, out, code=1)
    assert "best.kdx' of an earlier call cannot be removed: Device or resource busy" in result.stdout
    assert "none of these was confirmed to keep 8 ms" in result.stdout
    assert "nothing keeps" not in result.stdout
    assert len(report_of(out)["rows"]) == 2


def test_a_good_image_that_cannot_be_decoded_is_counted_before_anything_is_timed(dataset_copy, tmp_path, monkeypatch):
    def refuse(*args):
        raise AssertionError("screened")

    monkeypatch.setattr("kdx.workflows.fit.screen._screen", refuse)
    path = next(iter((dataset_copy / "train/good").iterdir()))
    path.write_bytes(path.read_bytes()[:-200])
    error = fit(dataset_copy, tmp_path / "out", "--false-reject-rate", "0.5", code=2).stderr
    assert "1 image cannot be used" in error
    assert path.name in error


def test_force_discards_what_fit_made_and_nothing_else(out, tmp_path):
    (out / "notes.txt").write_text("mine", encoding="utf-8")
    elsewhere = shutil.move(out / "runs", tmp_path / "elsewhere")
    (out / "runs").symlink_to(elsewhere)
    discarded = begin(out, {"other": "settings"}, force=True)
    assert {"runs (2)", "bundles (2)", "best.kdx", "fit.json"} < set(discarded)
    assert sorted(path.name for path in out.iterdir()) == ["fit-settings.json", "notes.txt", "results"]
    assert not list((out / "results").iterdir())
    assert sorted(path.name for path in elsewhere.iterdir()) == ["stpm-32", "stpm-64"]


def test_what_force_cannot_remove_is_an_error(out, monkeypatch):
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("kdx.workflows.fit.fit_folder.shutil.rmtree", refuse)
    with pytest.raises(PermissionError):
        begin(out, {"other": "settings"}, force=True)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks")
@pytest.mark.parametrize("more", [(), ("--force",)])
def test_a_folder_in_which_another_search_works_is_left_alone(fitted, out, more):
    before = sorted(out.rglob("*"))
    with FitFolder(out, json.loads((out / "fit-settings.json").read_bytes())["settings"]).held(force=False):
        error = fit(fitted.data, out, *more, code=2).stderr
    assert f"another kdx fit is working in '{out}'" in error
    assert sorted(out.rglob("*")) == before


def test_a_folder_that_a_full_disk_left_empty_is_used(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("kdx.workflows.fit.fit_folder.write_atomic", fail)
        with pytest.raises(OSError, match="No space"):
            begin(tmp_path / "out", {})
    begin(tmp_path / "out", {})


def test_a_missing_package_is_named(dataset, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    error = fit(dataset, tmp_path / "out", code=2).stderr
    assert "kdx fit needs the package 'matplotlib'" in error
    assert 'pip install "kdx[fit]"' in error
