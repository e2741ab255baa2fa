"""Exporting a detector together with INT8 students: both, or FP32 alone as if there were none."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import torch

import kdx
from kd_export import bundle_export
from kd_export.bundle_export import export_bundle
from kd_export.graph import FusedDetector
from kd_export.precision.quantize import quantize_by
from kd_train.training.run_folder import Run
from kd_train.training.trained_pair import fuse, load_pair
from kdx.bundle.manifest import GRAPH, INT8_SCHEMA, SCHEMA
from kdx.bundle.open import open_bundle
from kdx.bundle.variants import Variant, graph_file
from kdx.imaging.images import read_image
from kdx.verification.held_out import HeldOut
from tests.students import ORIGIN, graph_of, int8_students


@pytest.fixture(scope="module")
def students(tiny_run) -> FusedDetector:
    run = Run(tiny_run)
    return int8_students(tiny_run, np.stack([read_image(path, run.config.input) for path in run.golden_files()]))


def export(run: Path, out: Path, students: FusedDetector | None, precisions=("fp32", "int8"), origin=ORIGIN):
    opened = Run(run)
    pair, checkpoint = load_pair(opened)
    return export_bundle(
        fuse(opened.config, pair),
        out,
        method=opened.config.method,
        golden_images=opened.golden_files(),
        training_images=opened.config.known_images().images,
        provenance=msgspec.structs.replace(opened.provenance(checkpoint), int8=origin),
        max_batch=4,
        precisions=precisions,
        held_out=HeldOut([], []),
        int8_students=students,
    )


def write_unjudged(folder, students, max_batch, metadata, evidence, reference) -> tuple[Variant, str]:
    """Write the graph without a gate, which would refuse students that nobody trained."""
    onnx.save(quantize_by(graph_of(students, max_batch), students.quantizer.plan), folder / graph_file("int8"))
    return Variant(file=graph_file("int8"), convolutions=1, kept=[]), ""


def write_fp32_instead(folder, *others) -> tuple[Variant, str]:
    shutil.copy(folder / GRAPH, folder / graph_file("int8"))
    return Variant(file=graph_file("int8"), convolutions=1, kept=[]), ""


def require_no_trace(bundle: Path) -> None:
    """Check that a bundle is what it would be if nobody had trained INT8 students."""
    manifest = open_bundle(bundle).manifest
    assert manifest.schema == SCHEMA
    assert manifest.provenance.int8 is None
    assert manifest.precisions == ["fp32"]
    assert "int8" not in (bundle / "bundle.json").read_text(encoding="utf-8")
    assert not list(bundle.rglob("*int8*"))


def test_a_bundle_holds_the_answers_of_the_fake_quantised_module(tiny_run, tmp_path, students, monkeypatch) -> None:
    monkeypatch.setattr(bundle_export, "write_int8_students", write_unjudged)
    bundle, certificate, refused = export(tiny_run, tmp_path / "tile.kdx", students)
    assert (refused, certificate.passed) == ({}, True)
    assert certificate.references == {"fp32": "fp32", "int8": "int8"}
    assert bundle.manifest.schema == INT8_SCHEMA
    assert bundle.manifest.provenance.int8 == ORIGIN
    own, exact = bundle.golden("int8"), bundle.golden()
    with torch.inference_mode():
        maps, scores = zip(*(students(torch.from_numpy(image[None])) for image in own.images), strict=True)
    np.testing.assert_array_equal(own.maps, torch.cat(maps).numpy())
    np.testing.assert_array_equal(own.scores, torch.cat(scores).numpy())
    assert not np.allclose(own.scores, exact.scores, rtol=0.3)
    with kdx.load(tmp_path / "tile.kdx", backend="onnxruntime-cpu", precision="int8") as detector:
        assert detector(own.images[0]).score == pytest.approx(float(scores[0]), rel=0.1)


def test_a_refused_variant_leaves_no_trace(tiny_run, tmp_path, students, monkeypatch) -> None:
    monkeypatch.setattr(bundle_export, "write_int8_students", lambda *arguments: (None, "5 of 9 defects are missed"))
    _, certificate, refused = export(tiny_run, tmp_path / "tile.kdx", students)
    assert refused == {"int8": "5 of 9 defects are missed"}
    assert certificate.references == {"fp32": "fp32"}
    require_no_trace(tmp_path / "tile.kdx")


def test_a_variant_that_fails_the_certificate_leaves_no_trace(tiny_run, tmp_path, students, monkeypatch) -> None:
    monkeypatch.setattr(bundle_export, "write_int8_students", write_fp32_instead)
    _, certificate, refused = export(tiny_run, tmp_path / "tile.kdx", students)
    assert "int8, batch 1: scores off by" in refused["int8"]
    assert certificate.passed
    require_no_trace(tmp_path / "tile.kdx")


def test_other_precisions_need_no_int8_students(tiny_run, tmp_path, students) -> None:
    _, _, refused = export(tiny_run, tmp_path / "tile.kdx", students, ("fp32",))
    assert not refused
    require_no_trace(tmp_path / "tile.kdx")


def test_students_and_their_origin_belong_together(tiny_run, tmp_path, students) -> None:
    for given in ((None, ("fp32",), ORIGIN), (students, ("fp32",), None)):
        with pytest.raises(ValueError, match="belong together"):
            export(tiny_run, tmp_path / "tile.kdx", *given)
    assert not list(tmp_path.iterdir())
