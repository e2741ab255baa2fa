"""Fixtures that every room shares: a miniature data set of real images, a tiny run and bundle, the
command line."""

from __future__ import annotations

import functools
import gc
import json
import os
import re
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from kdx.runtime.backend import Backend
from kdx.runtime.latency import Latency
from tests.frames import TILE, write_frames
from tests.images import cell_paths
from tests.once import made_once, shared_folder

# Networks this small gain nothing from more threads, and lose much where the cores are busy. Torch
# reads it once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Where a test asks for more, threads that have nothing to do sleep.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

BACKBONE = "test_resnet"  # timm's own miniature: it builds, trains and exports in seconds
SIZE = 64
# The height and width of the images that the graphs of all methods take, which those graphs resize,
# and the sigma of their blur.
CAMERA, BLUR = (72, 80), 1.5

METHODS = (
    "dskd", "dual", "dual-det", "dual-loc", "mixed-teacher", "reduced-student", "reverse-distillation", "stpm",
)  # fmt: skip

# Held out of 12 good images: 6, enough for a false-reject rate of 0.2.
TINY_OPTIONS = (
    *("--backbone", BACKBONE, "--weights", "random", "--image-size", str(SIZE), "--batch-size", "4"),
    *("--validation-fraction", "0.5", "--workers", "0", "--device", "cpu", "--learning-rate", "0.05"),
)

# On a machine that only runs bundles there is no PyTorch: tests that need it are left out there, or
# skipped.
_NEEDS_TORCH = re.compile(
    r"^(import|from) (torch|onnx|kd_train|kd_export|tests\.(pairs|students|spoiled))\b", re.MULTILINE
)
_MISSING = re.compile(r"needs the package '\S+', which is not installed")


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out test files that import PyTorch where it is not installed."""
    if find_spec("torch") is not None or not collection_path.name.startswith("test_"):
        return None
    return bool(_NEEDS_TORCH.search(collection_path.read_text(encoding="utf-8"))) or None


# Fixtures that train or export every method, train on tiles, quantise, search, or build C++.
SLOW_FIXTURES = frozenset({"built", "exported", "fitted", "int8_bundle", "tiled", "trained"})


# Files that take long for their number of tests, the longest first. They begin first, so that no
# process works through one while the others have nothing left to do.
LONG_FILES = (
    "embed/test_sanitized.py", "test_guides.py", "kdx/workflows/fit/test_fit.py",
    "kd_train/training/test_quantization_methods.py", "kdx/workflows/many/test_train_many.py",
    "kdx/runtime/openvino/test_shared_teacher.py", "robustness/test_station.py", "robustness/test_kill.py",
    "kdx/archive/test_score.py", "benchmarks/gpu/test_run.py", "kdx/test_lean_import.py",
    "kdx/workflows/test_export_int8.py", "robustness/test_storage.py", "embed/test_signing.py",
    "benchmarks/frontier/test_run.py", "kd_train/training/test_checkpoints.py", "embed/test_loading.py",
    "kd_export/graph/test_border.py", "kdx/loading/test_group.py", "kernels/test_interpreted.py",
    "embed/test_library.py", "kd_train/training/test_quantization.py", "kdx/archive/test_score_ray.py",
    "kdx/verification/test_held_out.py", "embed/test_decisions.py", "parity/test_onnxruntime.py",
    "kernels/test_compiled.py", "kd_export/graph/test_fake_quantizer.py", "embed/test_examples.py",
    "kd_train/training/test_source_comparison.py", "kd_train/models/test_quantized_pair.py",
    "kd_train/training/test_tiled_detector.py", "kd_export/precision/test_precision_graphs.py",
    "benchmarks/training/test_run.py",
)  # fmt: skip

# Files in which everything trains, exports, builds C++ or starts Ray.
SLOW_FILES = (
    "embed/test_examples.py", "embed/test_strips.py", "kd_train/training/test_checkpoints.py",
    "kd_train/training/test_distillation.py", "kd_train/training/test_initial_students.py",
    "kd_train/training/test_quantization.py", "kd_train/training/test_trainer.py",
    "kdx/archive/test_score_ray.py", "kdx/runtime/openvino/test_shared_teacher.py",
    "kdx/verification/test_int8_students.py", "kdx/workflows/many/test_shared_teacher.py",
    "kdx/workflows/many/test_train_many.py", "robustness/test_kill.py", "robustness/test_storage.py",
)  # fmt: skip


def pytest_configure() -> None:
    """Let Ctrl-C reach this process and those that it starts: the job of a shell that was started
    in the background ignores it, and so would they."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _existing(name: str) -> Path:
    path = Path(__file__).parent / name
    if not path.is_file():
        raise pytest.UsageError(f"tests/conftest.py names a file that is not there: {name}")
    return path


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Mark as slow whatever needs a slow fixture or lies in a slow file, so that ``-m "not slow"``
    makes none of them; put the longest files first, and then those with the most tests."""
    slow = {_existing(name) for name in SLOW_FILES}
    for item in items:
        if item.path in slow or SLOW_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
    yield  # pytest leaves out what is not asked for
    counts = Counter(item.path for item in items)
    ranks = {_existing(name): rank for rank, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: (ranks.get(item.path, len(ranks)), -counts[item.path]))


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Leave everything imported so far out of later garbage collections, which otherwise walk over
    hundreds of thousands of objects of PyTorch and the tests again and again."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Let the end of the process free everything: libraries report what is left as leaks."""
    gc.unfreeze()


