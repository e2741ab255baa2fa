"""Damaged input to everything that kdx reads: refused by an error of kdx, or judged as before.

A target takes one damaged file and says whether it was accepted. Whatever it raises, a file opened
outside the bundle, memory or time out of proportion is a fault. Run as a script with a kind of file
and a bundle as JSON; prints what was found.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

import kdx
from benchmarks.timing.memory import peak_memory_mb
from kdx.bundle.checked_files import Graph
from kdx.bundle.engine_record import PLAN, RECORD, EngineRecord, Fingerprint, Layer, find_engine, this_system
from kdx.bundle.manifest import GOLDEN_MAPS, INDEX, TRAINING_IMAGES
from kdx.bundle.open import open_bundle
from kdx.errors import ImageError, KdxError
from kdx.imaging.image_identity import KnownImages
from kdx.imaging.images import InputSpec, decode_image, read_header, read_image
from kdx.runtime.onnxruntime.cpu import OnnxRuntimeCpu
from kdx.storage.files import sha256_bytes, sha256_file
from kdx.storage.json_records import encode_record, now
from tests.robustness.tools.damage import Damaged, damaged_bytes, damaged_images, damaged_json, damaged_npy, image_files
from tests.robustness.tools.guards import alarm, only_inside

# Far beyond what any of these files should need, and far below what a file that lies about its size
# asks for. An image may declare what it likes up to a limit, here up to 25 megapixels: decoded,
# converted, and resized in float32.
_MOST_SECONDS = 30
_MOST_MEMORY_MB = 300.0
_MOST_IMAGE_MEMORY_MB = 25 * 40.0

Target = tuple[st.SearchStrategy[Any], Callable[[bytes], bool]]


@dataclass
class Found:
    """What a target made of many files.

    Attributes:
        target: Its name.
        tried: How many files.
        accepted: How many were answered; the others were refused.
        slowest_ms: The longest that one took.
        memory_mb: By how much the peak of memory grew meanwhile.
        faults: Tracebacks; none where all is well.
    """

    target: str
    tried: int = 0
    accepted: int = 0
    slowest_ms: float = 0.0
    memory_mb: float = 0.0
    faults: list[str] = field(default_factory=list)


def fuzz(name: str, target: Target, examples: int, start: int | None = None) -> Found:
    """Give a target many damaged files.

    Args:
        name: The target's.
        target: Its files, and what is done with one.
        examples: How many.
        start: Of the random numbers; None takes the same for ever.
    """
    files, check = target
    found = Found(name)

    @settings(
        max_examples=examples,
        derandomize=start is None,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(files)
    def one(file: bytes | Damaged) -> None:
        data = file.content() if isinstance(file, Damaged) else file
        started = time.perf_counter()
        with alarm(_MOST_SECONDS):
            found.accepted += check(data)
        found.tried += 1
        found.slowest_ms = max(found.slowest_ms, round((time.perf_counter() - started) * 1e3, 1))

    before = peak_memory_mb()
    try:
        (one if start is None else seed(start)(one))()
    except Exception:
        found.faults.append(traceback.format_exc())
    found.memory_mb = round(peak_memory_mb() - before, 1)
    # The alarm may have been taken for an error of the file's.
    if found.slowest_ms > _MOST_SECONDS * 1e3:
        found.faults.append(f"one file took {found.slowest_ms / 1e3:.0f} s")
    limit = _MOST_IMAGE_MEMORY_MB if name == "image" else _MOST_MEMORY_MB
    if found.memory_mb > limit:
        found.faults.append(f"{found.memory_mb:.0f} MB were taken, {limit:.0f} would do")
    return found


def targets_of(kind: str, bundle: Path, image: Path) -> dict[str, Target]:
    """Return the targets for one kind of file.

    Args:
        kind: ``index``, ``reference``, ``training``, ``engine``, ``image`` or ``graph``.
        bundle: A bundle that may be changed, in a folder that may be written.
        image: A real image.
    """
    if kind == "index":
        return index_targets(bundle)
    if kind == "reference":
        return {"reference maps": reference_target(bundle)}
    if kind == "training":
        return {"training images": training_target(bundle)}
    if kind == "engine":
        return engine_targets(bundle)
    if kind == "image":
        return {"image": image_target(image, bundle.parent)}
    return {"graph, beneath its hash": graph_target(bundle, OnnxRuntimeCpu)}


def index_targets(bundle: Path, backend: str = "onnxruntime-cpu") -> dict[str, Target]:
    """Return the targets for a bundle's index: damaged as JSON, and as bytes.

    Args:
        bundle: A bundle that may be changed; every damaged index is taken away again.
        backend: What judges where the index is accepted.
    """
    index = bundle / INDEX
    whole = index.read_bytes()
    document = msgspec.json.decode(whole)
    images = open_bundle(bundle).golden().images[:2]
    reference = _answers(bundle, images, backend)

    def check(data: bytes) -> bool:
        index.write_bytes(data)
        try:
            with only_inside(bundle):
                opened = open_bundle(bundle)
                opened.golden()
                opened.training_images()
            answers = _answers(bundle, images, backend)
        except KdxError:
            return False
        finally:
            index.write_bytes(whole)
        # Thresholds are the index's own to say; what the graph makes of an image is not.
        assert [a[:2] for a in answers] == [a[:2] for a in reference]
        return True

    return {"index as JSON": (damaged_json(document), check), "index as bytes": (damaged_bytes(whole), check)}


def reference_target(bundle: Path) -> Target:
    """Return the target for a bundle's reference maps, with hashes that match the damage."""
    file, index = bundle / GOLDEN_MAPS, bundle / INDEX
    whole, record = file.read_bytes(), index.read_bytes()
    maps = open_bundle(bundle).golden().maps

    def check(data: bytes) -> bool:
        file.write_bytes(data)
        document = msgspec.json.decode(record)
        document["files"][GOLDEN_MAPS] = sha256_file(file)
        index.write_bytes(msgspec.json.encode(document))
        try:
            with only_inside(bundle):
                read = open_bundle(bundle).golden()
        except KdxError:
            return False
        finally:
            file.write_bytes(whole)
            index.write_bytes(record)
        assert read.maps.shape == maps.shape
        assert read.maps.dtype == np.float32
        return True

    return damaged_npy(maps), check


