"""The log of verdicts: intact, bounded, of one graph; and drift: detected by its size, with the
time since when."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sqlite3
import threading
import tracemalloc
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import msgspec
import numpy as np
import pytest

import kdx
from kdx.bundle.open import open_bundle
from kdx.decision.verdict import Decision, Verdict
from kdx.errors import DataError, OptionError, OutputError
from kdx.imaging.frame_faults import FrameFault
from kdx.monitoring import log_file, log_records, verdict_log
from kdx.monitoring.drift import EFFECT, compare, find_drift
from kdx.monitoring.judged_by import JudgedBy
from kdx.monitoring.log_file import LogFacts
from kdx.monitoring.verdict_log import LoggedVerdicts, VerdictLog, read_log
from kdx.runtime.verdict_observer import JudgedFrame
from kdx.station.record import VerdictRecord
from kdx.storage.stamps import stamp_of

FACTS = LogFacts("tile.kdx", "a" * 64, "fp32")


def verdict(score: float, decision: Decision = Decision.GOOD) -> Verdict:
    return Verdict(decision, score, 1.0, np.zeros((2, 2), np.float32))


def write(path: Path, scores, **options) -> None:
    log = VerdictLog(path, FACTS, **options)
    for score in scores:
        log.add(verdict(score), 1.5)
    log.close()
    assert log.lost == 0


# The log


def test_what_is_written_is_read_in_order(tmp_path):
    write(tmp_path / "line.log", [0.5, float("nan"), 0.25])
    write(tmp_path / "line.log", [float("inf"), 1.0])  # the next shift continues the log
    found = read_log(tmp_path / "line.log")
    np.testing.assert_array_equal(found.scores, [0.5, np.nan, 0.25, np.nan, 1.0])
    assert (np.diff(found.times) >= 0).all()
    assert set(found.decisions) == {"good"}
    assert set(found.milliseconds) == {1.5}
    assert found.facts == FACTS


def test_a_log_knows_which_frames_show_a_part(tmp_path):
    log = VerdictLog(tmp_path / "line.log", FACTS)
    log.add(verdict(0.5), 1.5)
    log.add(replace(verdict(0.5, Decision.UNDECIDED), frame_faults=(FrameFault.DARK, FrameFault.FLAT)), 1.5)
    log.close()
    assert read_log(tmp_path / "line.log").has_part.tolist() == [True, False]


def test_a_log_in_a_bundle_would_go_with_it_and_is_refused(tiny_bundle):
    log = tiny_bundle / "line.log"
    with pytest.raises(OutputError, match=r"would lie in .*, which is a bundle"):
        kdx.load(tiny_bundle, "onnxruntime-cpu", 1, log=log)
    assert not log.exists()


def test_a_log_knows_which_scores_are_of_another_region(tiny_bundle, frame, tmp_path):
    mask = np.zeros(frame.shape[:2], np.uint8)
    mask[:16, :16] = 255
    with kdx.load(tiny_bundle, "onnxruntime-cpu", 1, log=tmp_path / "line.log") as detector:
        assert detector(frame, roi=mask).reason is kdx.Reason.OTHER_REGION
        detector(frame)
    assert read_log(tmp_path / "line.log").other_region.tolist() == [True, False]


def test_a_verdict_is_traced_to_part_image_bundle_graph_and_backend(tmp_path, tiny_bundle, dataset):
    log, file = tmp_path / "line.log", dataset / "test/good/012.png"
    bundle = kdx.open_bundle(tiny_bundle)
    for _ in range(2):  # a later call continues the log, and nothing is stored twice
        with kdx.load(tiny_bundle, "onnxruntime-cpu", 1, precision="fp32", log=log) as detector:
            by = JudgedBy.of(detector, bundle)
            frame = kdx.read_image(file, detector.input)
            buffer = frame.copy()
            verdicts = [detector(buffer, part_id="a"), *detector.batch([buffer[..., 0]], part_ids=["b"])]
            buffer[:] = 0  # the camera writes the next frame
    expected = hashlib.sha256(f"uint8 {','.join(map(str, frame.shape))}\n".encode() + frame.tobytes()).hexdigest()
    with contextlib.closing(sqlite3.connect(log)) as base:
        base.row_factory = sqlite3.Row
        rows = [dict(row) for row in base.execute("SELECT * FROM records")]
        assert base.execute("SELECT count(*) FROM sources").fetchone()[0] == 1
    assert [row["part_id"] for row in rows] == ["a", "b"] * 2
    assert set(rows[0]) <= set(VerdictRecord.__struct_fields__)
    for row, verdict in zip(rows, verdicts * 2, strict=True):
        assert row["image_sha256"] == expected
        assert (row["verdict"], row["score"], row["threshold"]) == (
            verdict.decision.value, verdict.score, verdict.threshold,
        )  # fmt: skip
        assert {name: row[name] for name in by.__struct_fields__} == msgspec.structs.asdict(by)
        assert abs(datetime.now(timezone.utc) - datetime.fromisoformat(row["time"])).days == 0


def hashes_in(log: Path) -> list[str | None]:
    with contextlib.closing(sqlite3.connect(log)) as base:
        return [row[0] for row in base.execute("SELECT image_sha256 FROM records")]


def hash_of(frame: np.ndarray) -> str:
    return hashlib.sha256(b"uint8 8,8,1\n" + frame.tobytes()).hexdigest()


def test_frames_for_whose_hashes_there_is_no_room_are_counted(tmp_path, monkeypatch):
    """The caller hashes nothing and does not wait; where none waits, a frame may be larger."""
    monkeypatch.setattr(log_records, "_MOST_BYTES", 63)
    go_on, hashed = threading.Event(), log_records.sha256_file
    monkeypatch.setattr(log_records, "sha256_file", lambda path: go_on.wait() and hashed(path))
    file, frames = tmp_path / "frame.tiff", [np.full((8, 8, 1), value, np.uint8) for value in range(3)]
    file.write_bytes(b"rows")
    log = VerdictLog(tmp_path / "line.log", FACTS)
    log.add(verdict(0.5), 1.0, JudgedFrame(path=file, stamp=stamp_of(file)))  # is hashed until `go_on`
    for frame in frames:
        log.add(verdict(0.5), 1.0, JudgedFrame(frame=frame))
    assert log.without_hash == 2
    go_on.set()
    with pytest.warns(UserWarning, match="no hash in the log") as warned:
        log.close()
    assert len(warned) == 1
    assert hashes_in(log.path) == [hashlib.sha256(b"rows").hexdigest(), hash_of(frames[0]), None, None]


def test_a_frame_is_copied_once_and_by_rows():
    frame = np.arange(3 << 20, dtype=np.uint8).reshape(1024, 1024, 3).transpose(1, 0, 2)
    hashes, go_on = log_records.Hashes(), threading.Event()
    hashes._thread.submit(go_on.wait)
    tracemalloc.start()
    found = hashes.of(JudgedFrame(frame=frame))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    go_on.set()
    assert frame.nbytes <= most < 1.5 * frame.nbytes
    assert found.result() == hashlib.sha256(b"uint8 1024,1024,3\n" + frame.tobytes()).hexdigest()
    hashes.close()


def test_a_frame_in_bands_has_the_hash_of_its_file(tmp_path):
    names = ("frame", "replaced", "missing")
    paths = [tmp_path / f"{name}.tiff" for name in names]
    for path in paths:
        path.write_bytes(b"rows")
    stamps = [stamp_of(path) for path in paths]
    os.utime(paths[1], ns=(stamps[1][1], stamps[1][1] + 1))  # what a program did after the verdict
    paths[2].unlink()
    log = VerdictLog(tmp_path / "line.log", FACTS)
    for name, path, stamp in zip(names, paths, stamps, strict=True):
        log.add(verdict(0.5), 1.0, JudgedFrame(name, path=path, stamp=stamp))
    with pytest.warns(UserWarning, match="no hash in the log"):
        log.close()
    with contextlib.closing(sqlite3.connect(log.path)) as base:
        rows = base.execute("SELECT part_id, image FROM records").fetchall()
    assert rows == [(name, str(path)) for name, path in zip(names, paths, strict=True)]
    assert hashes_in(log.path) == [hashlib.sha256(b"rows").hexdigest(), None, None]
    assert log.without_hash == 2


def old_log(path: Path) -> Path:
    """Return a log of a version that had fewer columns, with one verdict."""
    write(path, [0.5])
    with contextlib.closing(sqlite3.connect(path)) as base, base:
        base.execute("DROP VIEW records")
        for name in log_records._COLUMNS:
            base.execute(f"ALTER TABLE verdicts DROP COLUMN {name}")
    return path


@pytest.mark.parametrize("is_old", [True, False])
def test_a_log_may_be_opened_by_several_processes_at_once(tmp_path, is_old):
    """While one looks at the tables and changes them, another one waits."""
    path = tmp_path / "line.log"
    if is_old:
        old_log(path)
    waited: list[str] = []

    class Interrupted(sqlite3.Connection):
        def execute(self, statement: str, *given: object) -> sqlite3.Cursor:
            if not waited and ("sqlite_master" in statement or "table_info" in statement):
                super().execute(statement, *given).fetchall()
                with contextlib.closing(sqlite3.connect(path, timeout=0)) as other:
                    try:
                        log_file.prepare(other, path, FACTS)
                    except sqlite3.OperationalError as error:
                        waited.append(str(error))
                assert waited == ["database is locked"]
            return super().execute(statement, *given)

    with contextlib.closing(sqlite3.connect(path, factory=Interrupted)) as base:
        log_file.prepare(base, path, FACTS)
    write(path, [0.25])
    assert list(read_log(path).scores) == [0.5, 0.25][not is_old :]


def test_a_log_of_an_earlier_version_is_continued(tmp_path):
    before = read_log(old_log(tmp_path / "line.log"))
    assert (list(before.scores), list(before.other_region)) == ([0.5], [False])
    write(tmp_path / "line.log", [0.25])
    assert list(read_log(tmp_path / "line.log").scores) == [0.5, 0.25]


def test_the_oldest_go_first(tmp_path):
    write(tmp_path / "line.log", range(250), most=100)
    np.testing.assert_array_equal(read_log(tmp_path / "line.log").scores, np.arange(150, 250))


def test_threads_lose_nothing(tmp_path):
    log = VerdictLog(tmp_path / "line.log", FACTS)
    threads = [threading.Thread(target=lambda: [log.add(verdict(i), 1.0) for i in range(500)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    found = read_log(tmp_path / "line.log").scores
    assert sorted(found) == sorted(8 * list(range(500)))


def test_a_log_of_another_graph_is_refused(tmp_path):
    write(tmp_path / "line.log", [0.5])
    for other in (LogFacts("tile.kdx", "b" * 64, "fp32"), LogFacts("tile.kdx", "a" * 64, "int8")):
        with pytest.raises(OutputError, match="another graph"):
            VerdictLog(tmp_path / "line.log", other)
    assert len(read_log(tmp_path / "line.log").scores) == 1


def test_what_is_no_log_is_refused_and_left_alone(tmp_path):
    (tmp_path / "text").write_text("not a database, but longer than its header would be", encoding="utf-8")
    foreign = sqlite3.connect(tmp_path / "foreign")
    foreign.execute("CREATE TABLE customers (name TEXT)")
    foreign.close()
    for name in ("text", "foreign"):
        before = (tmp_path / name).read_bytes()
        with pytest.raises(OutputError):
            VerdictLog(tmp_path / name, FACTS)
        with pytest.raises(DataError):
            read_log(tmp_path / name)
        assert (tmp_path / name).read_bytes()[100:] == before[100:]
    with pytest.raises(DataError, match="there is no log"):
        read_log(tmp_path / "none")
    with pytest.raises(OutputError):
        VerdictLog(tmp_path / "no" / "folder" / "line.log", FACTS)


def test_a_locked_log_costs_the_log_and_not_the_line(tmp_path, monkeypatch):
    import kdx.monitoring.verdict_log as module

    connect = sqlite3.connect
    monkeypatch.setattr(
        module.sqlite3, "connect", lambda *args, **options: connect(*args, **{**options, "timeout": 0.05})
    )
    log = VerdictLog(tmp_path / "line.log", FACTS)
    holder = connect(tmp_path / "line.log")
    holder.execute("BEGIN EXCLUSIVE")
    log.add(verdict(0.5), 1.0)
    with pytest.warns(UserWarning, match="verdicts cannot be written"):
        log.close()
    holder.rollback()
    holder.close()
    assert log.lost == 1
    assert len(read_log(tmp_path / "line.log").scores) == 0


def test_names_that_are_no_text_are_written_and_end_no_log(tmp_path):
    """A thread that ended would lose every later verdict, and nobody would hear of it."""
    log, name = VerdictLog(tmp_path / "line.log", FACTS), os.fsdecode(b"part-\xff")
    log.add(verdict(0.5), 1.0, JudgedFrame(name, path=tmp_path / name))
    with pytest.warns(UserWarning, match="no hash in the log"):  # the file is not there
        log.close()
    with contextlib.closing(sqlite3.connect(log.path)) as base:
        rows = base.execute("SELECT part_id, image FROM records").fetchall()
    assert rows == [("part-\\udcff", f"{tmp_path}/part-\\udcff")]
    assert log.lost == 0


def test_verdicts_that_cannot_be_written_are_counted_whatever_the_reason(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise MemoryError

    log = VerdictLog(tmp_path / "line.log", FACTS)
    monkeypatch.setattr(log, "_write", fail)
    log.add(verdict(0.5), 1.0)
    with pytest.warns(UserWarning, match="verdicts cannot be written"):
        log.close()
    assert log.lost == 1


@pytest.mark.parametrize("is_back", [True, False])
def test_verdicts_after_the_log_was_moved_are_counted_as_missing(tmp_path, is_back):
    """SQLite would go on to write to a file that nobody finds again, and raise nothing."""
    path, elsewhere = tmp_path / "line.log", tmp_path / "moved.log"
    log = VerdictLog(path, FACTS)
    log.close()  # the steps of its thread are taken here
    database = None
    for count in range(3):
        log.add(verdict(count), 1.0)
        with pytest.warns(UserWarning, match="verdicts cannot be written") if count == 1 else contextlib.nullcontext():
            database = log._write_waiting(database)
        if count == 0:
            path.rename(elsewhere)
        elif count == 1 and is_back:
            elsewhere.rename(path)
    assert log.lost == (1 if is_back else 2)
    verdict_log._close(database)
    if is_back:
        assert list(read_log(path).scores) == [0, 2]
    else:
        assert not path.exists()


def test_a_log_that_another_took_the_place_of_is_not_mixed_with_it(tmp_path):
    path, other = tmp_path / "line.log", replace(FACTS, graph_sha256="b" * 64)
    log = VerdictLog(path, FACTS)
    log.close()
    path.unlink()
    VerdictLog(path, other).close()
    log.add(verdict(0.5), 1.0)
    with pytest.warns(UserWarning, match="verdicts cannot be written"):
        assert log._write_waiting(None) is None
    assert (log.lost, len(read_log(path).scores)) == (1, 0)


@pytest.mark.parametrize(
    ("said", "fix"),
    [
        ("database or disk is full", "free space on its disk"),
        ("unable to open database file", "see that you may write to the file and its folder"),
        ("attempt to write a readonly database", "see that you may write to the file and its folder"),
        ("database is locked", "end the program that uses it"),
        ("database disk image is malformed", "move the file away; a new one is created"),
    ],
)
def test_what_to_do_fits_what_is_wrong(tmp_path, said, fix):
    with pytest.raises(OutputError, match=said) as caught, log_file.explained(tmp_path / "line.log", OutputError):
        raise sqlite3.OperationalError(said)
    assert caught.value.fix == fix


def test_a_log_in_a_folder_that_does_not_exist(tiny_bundle, tmp_path):
    with pytest.raises(OutputError, match=r"the folder '.*missing' does not exist") as caught:
        kdx.load(tiny_bundle, log=tmp_path / "missing/line.log")
    assert caught.value.fix == "make the folder, or name another file"


def test_a_damaged_log_is_an_error(tmp_path):
    write(tmp_path / "line.log", range(2000))
    data = bytearray((tmp_path / "line.log").read_bytes())
    data[4096 : len(data) // 2] = bytes(len(data) // 2 - 4096)
    (tmp_path / "line.log").write_bytes(data)
    with pytest.raises(DataError, match="cannot be read or written"):
        read_log(tmp_path / "line.log")


def test_a_detector_writes_every_verdict(tiny_bundle, frame, tmp_path, cli):
    with kdx.load(tiny_bundle, backend="onnxruntime-cpu", log=tmp_path / "line.log") as detector:
        verdicts = [detector(frame), *detector.batch([frame, np.zeros_like(frame)])]
    found = read_log(tmp_path / "line.log")
    np.testing.assert_allclose(found.scores, [each.score for each in verdicts])
    assert list(found.decisions) == [each.decision.value for each in verdicts]
    assert (found.milliseconds > 0).all()
    assert found.facts.graph_sha256 == open_bundle(tiny_bundle).manifest.files["model.onnx"]
    assert "50" in cli("drift", tiny_bundle, tmp_path / "line.log", code=2).stderr


# Drift


@pytest.fixture(scope="module")
def calibrated(tiny_bundle, tmp_path_factory):
    """A bundle whose calibration scores are known: quantiles of the exponential distribution."""
    from kdx.bundle.store import write_manifest
    from kdx.bundle.threshold_checks import rank_of

    path = Path(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("drift") / "tile.kdx"))
    manifest = open_bundle(path).manifest
    scores = [float(s) for s in -np.log1p(-(np.arange(400) + 0.5) / 400)]
    score = scores[rank_of(len(scores), manifest.threshold.false_reject_rate) - 1]
    threshold = msgspec.structs.replace(manifest.threshold, score=score, scores=scores, images=len(scores))
    return write_manifest(path, msgspec.structs.replace(manifest, threshold=threshold))


def logged(bundle, scores, decisions=None, has_part=None, other_region=None):
    facts = LogFacts("tile.kdx", bundle.manifest.files["model.onnx"], "fp32")
    count = len(scores)
    named = np.array(["good"] * count if decisions is None else decisions)
    shown = np.ones(count, bool) if has_part is None else has_part
    elsewhere = np.zeros(count, bool) if other_region is None else other_region
    times, values = np.arange(count) * 60.0, np.asarray(scores, float)
    return LoggedVerdicts(facts, times, values, named, np.ones(count), shown, elsewhere)


def drawn(count, scale=1.0, seed=0):
    return np.random.default_rng(seed).exponential(scale, count)


def test_the_same_parts_do_not_drift(calibrated):
    found = find_drift(calibrated, logged(calibrated, drawn(2000)))
    assert not found.alarm
    assert found.since is None
    assert found.effect < 0.1
    assert (found.recent, found.calibrated) == (500, 400)


def test_the_effect_is_the_largest_difference_of_the_distributions(calibrated):
    # Scores twice as high: F(x) - F(x/2) = e^(-x/2) - e^(-x), at most 1/4 at x = 2 ln 2. A shift of
    # 3 is larger.
    found = find_drift(calibrated, logged(calibrated, drawn(20_000, 2.0)), window=20_000, effect_limit=0.2)
    assert found.effect == pytest.approx(0.25, abs=0.015)
    assert found.direction == "higher"
    assert found.alarm
    assert find_drift(calibrated, logged(calibrated, 3 + drawn(500))).effect > 0.9
    lower = find_drift(calibrated, logged(calibrated, drawn(2000, 0.25)))
    assert (lower.alarm, lower.direction) == (True, "lower")
    median = next(each for each in found.quantiles if each.share == 0.5)
    assert median.calibration == pytest.approx(np.log(2), rel=0.02)
    assert median.recent == pytest.approx(2 * np.log(2), rel=0.05)


def test_few_scores_differ_by_chance_and_raise_no_alarm():
    """20 scores at calibration and 50 parts of the same distribution, as at the start of a line."""
    pairs = np.random.default_rng(0).standard_normal((200, 70))
    found = [compare(pair[20:], pair[:20]) for pair in pairs]
    assert sum(each.effect >= EFFECT for each in found) > 0.2 * len(found)
    assert not any(each.alarm for each in found)
    assert compare(pairs[0][20:] + 3, pairs[0][:20]).alarm


def test_a_few_defective_parts_are_no_drift(calibrated):
    scores = drawn(500)
    scores[::20] += 50  # 5 %
    decisions = np.where(scores > 10, "defective", "good")
    found = find_drift(calibrated, logged(calibrated, scores, decisions))
    assert not found.alarm
    assert found.rejected == pytest.approx(0.05)


def test_frames_without_a_part_are_counted_and_not_compared(calibrated):
    # Every second frame shows the empty conveyor, which scores like nothing at calibration.
    has_part = np.arange(1000) % 2 == 0
    scores = np.full(1000, 20.0)
    scores[has_part] = drawn(500)
    decisions = np.where(has_part, "good", "undecided")
    found = find_drift(calibrated, logged(calibrated, scores, decisions, has_part))
    assert not found.alarm
    assert (found.recent, found.without_part, found.undecided) == (500, 500, 0.5)
    assert find_drift(calibrated, logged(calibrated, scores[has_part])).effect == found.effect
    with pytest.raises(DataError, match="20 scores of frames that show a part"):
        find_drift(calibrated, logged(calibrated, scores[:40], decisions[:40], has_part[:40]))


def test_scores_of_another_region_are_counted_and_not_compared(calibrated):
    elsewhere = np.arange(1000) % 2 == 1
    scores = np.full(1000, 20.0)
    scores[~elsewhere] = drawn(500)
    decisions = np.where(elsewhere, "undecided", "good")
    found = find_drift(calibrated, logged(calibrated, scores, decisions, other_region=elsewhere))
    assert not found.alarm
    assert (found.recent, found.other_region, found.without_part, found.undecided) == (500, 500, 0, 0.5)
    assert find_drift(calibrated, logged(calibrated, scores[~elsewhere])).effect == found.effect
    with pytest.raises(DataError, match="20 scores of frames that show a part, in the bundle's region of interest"):
        find_drift(calibrated, logged(calibrated, scores[:40], decisions[:40], other_region=elsewhere[:40]))


def test_it_says_since_when(calibrated):
    # Parts change after the 3000th, a minute each.
    scores = np.concatenate([drawn(3000), drawn(2000, 4.0, seed=1)])
    found = find_drift(calibrated, logged(calibrated, scores))
    assert found.alarm
    assert found.since is not None
    since = datetime.fromisoformat(found.since)
    assert since == datetime.fromtimestamp(3000 * 60, timezone.utc)


def test_too_few_scores_or_impossible_limits_are_refused(calibrated, tiny_bundle):
    with pytest.raises(DataError, match="49 scores"):
        find_drift(calibrated, logged(calibrated, drawn(49)))
    for options in ({"window": 5}, {"effect_limit": 0.0}, {"effect_limit": 1.5}, {"significance": 1.0}):
        with pytest.raises(OptionError):
            find_drift(calibrated, logged(calibrated, drawn(100)), **options)
    other = replace(logged(calibrated, drawn(100)), facts=FACTS)
    with pytest.raises(DataError, match="another bundle"):
        find_drift(calibrated, other)


def test_the_command_ends_with_1_on_alarm(calibrated, tmp_path, cli):
    facts = LogFacts("tile.kdx", calibrated.manifest.files["model.onnx"], "fp32")
    for name, scale, code in (("same", 1.0, 0), ("drifted", 4.0, 1)):
        log = VerdictLog(tmp_path / name, facts)
        for score in drawn(600, scale):
            log.add(verdict(score), 1.0)
        log.close()
        assert cli("drift", calibrated.path, tmp_path / name, "--json", code=code).json["alarm"] == bool(code)
        shown = cli("drift", calibrated.path, tmp_path / name, code=code).stdout
        assert ("drift since" in shown) == bool(code)


def test_an_effect_that_so_few_scores_cannot_show_is_said(calibrated, tmp_path, cli):
    facts = LogFacts("tile.kdx", calibrated.manifest.files["model.onnx"], "fp32")
    log = VerdictLog(tmp_path / "line.log", facts)
    for score in drawn(60, 2.0):
        log.add(verdict(score), 1.0)
    log.close()
    found = cli("drift", calibrated.path, tmp_path / "line.log", "--significance", 1e-12)
    assert "no drift shown: so few scores may differ by chance" in found.stdout


def test_calibration_keeps_its_scores(tiny_bundle):
    threshold = open_bundle(tiny_bundle).manifest.threshold
    assert len(threshold.scores) == threshold.images
    assert threshold.scores == sorted(threshold.scores)
    assert threshold.score in threshold.scores
