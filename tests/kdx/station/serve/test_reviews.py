"""Parts that are not good are kept for review, within bounds, and never choose a threshold."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import kdx
from kdx.errors import BackendError, DataError, ImageError, InputError, OutputError
from kdx.monitoring.judged_by import JudgedBy
from kdx.station.record import NotJudged, Shown, judged, new_verdict_id, not_judged
from kdx.station.serve.answers import Asked
from kdx.station.serve.live import NO_BUNDLE, Seen
from kdx.station.serve.review_files import heat_file
from kdx.station.serve.reviews import _GOING, Reviews
from kdx.station.serve.sent_image import Layout
from kdx.station.serve.statements import ConflictError, ReviewError, Statement

GOOD, DEFECTIVE = (Statement(said=said, who="Kim") for said in ("good", "defective"))


@pytest.fixture(scope="module")
def detector(tiny_bundle: Path) -> Iterator[kdx.Detector]:
    with kdx.load(tiny_bundle, "onnxruntime-cpu", 1) as loaded:
        loaded.threshold = loaded.pixel_threshold = 1e-3  # every part is defective
        yield loaded


@pytest.fixture(scope="module")
def images(dataset: Path) -> list[Path]:
    return sorted(dataset.glob("test/*/*.png"))


@pytest.fixture
def seen(detector: kdx.Detector, images: list[Path], tiny_bundle: Path) -> list[Seen]:
    by = JudgedBy.of(detector, kdx.open_bundle(tiny_bundle))

    def of(file: Path) -> Seen:
        verdict = detector(kdx.read_image(file, detector.input))
        record = judged(Shown(image=None, image_sha256=None), verdict, by)
        return Seen("tiny", record, file.read_bytes(), Asked(), verdict, 1.0)

    return [of(file) for file in images]


@contextlib.contextmanager
def opened(folder: Path, detector: kdx.Detector, most: int = 1 << 30) -> Iterator[Reviews]:
    reviews = Reviews(folder, most, {"tiny": detector})
    with contextlib.closing(reviews):
        yield reviews


def rows(folder: Path, query: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(folder / "reviews.sqlite")) as database:
        return database.execute(query).fetchall()


def test_what_was_said_is_kept_with_who_and_when(tmp_path, detector, seen):
    one, two = (each.record.verdict_id for each in seen[:2])
    with opened(tmp_path, detector) as reviews:
        for each in seen[:2]:
            reviews.add(each)
        queue = reviews.waiting().result()
        assert (queue.waiting, [part.verdict_id for part in queue.parts]) == (2, [one, two])
        reviews.say(one, GOOD).result()
        reviews.say(one, DEFECTIVE).result()
        reviews.say(two, Statement(said=None, who="Lee")).result()
        with pytest.raises(ReviewError, match="no part"):
            reviews.say("another", GOOD).result()
    with opened(tmp_path, detector) as reviews:  # after the server was started again
        queue = reviews.waiting().result()
        assert (queue.waiting, queue.said) == (1, {"good": 0, "defective": 1})
    said = rows(tmp_path, "SELECT verdict_id, said, who FROM statements ORDER BY id")
    assert said == [(one, "good", "Kim"), (one, "defective", "Kim"), (two, None, "Lee")]
    assert all(time for (time,) in rows(tmp_path, "SELECT time FROM statements"))
    files = sorted(path.relative_to(tmp_path).as_posix() for path in (tmp_path / "reviewed").rglob("*.png"))
    assert files == [f"reviewed/tiny/test/defective/{one}.png"]
    assert (tmp_path / files[0]).read_bytes() == seen[0].data


def test_good_parts_do_not_come_to_the_queue(tmp_path, detector, seen):
    good = msgspec.structs.replace(seen[0].record, verdict="good")
    with opened(tmp_path, detector) as reviews:
        reviews.add(dataclasses.replace(seen[0], record=good))
        assert reviews.waiting().result().waiting == 0


def test_frames_without_a_file_format_are_kept_as_png(tmp_path, detector, images, seen):
    frame = kdx.read_image(images[0], detector.input)
    raw = Seen("tiny", seen[0].record, frame.tobytes(), Asked(layout=Layout(frame.shape)), seen[0].verdict, 1.0)
    with opened(tmp_path, detector) as reviews:
        reviews.add(raw)
        file, bundle = reviews.picture(seen[0].record.verdict_id, heat=False).result()
        assert bundle == "tiny"
        assert (kdx.read_image(file, detector.input) == frame).all()


def test_what_could_not_be_read_is_kept_as_it_was_sent_and_is_in_no_data_set(tmp_path, detector, seen):
    by = JudgedBy.of(detector, detector.origin.reopen())
    shown, error = Shown(image=None, image_sha256="a" * 64, part_id="7"), ImageError("it is cut off")
    cut = Seen("tiny", not_judged(shown, error, by), seen[0].data[:700], Asked(), None, 1.0)
    wrong = not_judged(shown, InputError("the body does not have the length of the frame"), by)
    short = Seen("tiny", wrong, b"short", Asked(layout=Layout((64, 64))), None, 1.0)
    nobody = not_judged(shown, DataError("no bundle"), None, NotJudged.NO_BUNDLE)
    other = Seen(NO_BUNDLE, nobody, seen[1].data, Asked(), None, 1.0)
    with opened(tmp_path, detector) as reviews:
        for each in (cut, short):
            reviews.refuse(each)
        reviews.add(other)
        queue = reviews.waiting().result()
        assert [part.verdict for part in queue.parts] == ["unreadable", "unreadable", "undecided"]
        for each in (cut, short, other):
            reviews.say(each.record.verdict_id, GOOD).result()
        assert reviews.waiting().result().said == {"good": 3, "defective": 0}
    with opened(tmp_path, detector):  # it is as it was
        assert not (tmp_path / "reviewed").exists()
    kept = {
        path.relative_to(tmp_path / "images").as_posix(): path.read_bytes() for path in tmp_path.rglob("images/*/*")
    }
    ids = [each.record.verdict_id for each in (cut, short, other)]
    assert kept == {
        f"tiny/{ids[0]}.png": cut.data, f"tiny/{ids[1]}.bin": b"short", f"{NO_BUNDLE}/{ids[2]}.png": seen[1].data,
    }  # fmt: skip


def test_a_frame_whose_reading_failed_is_kept_as_it_was_sent_and_is_in_no_data_set(tmp_path, detector):
    """Its part is undecided: somebody must look at it, and reading it again fails again."""
    by = JudgedBy.of(detector, detector.origin.reopen())
    record = not_judged(Shown(image=None, image_sha256=None, part_id="7"), BackendError("a bug"), by)
    with opened(tmp_path, detector) as reviews:
        reviews.add(Seen("tiny", record, b"short", Asked(layout=Layout((64, 64))), None, None))
        queue = reviews.waiting().result()
        assert ([part.verdict for part in queue.parts], queue.lost) == (["undecided"], 0)
        reviews.say(record.verdict_id, GOOD).result()
    with opened(tmp_path, detector):
        assert not (tmp_path / "reviewed").exists()
    assert (tmp_path / f"images/tiny/{record.verdict_id}.bin").read_bytes() == b"short"


def test_what_could_not_be_read_goes_first(tmp_path, detector, seen):
    record = not_judged(Shown(image=None, image_sha256=None), ImageError("noise"), None)
    with opened(tmp_path, detector, most=100_000) as reviews:
        reviews.add(seen[0])
        for _ in range(3):
            fresh = msgspec.structs.replace(record, verdict_id=new_verdict_id())
            reviews.refuse(Seen("tiny", fresh, bytes(60_000), Asked(), None, 1.0))
        queue = reviews.waiting().result()
    assert seen[0].record.verdict_id in [part.verdict_id for part in queue.parts]
    assert (queue.waiting, queue.lost) == (2, 2)


def test_the_folder_has_a_bound_and_keeps_what_was_said(tmp_path, detector, seen):
    names = [each.record.verdict_id for each in seen]
    with opened(tmp_path / "one", detector) as reviews:
        reviews.add(seen[0])
        reviews.waiting().result()
        ((size,),) = rows(tmp_path / "one", "SELECT max(bytes) FROM parts")
    with opened(tmp_path / "few", detector, most=3 * size) as reviews:
        reviews.add(seen[0])
        reviews.say(names[0], DEFECTIVE).result()
        for each in seen[1:]:
            reviews.add(each)
        queue = reviews.waiting().result()
    kept = sum(path.stat().st_size for path in (tmp_path / "few/images").rglob("*.png"))
    assert kept <= 3 * size
    assert queue.waiting + queue.lost == len(seen) - 1
    assert queue.parts[-1].verdict_id == names[-1]
    assert (tmp_path / f"few/reviewed/tiny/test/defective/{names[0]}.png").is_file()


def test_an_image_that_cannot_be_removed_keeps_no_other_part_out(tmp_path, detector, seen, monkeypatch):
    with opened(tmp_path / "one", detector) as reviews:
        reviews.add(seen[0])
        reviews.waiting().result()
        ((size,),) = rows(tmp_path / "one", "SELECT max(bytes) FROM parts")
    with opened(tmp_path / "few", detector, most=size) as reviews:
        reviews.add(seen[0])
        with monkeypatch.context() as patch:

            def fail(image: Path) -> None:
                raise PermissionError(13, "Permission denied", str(image))

            patch.setattr("kdx.station.serve.reviews.remove_image", fail)
            reviews.add(dataclasses.replace(seen[0], record=seen[1].record))
            queue = reviews.waiting().result()
        assert ([part.verdict_id for part in queue.parts], queue.lost) == ([seen[1].record.verdict_id], 1)


def test_the_parts_that_go_first_are_found_without_looking_at_all(tmp_path, detector):
    """The folder is full after some days, and then each further part asks for them."""
    with opened(tmp_path, detector):
        plan = [step for *_, step in rows(tmp_path, f"EXPLAIN QUERY PLAN {_GOING}")]
    assert "SCAN parts USING INDEX parts_going" in plan
    assert not [step for step in plan if "TEMP B-TREE" in step]


def test_a_full_disk_loses_the_part_and_nothing_else(tmp_path, detector, seen, monkeypatch):
    with opened(tmp_path, detector) as reviews:
        with monkeypatch.context() as patch:

            def fail(*given: object) -> None:
                raise OSError(28, "No space left on device")

            patch.setattr("kdx.station.serve.review_files.write_atomic", fail)
            reviews.add(seen[0])
            assert reviews.waiting().result().lost == 1
        reviews.add(seen[1])
        assert [part.verdict_id for part in reviews.waiting().result().parts] == [seen[1].record.verdict_id]


def test_a_statement_is_kept_whole_or_not_at_all(tmp_path, detector, seen, monkeypatch):
    one = seen[0].record.verdict_id
    with opened(tmp_path, detector) as reviews:
        reviews.add(seen[0])
        with monkeypatch.context() as patch:

            def fail(*given: object) -> None:
                raise OSError(28, "No space left on device")

            patch.setattr("kdx.station.serve.reviewed_folder.write_atomic", fail)
            with pytest.raises(OutputError, match="not kept: No space left on device"):
                reviews.say(one, GOOD).result()
        assert reviews.waiting().result().waiting == 1
        assert rows(tmp_path, "SELECT * FROM statements") == []
        reviews.say(one, GOOD).result()
        assert reviews.waiting().result().said == {"good": 1, "defective": 0}


def test_each_bundle_has_its_own_count_and_first_parts(tmp_path, detector, seen, monkeypatch):
    monkeypatch.setattr("kdx.station.serve.reviews._ON_PAGE", 2)
    with contextlib.closing(Reviews(tmp_path, 1 << 30, {"tiny": detector, "nut": detector})) as reviews:
        for number, each in enumerate(seen[:5]):
            reviews.add(dataclasses.replace(each, bundle="nut" if number == 4 else "tiny"))
        names = [each.record.verdict_id for each in seen]
        queue = reviews.waiting().result()
        assert [part.verdict_id for part in queue.parts] == [names[0], names[1], names[4]]
        assert queue.bundles == {
            "tiny": {"waiting": 4, "good": 0, "defective": 0},
            "nut": {"waiting": 1, "good": 0, "defective": 0},
        }
        for name in names[:2]:
            reviews.put_off(name).result()  # the parts behind those of the page have their turn
        assert [part.verdict_id for part in reviews.waiting().result().parts] == [names[2], names[3], names[4]]
        with pytest.raises(ReviewError, match="no part"):
            reviews.put_off("another").result()
        assert reviews.waiting().result().waiting == 5


def test_a_statement_does_not_replace_one_that_the_operator_did_not_see(tmp_path, detector, seen):
    one = seen[0].record.verdict_id
    with opened(tmp_path, detector) as reviews:
        reviews.add(seen[0])
        reviews.say(one, Statement(said="good", who="Kim", before=None)).result()
        for said, before in (("defective", None), (None, "defective")):
            with pytest.raises(ConflictError, match="good by another statement"):
                reviews.say(one, Statement(said=said, who="Lee", before=before)).result()
        assert reviews.waiting().result().said == {"good": 1, "defective": 0}
        reviews.say(one, Statement(said=None, who="Kim", before="good")).result()
        assert reviews.waiting().result().waiting == 1


def test_the_queue_is_read_by_an_index(tmp_path, detector):
    with opened(tmp_path, detector):
        plan = rows(tmp_path, "EXPLAIN QUERY PLAN SELECT bundle, said, count(*) FROM parts GROUP BY bundle, said")
    assert "COVERING INDEX parts_by_bundle" in plan[0][3]


def test_a_part_that_never_fits_removes_no_other(tmp_path, detector, seen):
    large = dataclasses.replace(seen[3], data=seen[3].data + bytes(1 << 20))
    with opened(tmp_path, detector, most=1 << 20) as reviews:
        for each in seen[:3]:
            reviews.add(each)
        reviews.add(large)
        queue = reviews.waiting().result()
    assert [part.verdict_id for part in queue.parts] == [each.record.verdict_id for each in seen[:3]]
    assert queue.lost == 1
    assert len(list((tmp_path / "images").rglob("*.heat.png"))) == 3


def labelled(folder: Path) -> list[str]:
    return sorted(f"{path.parent.name}/{path.stem}" for path in (folder / "reviewed").rglob("*.png"))


@pytest.mark.parametrize("step", ["add_image", "keep_image"])
def test_a_statement_that_is_changed_agrees_with_the_data_set(tmp_path, detector, seen, monkeypatch, step):
    one = seen[0].record.verdict_id
    with opened(tmp_path, detector) as reviews:
        reviews.add(seen[0])
        reviews.say(one, GOOD).result()
        with monkeypatch.context() as patch:

            def fail(*given: object) -> None:
                raise OSError(28, "No space left on device", "good")

            patch.setattr(f"kdx.station.serve.reviews.{step}", fail)
            with pytest.raises(OutputError, match="No space left on device"):
                reviews.say(one, DEFECTIVE).result()
        said = reviews.waiting().result().said
        assert said == {"good": int(step == "add_image"), "defective": int(step == "keep_image")}
        assert f"{'good' if step == 'add_image' else 'defective'}/{one}" in labelled(tmp_path)
    with opened(tmp_path, detector):
        assert labelled(tmp_path) == [f"{'good' if step == 'add_image' else 'defective'}/{one}"]


def test_the_data_set_is_mended_at_the_start(tmp_path, detector, seen):
    one, two = (each.record.verdict_id for each in seen[:2])
    with opened(tmp_path, detector) as reviews:
        for each in seen[:2]:
            reviews.add(each)
        reviews.say(one, GOOD).result()
    test = tmp_path / "reviewed/tiny/test"
    (test / "good" / f"{one}.png").rename(test / "good" / f"{two}.png")  # two labels that nobody gave
    (test / "good/own.png").write_bytes(b"")
    (tmp_path / "images/tiny/left.png").write_bytes(b"")
    with opened(tmp_path, detector):
        assert labelled(tmp_path) == sorted([f"good/{one}", "good/own"])
    assert not (tmp_path / "images/tiny/left.png").exists()
    assert len(list((tmp_path / "images/tiny").iterdir())) == 4


@pytest.mark.parametrize("failing", ["review_files.heat_file", "reviews.heat_of"])
def test_what_fails_on_the_way_leaves_no_file_and_is_counted(tmp_path, detector, seen, monkeypatch, capsys, failing):
    with opened(tmp_path, detector) as reviews, monkeypatch.context() as patch:
        answers = iter([ValueError("a fault")])
        original = heat_file

        def fail(*given: Any) -> Path:
            for error in answers:
                raise error
            return original(*given)

        patch.setattr(f"kdx.station.serve.{failing}", fail)
        reviews.add(seen[0])
        queue = reviews.waiting().result()
    assert (queue.waiting, queue.lost) == (0, 1)
    assert [path for path in (tmp_path / "images").rglob("*") if path.is_file()] == []
    assert "a fault" in capsys.readouterr().err


def test_a_folder_belongs_to_one_server(tmp_path, detector):
    with opened(tmp_path, detector), pytest.raises(OutputError, match="another server"):
        Reviews(tmp_path, 1, {})
    (tmp_path / "other").mkdir()
    with contextlib.closing(sqlite3.connect(tmp_path / "other/reviews.sqlite")) as database:
        database.execute("CREATE TABLE mine (x)")
    with pytest.raises(OutputError, match="holds no reviews"):
        Reviews(tmp_path / "other", 1, {})
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot be kept"):
        Reviews(tmp_path / "file", 1, {})


def test_what_was_said_measures_a_bundle_and_chooses_no_threshold(tmp_path, detector, seen, tiny_bundle, dataset, cli):
    with opened(tmp_path, detector) as reviews:
        for number, each in enumerate(seen):
            reviews.add(each)
            reviews.say(each.record.verdict_id, GOOD if number < 4 else DEFECTIVE).result()
    reviewed = tmp_path / "reviewed/tiny"
    found = cli("evaluate", tiny_bundle, reviewed, "--backend", "onnxruntime-cpu", "--json").json
    assert (found["good"], found["defective"]) == (4, 4)
    assert [each["count"] for each in found["remarks"] if each["kind"] == "chosen_by_score"] == [8]
    page = tmp_path / "report.html"
    cli("report", tiny_bundle, reviewed, "-o", page, "--no-latency")
    assert "chosen by their score" in page.read_text(encoding="utf-8")
    bundle = shutil.copytree(tiny_bundle, tmp_path / "tiny.kdx")
    with_defects = ("--with-defects", reviewed / "test/defective")
    assert "chosen by their score" in cli("calibrate", bundle, dataset, *with_defects).stderr
    for folder in (reviewed, reviewed / "test/good"):
        assert "chosen by their score" in cli("calibrate", bundle, folder, code=2).stderr


def test_a_folder_of_other_files_is_refused_and_left_alone(tiny_bundle, tmp_path, detector) -> None:
    data = tmp_path / "parts"
    (data / "images").mkdir(parents=True)
    (data / "images" / "a.png").write_bytes(b"mine")
    for folder in (data, shutil.copytree(tiny_bundle, tmp_path / "tile.kdx")):
        before = sorted(folder.rglob("*"))
        with pytest.raises(OutputError, match="holds other files, and no reviews"):
            Reviews(folder, 1 << 30, {"tiny": detector})
        assert sorted(folder.rglob("*")) == before
    with opened(tmp_path / "empty", detector), pytest.raises(OutputError, match="another server"):
        Reviews(tmp_path / "empty", 1 << 30, {"tiny": detector})