@dataclass(frozen=True)
class CliResult:
    """What a command returned and printed."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.stdout.splitlines()]


def invoke(*args: object, code: int | None = 0) -> CliResult:
    """Call the command line in this process; ``code`` is the exit status it must return (None:
    any)."""
    from typer.testing import CliRunner

    from kdx.cli import output
    from kdx.cli.app import app

    output.out.width = output.err.width = 10_000  # messages are not broken over lines
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    missing = _MISSING.search(result.stdout + result.stderr)
    if missing and find_spec("torch") is None:
        pytest.skip(missing.group())
    if code is not None:
        assert result.exit_code == code, f"exit {result.exit_code}\n{result.stdout}\n{result.stderr}"
    return CliResult(result.exit_code, result.stdout, result.stderr)


def cell_images(count: int, *, offset: int = 0, size: int = SIZE) -> list[Image.Image]:
    """Return real solar cells, brought to a small size, grey."""
    files = cell_paths()[offset : offset + count]
    assert len(files) == count
    return [Image.open(file).convert("L").resize((size, size)) for file in files]


def write_dataset(root: Path, *, train: int = 12, good: int = 4, scratch: int = 4, masks: bool = True) -> Path:
    """Write a miniature MVTec layout of real images; the scratches are drawn, and their masks are
    exact."""
    images = cell_images(train + good + scratch)
    for name in ("train/good", "test/good", "test/scratch", "ground_truth/scratch")[: 4 if masks else 3]:
        (root / name).mkdir(parents=True)
    for index, image in enumerate(images):
        if index < train:
            image.save(root / f"train/good/{index:03d}.png")
        elif index < train + good:
            image.save(root / f"test/good/{index:03d}.png")
        else:
            mask = Image.new("L", image.size)
            line = [(8 + index % 5, 10), (48, 40 + index % 7)]
            ImageDraw.Draw(image).line(line, fill=255, width=4)
            ImageDraw.Draw(mask).line(line, fill=255, width=4)
            image.save(root / f"test/scratch/{index:03d}.png")
            if masks:
                mask.save(root / f"ground_truth/scratch/{index:03d}_mask.png")
    return root


@pytest.fixture(scope="session", autouse=True)
def own_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Keep what kdx measures and compiles here out of the user's cache; the settings of tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDX_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield settings()


def settings() -> dict[str, str]:
    """The settings of kdx in the environment."""
    return {name: value for name, value in os.environ.items() if name.startswith("KDX_")}


def stated_latency(name: str, ms: float, runs: int) -> Latency:
    rate = 1e3 / ms
    return Latency(
        name=name, batch=1, runs=runs, warm_up=0, p50_ms=ms, p95_ms=ms, p99_ms=ms, max_ms=ms, images_per_second=rate
    )


@pytest.fixture(scope="session", autouse=True)
def auto_depends_on_no_speed() -> Iterator[None]:
    """Let ``auto`` take the first backend that passes, and not the fastest.

    Two backends of a small graph take about the same time. Which one is faster differs between two
    calls on a loaded machine, and so do the last digits of the scores.
    """

    def in_order(backends: Sequence[Backend], images: object, *, runs: int, **_: object) -> list[Latency]:
        return [stated_latency(backend.name, index + 1.0, runs) for index, backend in enumerate(backends)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdx.verification.backend_choice.time_backends", in_order)
        yield


@pytest.fixture(scope="session", autouse=True)
def commands_are_built_once() -> Iterator[None]:
    """Let typer's runner make the commands of an application once a process, as ``kdx`` does, and
    not for every call."""
    import typer.testing

    with pytest.MonkeyPatch.context() as patch:
        if hasattr(typer.testing, "_get_command"):
            patch.setattr(typer.testing, "_get_command", functools.cache(typer.testing._get_command))
        yield


@pytest.fixture(scope="session", autouse=True)
def networks_are_exported_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Spare the tests of all processes what one of them has exported: most export the same few
    networks. Where no test file imports PyTorch, there is too little to spare."""
    with pytest.MonkeyPatch.context() as patch:
        if "torch" in sys.modules:
            from tests.onnx_exports import remember

            remember(patch, shared_folder(tmp_path_factory) / "graphs")
        yield


