"""anomalib's models, where anomalib is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.peers import anomalib_exports as peers_models


@pytest.mark.slow
def test_anomalib_builds_fits_and_exports(tmp_path: Path) -> None:
    pytest.importorskip("anomalib", reason='anomalib is not installed (pip install -e ".[peers]")')
    torch = pytest.importorskip("torch")
    images = torch.rand(2, 3, 64, 64)
    peer = peers_models.PEERS["patchcore"]
    module = peers_models.build_module(peer)
    # 2 images of 8 x 8 patches, a tenth of them, and the channels of layer2 and layer3.
    assert peers_models.fill_memory_bank(module, images) == {"fitted_on_images": 2, "memory_bank": [12, 384]}
    peers_models.normalise_scores(module, images)
    with torch.no_grad():
        found = module(images[:1])
    assert 0 < float(found.pred_score.flatten()[0]) < 1  # within, not clamped
