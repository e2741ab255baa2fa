"""The programs in ``embed/examples``: the smallest ones, and the complete lines in C++ and
Python."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import msgspec
import pytest
from PIL import Image

import kdx
from kdx.bundle.open import open_bundle
from kdx.bundle.store import write_manifest
from tests.embed.build import EMBED, REASONS, missing, run
from tests.schema1 import FIXTURES, old_bundle
from tests.spoiled import spoil, spoiled_image

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


@pytest.fixture(scope="module")
def frames(bundle, tmp_path_factory) -> Path:
    """The golden images as files of a camera."""
    folder = tmp_path_factory.mktemp("frames")
    golden = open_bundle(bundle).golden()
    for number, image in enumerate(golden.images):
        grey = image.shape[2] == 1
        suffix, pixels = ("pgm", image[..., 0]) if grey else ("ppm", image)
        Image.fromarray(pixels).save(folder / f"{number}.{suffix}")
    return folder


def test_the_minimal_programs_judge_a_frame(built, bundle, tmp_path):
    golden = open_bundle(bundle).golden()
    (tmp_path / "frame.raw").write_bytes(golden.images[0].tobytes())
    with kdx.load(bundle, backend="openvino", threads=1, precision="int8") as detector:
        expected = detector(golden.images[0])
    for program in ("minimal_c", "minimal_cpp"):
        done = run(built / "examples" / program, bundle, tmp_path / "frame.raw", code=0 if expected.is_good else 1)
        assert float(done.stdout.split()[-1]) == pytest.approx(expected.score, rel=1e-4)
        refused = run(built / "examples" / program, tmp_path / "no.kdx", tmp_path / "frame.raw", code=2)
        assert "there is no bundle" in refused.stderr


@pytest.mark.parametrize("program", ["minimal_c", "minimal_cpp"])
def test_the_minimal_programs_refuse_a_file_of_another_size(built, bundle, tmp_path, program):
    pixels = open_bundle(bundle).golden().images[0].tobytes()
    for wrong in (pixels[:-1], pixels + b"\0", 3 * pixels):
        (tmp_path / "frame.raw").write_bytes(wrong)
        refused = run(built / "examples" / program, bundle, tmp_path / "frame.raw", code=2)
        assert not refused.stdout
        assert "does not have the size of a frame" in refused.stderr


def check_line(done: subprocess.CompletedProcess[str], parts: int) -> list[dict]:
    """Check that every part has exactly one answer, and return the answers."""
    lines = [json.loads(line, parse_constant=pytest.fail) for line in done.stdout.splitlines()]  # JSON has no NaN
    assert sorted(line["part"] for line in lines) == list(range(parts))
    assert done.returncode == (1 if any("why" in line for line in lines) else 0), done.stderr
    return lines


PATIENT = ("--timeout-ms", 3_600_000, "--queue", 50)  # nothing is late or dropped, however slow the machine
FLOODED = ("--timeout-ms", 3_600_000, "--fps", 1e9, "--queue", 2)  # frames come as fast as a loop runs
HURRIED = ("--timeout-ms", 1e-4)  # nothing is in time, however fast the machine: to hand a frame over takes longer


@pytest.mark.parametrize("language", ["C++", "Python"])
def test_a_line_says_why_there_is_no_score(built, tiny_bundle, tmp_path, language):
    path = spoil(Path(shutil.copytree(tiny_bundle, tmp_path / "tile.kdx")))
    wrong = spoiled_image(open_bundle(path).manifest)
    (tmp_path / "frames").mkdir()
    Image.fromarray(wrong[..., 0]).save(tmp_path / "frames/0.pgm")
    cpp = (built / "examples/line_cpp",)
    python = (sys.executable, EMBED / "examples/line_python/line.py")
    program = cpp if language == "C++" else python
    options = ("--fps", 50, "--frames", 3, "--backend", "openvino", *PATIENT)
    for line in check_line(run(*program, path, tmp_path / "frames", *options), 3):
        assert (line["verdict"], line["score"]) == ("undecided", None)
        assert (REASONS[line["reason"]] if language == "C++" else line["reason"]) == "not_finite"


def test_the_cpp_line_says_why_nothing_is_decided(built, tiny_bundle, tmp_path):
    path = Path(shutil.copytree(tiny_bundle, tmp_path / "tile.kdx"))
    manifest = open_bundle(path).manifest
    moved = msgspec.structs.replace(manifest.threshold, roi_sha256="a" * 64)
    write_manifest(path, msgspec.structs.replace(manifest, threshold=moved))
    (tmp_path / "frames").mkdir()
    Image.fromarray(spoiled_image(manifest)[..., 0]).save(tmp_path / "frames/0.pgm")
    options = ("--fps", 50, "--frames", 1, "--precision", "fp32", *PATIENT)
    done = run(built / "examples/line_cpp", path, tmp_path / "frames", *options)
    assert done.stderr.startswith("the region of interest was changed after the calibration")
    assert [line["verdict"] for line in check_line(done, 1)] == ["undecided"]


def require_undecided(lines: list[dict], *reasons: str) -> None:
    """Check that every part is undecided for one of some reasons."""
    assert {line["verdict"] for line in lines} == {"undecided"}
    assert {line["why"] for line in lines} <= set(reasons)


def test_the_cpp_line_answers_for_every_part(built, bundle, frames):
    program = built / "examples/line_cpp"
    lines = check_line(run(program, bundle, frames, "--fps", 50, "--frames", 40, "--threads", 1, *PATIENT), 40)
    scores = {line["part"]: line["score"] for line in lines}
    golden = open_bundle(bundle).golden()
    with kdx.load(bundle, backend="openvino", threads=1, precision="int8") as detector:
        for part in range(len(golden.images)):
            assert scores[part] == pytest.approx(detector(golden.images[part]).score, rel=1e-4)
    # The oldest frames are dropped, and said to be undecided.
    flooded = check_line(run(program, bundle, frames, "--frames", 3000, *FLOODED, code=1), 3000)
    require_undecided([line for line in flooded if "why" in line], "dropped")
    assert "no option" in run(program, bundle, frames, "--speed", 3, code=2).stderr


WRONG_NUMBERS = (
    ("--frames", "5x"),
    ("--frames", "1.5"),
    ("--frames", "-1"),
    ("--queue", "-1"),
    ("--queue", "0"),
    ("--queue", "4 frames"),
    ("--queue", ""),
    ("--timeout-ms", "nan"),
    ("--timeout-ms", "200ms"),
    ("--fps", "0"),
    ("--threads", "two"),
)


@pytest.mark.parametrize(("option", "value"), WRONG_NUMBERS)
def test_the_cpp_line_refuses_numbers_that_mean_nothing(built, tmp_path, option, value):
    # Before anything is read: there is no bundle.
    refused = run(built / "examples/line_cpp", tmp_path, tmp_path, option, value, code=2).stderr
    assert option in refused
    assert "must be" in refused


def test_the_cpp_line_takes_no_late_verdict(built, bundle, frames):
    # The watchdog looks every 2 ms: most verdicts come before it does, and each is too late.
    late = run(built / "examples/line_cpp", bundle, frames, "--fps", 200, "--frames", 20, *HURRIED, code=1)
    require_undecided(check_line(late, 20), "late", "dropped")
    assert late.stderr.startswith("0 judged: 0 good")
    assert "20 unanswered in time" in late.stderr


def test_the_cpp_line_stops_on_a_signal(built, bundle, frames):
    line = subprocess.Popen(
        [built / "examples/line_cpp", bundle, frames, "--frames", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    assert line.stdout is not None
    first = line.stdout.readline()
    line.send_signal(signal.SIGINT)
    rest, summary = line.communicate(timeout=300)
    assert json.loads(first)["part"] == 0
    assert "judged" in summary
    check_line(
        subprocess.CompletedProcess([], line.returncode, first + rest, summary), len((first + rest).splitlines())
    )


PYTHON_LINE = (sys.executable, EMBED / "examples/line_python/line.py")
ON_CPU = ("--backend", "onnxruntime-cpu")


@pytest.mark.slow
def test_the_python_line_answers_for_every_part(bundle, frames):
    program = (*PYTHON_LINE, bundle, frames, *ON_CPU)
    lines = check_line(run(*program, "--fps", 50, "--frames", 30, *PATIENT), 30)
    assert all(line["ms"] >= line["waited_ms"] for line in lines)
    flooded = check_line(run(*program, "--frames", 3000, *FLOODED, code=1), 3000)
    require_undecided([line for line in flooded if "why" in line], "dropped")


def test_the_python_line_takes_no_late_verdict(bundle, frames):
    late = run(*PYTHON_LINE, bundle, frames, *ON_CPU, "--fps", 200, "--frames", 20, *HURRIED, code=1)
    require_undecided(check_line(late, 20), "late", "dropped")
    assert "0 judged: none; 20 unanswered in time" in late.stderr


@pytest.fixture(scope="module")
def line() -> ModuleType:
    """The program in Python as a module."""
    spec = importlib.util.spec_from_file_location("line", PYTHON_LINE[-1])
    module = importlib.util.module_from_spec(spec)
    sys.modules["line"] = module  # dataclasses look it up
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules["line"]
    return module


@pytest.mark.parametrize(("is_ready", "more", "is_killed"), [(False, 60, True), (False, -60, False), (True, 60, False)])
def test_a_replacement_that_hangs_while_it_loads_is_killed(line, is_ready, more, is_killed):
    """``more``: by how many seconds the longest start is exceeded."""
    killed = []
    watched = object.__new__(line.Line)
    watched.arguments, watched.queue, watched.judging = SimpleNamespace(timeout_ms=200.0), (), None
    watched.worker, watched.is_ready = SimpleNamespace(kill=lambda: killed.append(True)), is_ready
    watched.started = time.perf_counter() - line.START_SECONDS - more
    watched.answer_late()
    assert killed == [True] * is_killed


@pytest.mark.parametrize(("option", "value"), WRONG_NUMBERS)
def test_the_python_line_refuses_numbers_that_mean_nothing(line, tmp_path, monkeypatch, capsys, option, value):
    monkeypatch.setattr(sys, "argv", ["line.py", str(tmp_path), str(tmp_path), option, value])
    with pytest.raises(SystemExit, match=r"^2$"):
        line.main()
    assert option in capsys.readouterr().err


def test_the_python_line_reads_whole_frames_where_they_are_judged_in_tiles(line, tmp_path):
    bundle, images = old_bundle("tiled", tmp_path), sorted((FIXTURES / "images").glob("frame-*.png"))
    (tmp_path / "frames").mkdir()
    for image in images:
        shutil.copy(image, tmp_path / "frames")
    manifest = open_bundle(bundle).manifest
    frame = (manifest.camera.height, manifest.camera.width, manifest.camera.channels)
    assert frame[:2] != (manifest.input.height, manifest.input.width)
    pictures = line.read_pictures(str(bundle), str(tmp_path / "frames"))
    assert [picture.shape for picture in pictures] == [frame] * len(images)


def test_a_verdict_that_the_python_line_gets_too_late_is_no_verdict(line, capsys):
    # Without a watchdog, and without a clock that runs.
    def answered(age_ms: float) -> dict:
        class Aged(line.Waiting):
            def age_ms(self) -> float:
                return age_ms

        answers, waiting = line.Answers(timeout_ms=20.0), Aged(3, 0, 0.0)
        answers.judged(waiting, "good", 0.1, [], None, 5.0)
        assert waiting.is_answered
        return json.loads(capsys.readouterr().out)

    assert answered(20.0) == {
        "part": 3,
        "verdict": "good",
        "score": 0.1,
        "frame_faults": [],
        "reason": None,
        "ms": 20.0,
        "waited_ms": 15.0,
    }
    assert answered(20.001) == {"part": 3, "verdict": "undecided", "why": "late"}


@pytest.mark.slow
def test_the_python_line_serves_metrics(bundle, frames):
    pytest.importorskip("prometheus_client")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    line = subprocess.Popen(
        [sys.executable, EMBED / "examples/line_python/line.py", bundle, frames, "--backend", "onnxruntime-cpu",
         "--frames", "1000000", "--timeout-ms", "60000", "--metrics-port", str(port)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
    )  # fmt: skip
    assert line.stdout is not None
    first = json.loads(line.stdout.readline())
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=300) as answer:
        text = answer.read().decode()
    line.send_signal(signal.SIGINT)
    line.communicate(timeout=300)
    counted = [row for row in text.splitlines() if row.startswith("kdx_verdicts_total") and first["verdict"] in row]
    assert sum(float(row.split()[-1]) for row in counted) >= 1
    assert "kdx_verdict_seconds_bucket" in text


def test_the_python_line_outlives_its_inference_process(bundle, frames):
    line = subprocess.Popen(
        [sys.executable, EMBED / "examples/line_python/line.py", bundle, frames, "--backend", "onnxruntime-cpu",
         "--fps", "30", "--frames", "0", "--queue", "2", "--timeout-ms", "3600000"],
        stdout=subprocess.PIPE, encoding="utf-8",
    )  # fmt: skip
    assert line.stdout is not None
    answered: list[dict] = []
    reader = threading.Thread(target=lambda: answered.extend(json.loads(each) for each in line.stdout))

    def judged() -> int:
        return sum("why" not in each for each in answered)

    def workers() -> set[int]:
        return {child for child in children_of(line.pid) if "spawn_main" in command_of(child)}

    try:
        answered.append(json.loads(line.stdout.readline()))
        reader.start()
        (first,) = workers()
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: workers() - {first})
        before = judged()
        wait_until(lambda: judged() > before + 5)  # by the process that took its place
    finally:
        line.send_signal(signal.SIGINT)
        line.wait()
    reader.join()
    # Every part is answered once; one may have been under inference when the line had to stop.
    parts = [each["part"] for each in answered]
    assert len(parts) == len(set(parts))
    assert len(set(range(max(parts))) - set(parts)) <= 1


def wait_until(is_so: Callable[[], object]) -> None:
    """Wait for a condition; the long deadline only ends a test that hangs."""
    deadline = time.monotonic() + 300
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def children_of(process: int) -> list[int]:
    return [
        int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text(encoding="utf-8").split()
    ]


def command_of(process: int) -> str:
    """Return a process's command; empty of one that has ended."""
    try:
        return Path(f"/proc/{process}/cmdline").read_text(encoding="utf-8").replace("\0", " ")
    except OSError:
        return ""