@pytest.fixture(scope="session", autouse=True)
def threads_sleep_while_they_wait() -> Iterator[None]:
    """Let ONNX Runtime's threads sleep while they have nothing to do.

    By default they wait actively, and take a core from the other test processes: with graphs this
    small, that is half of the CPU time.
    """
    ort = sys.modules.get("onnxruntime")
    if ort is None:
        yield
        return
    start = ort.InferenceSession.__init__

    @functools.wraps(start)
    def patient(session: Any, graph: Any, sess_options: Any = None, *given: Any, **options: Any) -> None:
        sess_options = sess_options or ort.SessionOptions()
        sess_options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        start(session, graph, sess_options, *given, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ort.InferenceSession, "__init__", patient)
        yield


@pytest.fixture(scope="session", autouse=True)
def nothing_waits_for_the_disk() -> Iterator[None]:
    """Let no test wait until the disk holds what was written.

    That matters when the power fails, which no test can try. Tests write thousands of small files:
    to wait for the disk would take more than a tenth of their time.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(autouse=True)
def settings_stay(own_settings: dict[str, str]) -> None:
    """Begin no test with a setting that an earlier one, or a fixture of several, left behind."""
    assert settings() == own_settings


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Take back what ``--threads`` and ``bench`` changed for the whole process."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def cli() -> Callable[..., CliResult]:
    return invoke


@pytest.fixture(scope="session")
def make_dataset() -> Callable[..., Path]:
    return write_dataset


@pytest.fixture(scope="session")
def make_images() -> Callable[..., list[Image.Image]]:
    return cell_images


@pytest.fixture(scope="session")
def tiny_options() -> tuple[str, ...]:
    """Options of ``kdx train`` with which training takes seconds."""
    return TINY_OPTIONS


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set that no test may change."""
    return made_once(tmp_path_factory, "data", lambda folder: write_dataset(folder / "cells")) / "cells"


@pytest.fixture
def dataset_copy(dataset: Path, tmp_path: Path) -> Path:
    """A data set that the test may change."""
    return Path(shutil.copytree(dataset, tmp_path / "cells"))


