"""Trainings of a settings file: what is kept, continued, refused and replaced."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
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
    benchmark = FrontierBenchmark("accuracy", parse())
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
    first.keep(latency=[1])
    found = json.loads(parse().out.read_text(encoding="utf-8"))["found"]
    assert len(found["rows"]) == 4
    assert found["latency"] == [1]


def test_pairs_that_are_measured_whole_are_timed_once(parse: Parse, trainings: Trainings, monkeypatch) -> None:
    timed = []
    monkeypatch.setattr(
        frontier, "time_variants", lambda variants, *_: timed.append(list(variants)) or [{"pair": "leader"}]
    )
    benchmark = FrontierBenchmark("accuracy", parse("--seeds", "0"))
    for pair in ("leader", "small"):
        benchmark.bundle(("cells", pair, 0)).mkdir(parents=True)
    measure(parse("--pairs", "leader", "--seeds", "0"))
    for _ in range(2):
        FrontierBenchmark("accuracy", parse("--seeds", "0")).time([1], 2)
    found = json.loads(parse().out.read_text(encoding="utf-8"))["found"]
    assert timed == [["leader"]]
    assert found["latency"] == [{"data": "cells", "pair": "leader"}]
    assert found["sizes"] == [{"data": "cells", "pair": "leader", "graph_bytes": {}}]
    FrontierBenchmark("accuracy", parse("--seeds", "0")).time([1], 2, again=True)
    assert timed == [["leader"]] * 2


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
def test_the_whole_command_on_a_miniature(given: list[str], settings: Path, monkeypatch, tmp_path: Path) -> None:
    words = [*given, "--settings", str(settings), "--pairs", "leader", "--seeds", "0", "--threads", "1", "--runs", "2"]
    monkeypatch.setattr(sys, "argv", ["python -m benchmarks accuracy", *words])
    monkeypatch.setenv("KDX_CACHE_DIR", "")
    monkeypatch.setattr(frontier, "RESULTS", tmp_path)  # of the figures
    frontier.main()
    out = tmp_path / "accuracy.json"
    record = json.loads(out.read_text(encoding="utf-8"))
    (row,), latency, sizes = (record["found"][name] for name in ("rows", "latency", "sizes"))
    measured = [name for name in ("fp32", "int8", "students") if name not in row["refused"]]
    assert measured[0] == "fp32"
    assert list(row["test"]) == measured == list(row["drawn"])
    assert (row["test"]["fp32"]["good"], row["test"]["fp32"]["defective"]) == (4, 4)
    assert (row["drawn"]["fp32"]["good"], row["drawn"]["fp32"]["defective"]) == (6, 18)
    assert all(0 <= row[part][name][each] <= 1 for part in ("test", "drawn") for name in measured for each in FIGURES)
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
    frontier.main()  # all is there
    assert out.stat().st_mtime_ns == before
