from __future__ import annotations

import pytest

import kdx
from kdx.bundle.open import open_bundle
from kdx.storage.files import sha256_file


@pytest.mark.slow
def test_the_map_has_its_own_threshold_where_the_score_is_not_its_maximum(
    cli, dataset, tiny_options, tiny_bundle, tmp_path
):
    threshold = open_bundle(tiny_bundle).manifest.threshold
    assert threshold.pixel == pytest.approx(threshold.score, rel=1e-6)  # STPM's score is the map's maximum
    run, bundle = tmp_path / "run", tmp_path / "sum.kdx"
    cli("train", dataset, "-o", run, "--score", "sum", "--epochs", 1, *tiny_options)
    cli("export", run, "-o", bundle, "--max-batch", 1)
    cli("calibrate", bundle, dataset, "--false-reject-rate", 0.2)
    opened = open_bundle(bundle)
    threshold = opened.manifest.threshold
    held_out = [p for p in sorted((dataset / "train/good").iterdir()) if sha256_file(p) not in opened.training_images()]
    with kdx.load(bundle) as detector:
        verdicts = [detector(kdx.read_image(path, detector.input)) for path in held_out]
    hottest = sorted(float(verdict.anomaly_map.max()) for verdict in verdicts)
    assert threshold.pixel in [pytest.approx(value, rel=1e-6) for value in hottest]
    assert sum(value > threshold.pixel * (1 + 1e-6) for value in hottest) <= 0.2 * (len(hottest) + 1)
    assert verdicts[0].pixel_threshold == threshold.pixel < threshold.score