@pytest.fixture(scope="session")
def tiny_run(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs that no test may change."""
    options = ("--epochs", 2, *TINY_OPTIONS)
    made = made_once(tmp_path_factory, "run", lambda f: invoke("train", dataset, "--out", f / "tiny", *options))
    return made / "tiny"


@pytest.fixture(scope="session")
def raw_bundle(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported bundle without a threshold that no test may change."""
    made = made_once(tmp_path_factory, "raw", lambda f: invoke("export", tiny_run, "-o", f / "tiny.kdx"))
    return made / "tiny.kdx"


@pytest.fixture(scope="session")
def tiny_bundle(raw_bundle: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported and calibrated bundle that no test may change."""

    def calibrated(folder: Path) -> None:
        bundle = shutil.copytree(raw_bundle, folder / "tiny.kdx")
        invoke("calibrate", bundle, dataset, "--false-reject-rate", 0.2)

    return made_once(tmp_path_factory, "bundle", calibrated) / "tiny.kdx"


@pytest.fixture(scope="session")
def students_bundle(tiny_bundle: Path, tiny_run: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated bundle with INT8 students that no test may change; see
    ``tests.students.int8_students``."""

    def made(folder: Path) -> None:
        from kdx.bundle.open import open_bundle
        from tests.students import add_int8_students, int8_students

        bundle = Path(shutil.copytree(tiny_bundle, folder / "students.kdx"))
        add_int8_students(bundle, int8_students(tiny_run, open_bundle(bundle).golden().images))
        invoke("calibrate", bundle, dataset, "--false-reject-rate", 0.2)

    return made_once(tmp_path_factory, "students", made) / "students.kdx"


@pytest.fixture(scope="session")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good images that nothing was trained on."""
    folder = tmp_path_factory.mktemp("cells")
    for index, image in enumerate(cell_images(16, offset=40)):
        image.save(folder / f"{index:02d}.png")
    return folder


@pytest.fixture(scope="session")
def large_frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of large frames that no test may change."""
    counts = {"train/good": 28, "test/good": 4, "test/scratch": 2}
    return made_once(tmp_path_factory, "frames", lambda folder: write_frames(folder / "frames", counts)) / "frames"


@pytest.fixture(scope="session")
def tiled(large_frames: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a ``run`` on tiles of the frames and its calibrated ``tile.kdx``; no test may
    change them."""

    def made(folder: Path) -> None:
        invoke("train", large_frames, "-o", folder / "run", "--tile", TILE, "--epochs", 1, *TINY_OPTIONS)
        invoke("export", folder / "run", "-o", folder / "tile.kdx", "--tile-batch", 2, "--precision", "fp32,int8")
        invoke("calibrate", folder / "tile.kdx", large_frames, "--false-reject-rate", 0.2)

    return made_once(tmp_path_factory, "tiled", made)


@dataclass(frozen=True)
class TrainedMethod:
    """A method, the folder with its ``run`` and ``tile.kdx``, and what ``kdx train`` said."""

    name: str
    folder: Path
    result: Any


@pytest.fixture(scope="session", params=METHODS)
def trained(request, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedMethod:
    """A run of two epochs of every method on real images, and its bundle in both precisions; tests
    leave it be.

    Its graph has the structure of ``exported``: a network of this structure is exported once.
    """
    from tests.pairs import write_weights

    def made(folder: Path) -> None:
        colour = Path(shutil.copytree(dataset, folder / "cells"))
        for file in colour.glob("t*/*/*.png"):
            Image.open(file).convert("RGB").save(file)
        weights = write_weights(folder / "weights.pt", BACKBONE)
        options = ("--method", request.param, "--epochs", 2, *TINY_OPTIONS, "--weights", weights, "--sigma", BLUR)
        said = invoke("train", colour, "-o", folder / "run", *options, "--json").stdout
        (folder / "said.json").write_text(said, encoding="utf-8")
        height, width = CAMERA
        camera = ("--input-size", f"{height}x{width}", "--max-batch", 8)
        invoke("export", folder / "run", "-o", folder / "tile.kdx", "--precision", "fp32,fp16", *camera)

    folder = made_once(tmp_path_factory, f"method-{request.param}", made)
    return TrainedMethod(request.param, folder, json.loads((folder / "said.json").read_text(encoding="utf-8")))


@dataclass(frozen=True)
class ExportedMethod:
    """A method with random weights of ordinary size: its fused detector, and its graph in three
    precisions."""

    name: str
    detector: Any
    fp32: Path
    fp16: Path
    int8: Path


@pytest.fixture(scope="session", params=METHODS)
def exported(request, tmp_path_factory: pytest.TempPathFactory) -> ExportedMethod:
    """Every method's graphs, planned on real images; tests leave them be."""
    import onnx

    from kd_export.onnx.onnx_export import export_onnx
    from kd_export.precision.fp16 import network_tensors, plan_half, to_half
    from kd_export.precision.quantize import quantize
    from kd_export.precision.ranges import measure_ranges
    from kd_train.methods import find_method
    from kd_train.recipes import load_recipe
    from kdx.imaging.images import InputSpec
    from tests.images import solar_cells
    from tests.pairs import fuse_pair, make_pair

    spec = InputSpec(height=CAMERA[0], width=CAMERA[1])
    recipe = load_recipe(find_method(request.param), {"backbones": (BACKBONE,), "image_size": SIZE})
    detector = fuse_pair(make_pair(request.param, BACKBONE, sigma=BLUR), spec, SIZE, recipe.resize_to)

    def made(folder: Path) -> None:
        export_onnx(detector, folder / "model.onnx", max_batch=8, metadata={})
        model = onnx.load(folder / "model.onnx")
        plan = plan_half(model, measure_ranges(model, network_tensors(model), solar_cells(3, CAMERA)))
        onnx.save(to_half(model, plan), folder / "model.fp16.onnx")
        onnx.save(quantize(model, solar_cells(4, CAMERA)), folder / "model.int8.onnx")

    folder = made_once(tmp_path_factory, f"graphs-{request.param}", made)
    graphs = (folder / name for name in ("model.onnx", "model.fp16.onnx", "model.int8.onnx"))
    return ExportedMethod(request.param, detector, *graphs)


@pytest.fixture
def short_search(monkeypatch) -> None:
    """Let the gate measure one layer and put one back, where it refuses INT8 however many."""
    from kd_export.precision.sensitivity import worst_layers

    monkeypatch.setattr("kd_export.precision.gate.worst_layers", functools.partial(worst_layers, measured=1))
    monkeypatch.setattr("kd_export.precision.gate._MOST_PUT_BACK", 0.05)


@pytest.fixture
def run_copy(tiny_run: Path, tmp_path: Path) -> Path:
    """A run that the test may change."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


@pytest.fixture
def bundle_copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A calibrated bundle that the test may change."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "copy.kdx"))


@pytest.fixture(scope="session")
def frame(dataset: Path) -> np.ndarray:
    """One good image as the tiny detector takes it."""
    return np.asarray(Image.open(dataset / "test/good/012.png"))[..., None]
