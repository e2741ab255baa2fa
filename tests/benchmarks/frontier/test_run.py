"""Trainings of a settings file: what is kept, continued, refused and replaced."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'kdx[openvino]'")
from benchmarks.frontier import run as frontier
from benchmarks.frontier import training
from benchmarks.frontier.latency import BACKENDS
from benchmarks.frontier.points import VARIANTS, all_points
from benchmarks.frontier.run import FrontierBenchmark
from benchmarks.frontier.table import frontier_table
from benchmarks.frontier.training import FIGURES
from kd_train.training.options import TrainOptions
from kdx.errors import TrainingError

Parse = Callable[..., Namespace]
Row = dict[str, Any]
needs_linux = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="only Linux counts memory there")


class Trainings:
    """Takes the place of trainings: writes down what it is called for, and fails when told to."""

    def __init__(self) -> None:
        self.calls: list[tuple[str | None, int, int | None]] = []
        self.failure: BaseException | None = None

    def __call__(self, data: Path, options: TrainOptions, bundle: Path, rate: float) -> Any:
        assert (data.is_dir(), rate, options.resume) == (True, 0.2, True)
        self.calls.append((options.backbone, options.seed, options.epochs))
        return self

    def variants(self) -> list[Any]:
        return []

    def size(self) -> Row:
        return {"graph_bytes": {}}

    def measure(self, variants: list[str], row: Row) -> Iterator[Row]:
        """Yield FP32 and INT8, and then the students, unless the row has them."""
        if "test" not in row:
            row = {**row, "test": {"fp32": {}}, "refused": {"int8": "a map moved"}}
            yield row
        if self.failure is not None:
            raise self.failure
        yield {**row, "test": {**row["test"], "students": {}}}


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    made = Trainings()
    monkeypatch.setattr(frontier, "Training", made)
    return made


def rows_of(arguments: Namespace) -> list[Row]:
    found: list[Row] = json.loads(arguments.out.read_text(encoding="utf-8"))["found"]["rows"]
    return found


def measure(arguments: Namespace) -> list[Row]:
    FrontierBenchmark("accuracy", arguments).run()
    return rows_of(arguments)


def test_every_training_is_kept_and_none_is_made_twice(parse: Parse, trainings: Trainings) -> None:
    rows = measure(parse("--seeds", "0"))
    assert trainings.calls == [("test_resnet", 0, 2), ("compact-s", 0, 2)]
    assert [(row["pair"], list(row["test"]), row["asked"]["epochs"]) for row in rows] == [
        ("leader", ["fp32", "students"], 2),
        ("small", ["fp32", "students"], 2),
    ]
    assert len(measure(parse())) == 4
    assert trainings.calls[2:] == [("test_resnet", 1, 2), ("compact-s", 1, 2)]


@pytest.mark.parametrize(
    ("failure", "message"),
    [(KeyboardInterrupt(), "the same command continues"), (TrainingError("not finite"), "leader, seed 0: not finite")],
)
def test_what_fails_leaves_what_was_measured(
    parse: Parse, trainings: Trainings, failure: BaseException, message: str
) -> None:
    given = parse("--pairs", "leader", "--seeds", "0")
    trainings.failure = failure
    with pytest.raises(SystemExit, match=message):
        measure(given)
    (row,) = rows_of(given)
    assert (list(row["test"]), row["refused"]) == (["fp32"], {"int8": "a map moved"})
    trainings.failure = None
    (row,) = measure(given)
    assert list(row["test"]) == ["fp32", "students"]


def test_rows_of_other_options_are_not_mixed(parse: Parse, trainings: Trainings, settings: Path) -> None:
    measure(parse("--pairs", "leader", "--seeds", "0"))
    settings.write_text(
        settings.read_text(encoding="utf-8").replace("leader = { epochs = 2 }", "leader = { epochs = 9 }"),
        encoding="utf-8",
    )
    rows = measure(parse("--pairs", "leader", "--seeds", "0"))
    assert [row["asked"]["epochs"] for row in rows] == [2, 9]


def test_a_pair_uses_the_compact_teacher_of_another_ones_run(parse: Parse, settings: Path) -> None:
    settings.write_text(
        settings.read_text(encoding="utf-8").replace('teacher_from = "test_resnet"', 'teacher_from = "leader"'),
        encoding="utf-8",
    )
    benchmark = FrontierBenchmark("accuracy", parse("--pairs", "small"))
    teacher = benchmark.bundle(("cells", "leader", 1)).with_name("run")
    assert benchmark.training(("cells", "small", 1)).options.teacher_from == str(teacher)


def test_a_pair_of_a_peer_is_trained_in_the_python_that_has_it(parse: Parse, settings: Path, tmp_path: Path) -> None:
    text = settings.read_text(encoding="utf-8").replace("leader = { recipe", "kdx = { recipe")
    peer = '[pairs]\nleader = { options = { peer = "anomalib", model = "Padim", image_size = 64, epochs = 0 } }\n'
    settings.write_text(text.replace("[pairs]\n", peer).replace(", workers = 0", ""), encoding="utf-8")
    with pytest.raises(SystemExit, match="leader needs --anomalib PYTHON, an interpreter that has the package"):
        FrontierBenchmark("accuracy", parse()).training(("cells", "leader", 1))
    link = tmp_path / "python"
    link.symlink_to(sys.executable)
    made = FrontierBenchmark("accuracy", parse("--anomalib", str(link))).training(("cells", "leader", 1))
    assert (made.python, made.options.seed, made.options.weights) == (str(link), 1, "random")


def test_calls_at_the_same_time_keep_each_others_rows(parse: Parse, trainings: Trainings) -> None:
    first, second = (FrontierBenchmark("accuracy", parse("--seeds", seed)) for seed in ("0", "1"))
    first.run()
    second.run()
    first.keep(latency=[latency_of("leader", 1)])
    second.keep(latency=[latency_of("small", 1)])
    found = json.loads(parse().out.read_text(encoding="utf-8"))["found"]
    assert len(found["rows"]) == 4
    assert [row["pair"] for row in found["latency"]] == ["leader", "small"]


def latency_of(pair: str, threads: int) -> Row:
    return {"data": "cells", "pair": pair, "precision": "fp32", "backend": "openvino", "threads": threads}


class Timings:
    """Takes the place of timing, on a machine whose name can change; counts what was timed."""

    def __init__(self, parse: Parse) -> None:
        self.parse, self.calls, self.failure, self.cpu = parse, [], None, "A CPU"

    def __call__(self, variants: dict[str, Any], threads: Sequence[int], _: int) -> list[Row]:
        if self.failure is not None:
            raise self.failure
        self.calls.append((list(variants), list(threads)))
        return [{**latency_of(pair, count), "p50_ms": len(self.calls)} for pair in variants for count in threads]

    def machine(self, threads: int, *_: Any) -> Row:
        return {"cpu": self.cpu, "threads": threads, "features": ["avx2"]}

    def time(self, *threads: int, again: bool = False) -> list[Row]:
        FrontierBenchmark("accuracy", self.parse("--seeds", "0")).time(list(threads), 2, again=again)
        found: list[Row] = json.loads(self.parse().out.read_text(encoding="utf-8"))["found"]["latency"]
        return found


@pytest.fixture
def timings(parse: Parse, trainings: Trainings, monkeypatch: pytest.MonkeyPatch) -> Timings:
    made = Timings(parse)
    monkeypatch.setattr(frontier, "time_variants", made)
    monkeypatch.setattr(frontier, "machine_of", made.machine)
    benchmark = FrontierBenchmark("accuracy", parse("--seeds", "0"))
    for pair in ("leader", "small"):
        benchmark.bundle(("cells", pair, 0)).mkdir(parents=True)
    measure(parse("--pairs", "leader", "--seeds", "0"))
    return made


def test_pairs_that_are_measured_whole_are_timed_once(timings: Timings, parse: Parse) -> None:
    timings.time(1)
    (row,) = timings.time(1)
    assert timings.calls == [(["leader"], [1])]
    assert (row["pair"], row["asked"]["epochs"], row["timed_on"]) == (
        "leader",
        2,
        {"cpu": "A CPU", "features": ["avx2"]},
    )
    (size,) = json.loads(parse().out.read_text(encoding="utf-8"))["found"]["sizes"]
    assert (size["pair"], size["asked"], size["graph_bytes"]) == ("leader", row["asked"], {})


def test_latency_is_replaced_only_by_what_was_timed_again(timings: Timings, parse: Parse) -> None:
    timings.time(1, 2)
    before = parse().out.read_bytes()
    old = parse().out.with_name("accuracy.json.old")
    timings.time(1)  # another number of threads is not another machine
    assert parse().out.read_bytes() == before
    assert [row["threads"] for row in timings.time(4)] == [1, 2, 4]
    assert not old.exists()
    before = parse().out.read_bytes()
    timings.cpu, timings.failure = "Another CPU", KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        timings.time(1)
    assert parse().out.read_bytes() == before
    timings.failure = None
    rows = timings.time(1)
    assert [(row["threads"], row["timed_on"]["cpu"], row["p50_ms"]) for row in rows] == [
        (1, "Another CPU", 4), (2, "A CPU", 2), (4, "A CPU", 3),
    ]  # fmt: skip
    assert json.loads(old.read_bytes())["found"] == json.loads(before)["found"]
    assert timings.time(1, again=True)[0]["p50_ms"] == 5


def test_all_pairs_are_timed_in_turns_if_one_lacks_a_latency(timings: Timings, parse: Parse) -> None:
    timings.time(1, 2)
    measure(parse("--pairs", "small", "--seeds", "0"))
    assert {(row["pair"], row["threads"], row["p50_ms"]) for row in timings.time(1)} == {
        ("leader", 1, 3), ("small", 1, 3), ("leader", 2, 2),
    }  # fmt: skip
    assert timings.calls[2:] == [(["leader", "small"], [1])]


def test_latency_of_other_options_is_another_one(timings: Timings, settings: Path, parse: Parse) -> None:
    timings.time(1)
    text = settings.read_text(encoding="utf-8").replace("leader = { epochs = 2 }", "leader = { epochs = 9 }")
    settings.write_text(text, encoding="utf-8")
    FrontierBenchmark("accuracy", parse("--seeds", "0")).bundle(("cells", "leader", 0)).mkdir(parents=True)
    measure(parse("--pairs", "leader", "--seeds", "0"))
    assert [row["asked"]["epochs"] for row in timings.time(1)] == [2, 9]


def test_what_one_cpu_cannot_run_is_tried_again_on_another(parse: Parse, settings: Path, monkeypatch) -> None:
    text = settings.read_text(encoding="utf-8").replace('"int8", "students"', '"bf16"')
    settings.write_text(text, encoding="utf-8")
    given = parse("--pairs", "leader", "--seeds", "0")
    monkeypatch.setattr(frontier, "this_cpu", lambda: {"cpu": "A CPU", "features": ["avx2"]})
    first = FrontierBenchmark("accuracy", given)
    about = {"data": "cells", "pair": "leader", "seed": 0, "asked": first.asked["cells", "leader", 0]}
    unable = {"bf16": {"reason": "no BF16", "on": first.cpu}}
    first.keep({**about, **first.cpu, "test": {"fp32": {}}, "refused": {}, "unable": unable})
    assert not first.missing(retry=True)
    assert first.missing(retry=True, again=True)
    monkeypatch.setattr(frontier, "this_cpu", lambda: {"cpu": "A CPU", "features": ["avx2", "avx512_bf16"]})
    other = FrontierBenchmark("accuracy", given)
    assert list(other.missing(retry=True)) == [("cells", "leader", 0)]
    assert not other.missing()  # nothing has to wait to be timed


def test_solar_cells_come_from_their_package(parse: Parse, monkeypatch) -> None:
    monkeypatch.setattr(frontier, "write_mvtec_layout", lambda root, cell_type: (root / cell_type).mkdir())
    benchmark = FrontierBenchmark("accuracy", parse())
    assert [each.name for each in benchmark.root("elpv_mono").iterdir()] == ["mono"]
    assert benchmark.root("cells") == parse().data / "cells"


def test_other_options_have_other_folders(parse: Parse, settings: Path) -> None:
    before = FrontierBenchmark("accuracy", parse()).bundle(("cells", "small", 0))
    settings.write_text(settings.read_text(encoding="utf-8").replace("damage = 0.5", "damage = 0.3"), encoding="utf-8")
    assert FrontierBenchmark("accuracy", parse()).bundle(("cells", "small", 0)).parent != before.parent


def test_tiles_are_written_as_parts(parse: Parse, tmp_path: Path, make_images) -> None:
    folder = tmp_path / "magnetic" / "train" / "good"
    folder.mkdir(parents=True)
    for number, image in zip((100, 120, 900), make_images(3), strict=True):
        image.save(folder / f"exp1_num_{number}.png")
    path = FrontierBenchmark("accuracy", parse()).write_tiles(folder.parent.parent)
    lines = dict(line.split(",") for line in path.read_text(encoding="utf-8").splitlines())
    assert len(lines) == 3
    assert lines["exp1_num_100.png"] == lines["exp1_num_120.png"] != lines["exp1_num_900.png"]


def test_reasons_do_not_name_the_folder_of_this_machine(parse: Parse, monkeypatch, tmp_path: Path) -> None:
    run = tmp_path / "work" / "students"
    refusals = {"int8": f"too far from FP32; train them longer: kdx quantize {run} --epochs 16 --force"}
    monkeypatch.setattr(training, "export_run", lambda *_, **__: (None, None, refusals))
    monkeypatch.setattr(training, "calibrate_folder", lambda *_, **__: SimpleNamespace(refusals=dict))
    made = FrontierBenchmark("accuracy", parse()).training(("cells", "leader", 0))
    reasons = made._export(run, tmp_path / "x.kdx", ["fp32", "int8"])
    assert reasons == {"int8": "too far from FP32; train them longer: kdx quantize students --epochs 16 --force"}


@needs_linux
@pytest.mark.slow
@pytest.mark.usefixtures("short_search")
def test_the_whole_command_on_a_miniature(given: list[str], settings: Path, monkeypatch, tmp_path: Path) -> None:
    words = [*given, "--settings", str(settings), "--pairs", "leader", "--seeds", "0", "--threads", "1", "--runs", "2"]
    monkeypatch.setattr(sys, "argv", ["python -m benchmarks accuracy", *words])
    monkeypatch.setenv("KDX_CACHE_DIR", "")
    monkeypatch.setattr(frontier, "RESULTS", tmp_path)  # of the figures
    monkeypatch.setattr("benchmarks.frontier.latency._ROUNDS", 3)
    frontier.main()
    out = tmp_path / "accuracy.json"
    record = json.loads(out.read_text(encoding="utf-8"))
    (row,), latency, sizes = (record["found"][name] for name in ("rows", "latency", "sizes"))
    measured = [name for name in ("fp32", "int8", "students") if name not in row["refused"]]
    assert measured[0] == "fp32"
    assert list(row["test"]) == measured == list(row["drawn"])
    assert (row["test"]["fp32"]["good"], row["test"]["fp32"]["defective"]) == (4, 4)
    assert (row["drawn"]["fp32"]["good"], row["drawn"]["fp32"]["defective"]) == (6, 18)
    figures = {
        (part, name, each): row[part][name][each] for part in ("test", "drawn") for name in measured for each in FIGURES
    }
    # Drawn defects are on images that chose the threshold: false rejects are not known.
    unknown = {key for key, value in figures.items() if value is None}
    assert unknown == {("drawn", name, "false_reject_rate") for name in measured}
    assert all(0 <= value <= 1 for value in figures.values() if value is not None)
    assert row["test"]["fp32"]["differ"] == 0
    assert row["images"] == {"train": 6, "held_out": 6}
    assert row["seconds"]["whole"] >= row["seconds"]["students"]
    assert row["seconds"]["quantize"] > 0
    expected = [(backend, each) for backend in BACKENDS for each in measured]
    assert [(each["backend"], each["precision"]) for each in latency] == expected
    assert not any(each["error"] for each in latency)
    assert sizes[0]["memory_mb"]["fp32"] > 0
    lines = frontier_table(record, all_points([record]))
    assert [line.split(" | ")[2].split(",")[0] for line in lines[2 : 2 + len(measured)]] == [
        VARIANTS[each] for each in measured
    ]
    before = out.stat().st_mtime_ns
    monkeypatch.setattr(frontier, "plot_frontiers", lambda points, folder: None)  # the same pictures again
    frontier.main()  # all is there
    assert out.stat().st_mtime_ns == before