def training_target(bundle: Path) -> Target:
    """Return the target for a bundle's list of training images, with a hash that matches."""
    file = bundle / TRAINING_IMAGES
    whole = file.read_bytes()
    opened = open_bundle(bundle)

    def check(data: bytes) -> bool:
        file.write_bytes(data)
        files = {**opened.manifest.files, TRAINING_IMAGES: sha256_file(file)}
        named = replace(opened, manifest=msgspec.structs.replace(opened.manifest, files=files))
        try:
            return isinstance(named.training_images(), KnownImages)
        except KdxError:
            return False
        finally:
            file.write_bytes(whole)

    return st.one_of(damaged_json(msgspec.json.decode(whole)), damaged_bytes(whole)), check


def engine_targets(bundle: Path) -> dict[str, Target]:
    """Return the targets for an engine's record, as JSON and as bytes; add an engine first."""
    graph, plan = bundle / "model.onnx", b"a plan is not read here"
    machine = Fingerprint(
        flavour="rtx", tensorrt="1.4", compute_capability="8.6", gpu=None, driver=None, system=this_system()
    )
    record = EngineRecord(
        schema=1, kdx_version=kdx.__version__, created=now(), fingerprint=machine, precision="fp32", batches=[1, 8],
        level=3, onnx_sha256=sha256_file(graph), plan_sha256=sha256_bytes(plan), layers_from="network",
        layers=[Layer(name="conv", kind="convolution", precision="fp32")], build_seconds=1.0, peak_memory_mib=1.0,
    )  # fmt: skip
    file = bundle / "engines/rtx-8.6-fp32" / RECORD
    file.parent.mkdir(parents=True)
    (file.parent / PLAN).write_bytes(plan)
    whole = encode_record(record)

    def check(data: bytes) -> bool:
        file.write_bytes(data)
        try:
            with only_inside(bundle):
                return find_engine(Graph.of(graph), machine).read_plan() == plan
        except KdxError:
            return False
        finally:
            file.unlink()

    document = msgspec.json.decode(whole)
    return {"engine as JSON": (damaged_json(document), check), "engine as bytes": (damaged_bytes(whole), check)}


def image_target(image: Path, folder: Path) -> Target:
    """Return the target for image files.

    Args:
        image: A real image.
        folder: Where a file may be written.
    """
    with Image.open(image) as opened:
        grey = opened.convert("L").resize((40, 48))
    specs = [
        InputSpec(height=48, width=40, channels=channels, fixed_size=fixed, channel_order=order)
        for channels, fixed, order in ((1, False, "rgb"), (3, False, "bgr"), (3, True, "rgb"))
    ]
    file = folder / "image.png"

    def check(data: bytes) -> bool:
        file.write_bytes(data)
        spec = specs[len(data) % len(specs)]
        try:
            with only_inside(folder):
                decoded = decode_image(file, channels=spec.channels)
                width, height, _ = read_header(file)
                assert (decoded.dtype, decoded.shape) == (np.uint8, (height, width, spec.channels))
                read = read_image(file, spec)
        except ImageError:
            return False
        assert (read.dtype, read.shape) == (np.uint8, (spec.height, spec.width, spec.channels))
        return True

    return damaged_images(image_files(grey)), check


def graph_target(bundle: Path, load: Callable[[Graph], Any]) -> Target:
    """Return the target for graphs, beneath their hash.

    Args:
        bundle: With a real one.
        load: Returns a backend that holds a graph.
    """
    file = bundle.parent / "damaged.onnx"

    def check(data: bytes) -> bool:
        file.write_bytes(data)
        try:
            load(Graph.of(file)).close()
        except KdxError:
            return False
        return True

    return damaged_bytes((bundle / "model.onnx").read_bytes()), check


def _answers(bundle: Path, images: Any, backend: str) -> list[tuple[str, bytes, str]]:
    with kdx.load(bundle, backend=backend, threads=1) as detector:
        verdicts = [detector(image) for image in images]
    return [(v.score.hex(), v.anomaly_map.tobytes(), v.decision.value) for v in verdicts]


def main(arguments: Sequence[str]) -> None:
    """Carry out the job of a file, and print what was found."""
    job = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    targets = targets_of(job["kind"], Path(job["folder"]) / "tile.kdx", Path(job["image"]))
    print(json.dumps([asdict(fuzz(name, target, job["examples"], job["start"])) for name, target in targets.items()]))


if __name__ == "__main__":
    main(sys.argv[1:])
