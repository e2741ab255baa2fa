"""What workers load of kdx."""

from __future__ import annotations

import pytest

from benchmarks.timing.loaders import bundle
from kdx.bundle.open import open_bundle


def test_a_loaded_bundle_judges_single_images_and_batches(tiny_bundle, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("KDX_CACHE_DIR", "")
    arguments = {"bundle": str(tiny_bundle), "backend": "onnxruntime-cpu", "threads": 1, "precision": None}
    golden = open_bundle(tiny_bundle).golden()
    predict = bundle({**arguments, "cache": str(tmp_path)})
    assert predict(golden.images[:1]) == pytest.approx(golden.scores[0, 0], rel=1e-4)
    assert predict(golden.images[:3]) == pytest.approx(golden.scores[:3, 0].tolist(), rel=1e-4)
