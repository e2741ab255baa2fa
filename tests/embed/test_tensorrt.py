"""The C library's TensorRT backend without a GPU: over fakes that keep the rules of CUDA and TensorRT."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest

from kdx.bundle.engine_record import Fingerprint
from kdx.bundle.manifest import GOLDEN_MAPS, GOLDEN_SCORES
from kdx.bundle.open import open_bundle
from kdx.bundle.store import write_manifest
from kdx.storage.npy import encode_array
from tests.embed.build import build, missing, run
from tests.kdx.bundle.test_engine_record import add_engine, make_record

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

FAKE = Fingerprint(
    flavour="tensorrt",
    tensorrt="10.16.1.11",
    compute_capability="8.6",
    gpu="A card",
    driver=None,
    system=f"Linux {platform.machine()}",
)
BATCHES = [2, 32]


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    options = ("-DKDX_BUILD_TESTS=ON", "-DKDX_WITH_OPENVINO=OFF", "-DCMAKE_BUILD_TYPE=Debug",
               "-DKDX_SANITIZE=address,undefined")  # fmt: skip
    return build(tmp_path_factory.mktemp("fake"), ["kdx_tensorrt"], *options) / "tests/kdx_tensorrt"


@pytest.fixture(scope="module")
def bundle(tiny_bundle, tmp_path_factory) -> Path:
    """A bundle with an engine of the fakes, whose golden images score what that engine gives them."""
    path = Path(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("engine") / "tile.kdx"))
    opened = open_bundle(path)
    images = opened.golden().images
    scores = (images.mean(axis=(1, 2, 3)) / 4096).astype(np.float32)  # fake::score_of
    maps = np.broadcast_to(scores[:, None, None], (len(scores), *opened.manifest.map_size))
    (path / GOLDEN_SCORES).write_bytes(encode_array(scores[:, None]))
    (path / GOLDEN_MAPS).write_bytes(encode_array(np.ascontiguousarray(maps)))
    write_manifest(path, opened.manifest)
    spec = opened.manifest.input
    sizes = (spec.height, spec.width, spec.channels, *opened.manifest.map_size, *BATCHES)
    plan = " ".join(str(size) for size in sizes).encode()
    record = make_record(FAKE, plan, precision="fp32", batches=BATCHES, onnx_sha256=opened.manifest.files["model.onnx"])
    add_engine(path, "fp32", msgspec.structs.replace(record), plan)
    return path


def test_graphs_are_replayed_for_the_batch_that_was_captured_and_failures_leave_nothing_good(program, bundle):
    run(program, bundle)
