"""INT8 students are written where they decide as well as FP32, in every runtime, and only then."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from kd_export.graph import FusedDetector
from kd_export.precision.exact_answers import ExactAnswers
from kd_export.precision.int8_plan import plan_int8
from kd_export.precision.precision_graphs import write_int8_students
from kd_export.precision.quantize import quantised_nodes, quantize_by
from kd_export.precision.runners import run_onnxruntime, runtimes
from kd_export.precision.student_gate import judge_students
from kd_train.training.run_folder import Run
from kd_train.training.run_images import held_out_files, training_files
from kd_train.training.trained_pair import fuse, load_pair
from kdx.bundle.manifest import GRAPH
from kdx.bundle.variants import graph_file
from kdx.imaging.images import read_image
from kdx.runtime.backend import Outputs
from kdx.verification.held_out import HeldOut
from kdx.verification.judge import Evidence
from kdx.verification.tolerances import INT8_STUDENTS
from tests.students import graph_of

METADATA = {"kdx.method": "stpm"}


class Trained:
    """A run's detector, one that knows less of its teacher, and what INT8 students are judged on.

    After two epochs, a student finds white stains and no finer defects.
    """

    def __init__(self, run: Run, folder: Path) -> None:
        self.folder = folder
        spec = run.config.input
        self.golden = np.stack([read_image(path, spec) for path in run.golden_files()])
        self.good = np.stack([read_image(path, spec) for path in [*held_out_files(run), *training_files(run)]])
        self.defects = np.concatenate([self.good] * 3)
        for index, image in enumerate(self.defects):
            corner = 18 + 2 * (index // len(self.good))
            image[corner : corner + 24, corner : corner + 24] = 255
        self.images = np.concatenate([self.good, self.defects])
        self.evidence = Evidence(self.golden, held_out=HeldOut(self.good, self.defects))
        self.better = fuse(run.config, load_pair(run)[0])
        self.worse = copy.deepcopy(self.better)
        generator = torch.Generator().manual_seed(0)
        for name, weights in self.worse.pair.named_parameters():
            if not name.startswith("teacher."):
                weights.mul_(1 + torch.randn(weights.shape, generator=generator))

    def students(self, detector: FusedDetector) -> FusedDetector:
        return detector.quantized(plan_int8(graph_of(detector), self.images))

    def answers(self, detector: FusedDetector) -> Outputs:
        with torch.inference_mode():
            maps, scores = detector(torch.from_numpy(self.golden))
        return Outputs(maps.numpy(), scores.numpy())

    def write(self, students: FusedDetector, exact: FusedDetector, evidence: Evidence | None = None):
        """Write students into a bundle with the graph of an FP32 detector."""
        (self.folder / graph_file("int8")).unlink(missing_ok=True)
        onnx.save(graph_of(exact, 4), self.folder / GRAPH)
        reference = self.answers(students)
        answers = ExactAnswers(onnx.load(self.folder / GRAPH), evidence or self.evidence)
        return write_int8_students(self.folder, students, 4, METADATA, answers, reference)


@pytest.fixture(scope="module")
def trained(tiny_run, tmp_path_factory) -> Trained:
    return Trained(Run(tiny_run), tmp_path_factory.mktemp("bundle"))


@pytest.mark.slow
def test_students_that_decide_well_are_written_whole(trained) -> None:
    students = trained.students(trained.better)
    variant, reason = trained.write(students, trained.worse)
    assert reason == ""
    graph = onnx.load(trained.folder / variant.file)
    assert set(quantised_nodes(graph)) == set(students.quantizer.plan.nodes), "nothing is put back to FP32"
    assert variant.kept == []
    assert variant.convolutions > 10
    assert {each.key: each.value for each in graph.metadata_props} == METADATA
    assert [each.runtime for each in variant.judged] == list(runtimes())
    for judged in variant.judged:
        (compared,) = judged.decisions
        assert (compared.good, compared.frames, compared.defects) == (12, 12, 36)
        assert compared.rejected > compared.rejected_reference > 0
        assert judged.verdicts.flips > 0, "likeness to FP32 is a figure, and no condition"
        assert judged.describe().startswith("decides as well as FP32 on 12 held-out good images and 36 synthetic")


@pytest.mark.slow
def test_students_that_decide_worse_are_refused(trained) -> None:
    """What the runtimes compute is what was trained, and is not good enough."""
    variant, reason = trained.write(trained.students(trained.worse), trained.better)
    assert variant is None
    assert reason.startswith(" and ".join(runtimes())), "both fail alike"
    assert reason.count("image AUROC on synthetic defects") == 1
    assert "of what the trained module computes" not in reason
    assert not (trained.folder / graph_file("int8")).exists()


@pytest.mark.slow
def test_a_runtime_that_computes_something_else_is_refused(trained) -> None:
    def other(model: onnx.ModelProto, images: object) -> Outputs:
        outputs = run_onnxruntime(model, images)
        return Outputs(outputs.maps, (1 + 2 * INT8_STUDENTS.score) * outputs.scores)

    students = trained.students(trained.better)
    graph, model = quantize_by(graph_of(students), students.quantizer.plan), graph_of(trained.worse)
    runners = {"onnxruntime-cpu": run_onnxruntime, "other": other}
    exact = ExactAnswers(model, trained.evidence, runners)
    first, second = judge_students(graph, exact, trained.answers(students), INT8_STUDENTS)
    assert first.passed
    assert "of what the trained module computes" in second.faults[0]
    assert second.decisions == [], "no further images for what has failed already"


@pytest.mark.slow
def test_without_enough_images_nothing_is_written(trained) -> None:
    students = trained.students(trained.better)
    for held_out, count in ((None, 0), (HeldOut(trained.good[:5], trained.defects), 5)):
        variant, reason = trained.write(students, trained.worse, Evidence(trained.golden, held_out=held_out))
        assert variant is None
        assert f"{count} held-out good images and" in reason
        assert "are too few" in reason


@pytest.mark.slow
def test_labelled_images_are_judged_too(trained) -> None:
    labels = np.arange(len(trained.images)) >= len(trained.good)
    students = trained.students(trained.better)
    for is_defective, kinds in ((labels, ["synthetic", "labelled"]), (labels & False, ["synthetic"])):
        evidence = Evidence(
            trained.golden, images=trained.images, is_defective=is_defective, held_out=trained.evidence.held_out
        )
        variant, _ = trained.write(students, trained.worse, evidence)
        for judged in variant.judged:
            assert [each.defects_are for each in judged.decisions] == kinds
            is_given = len(kinds) == 2
            assert (judged.auroc == judged.decisions[-1].auroc) == is_given
            assert ("on 12 good and 36 defective labelled images" in judged.describe()) == is_given
