"""What the comparison of a compact teacher with its source concludes, and what it says."""

from __future__ import annotations

import msgspec
import pytest

from kdx.bundle.teacher_comparison import LEAST_TO_PASS, TeacherComparison, outcome_of, worse_teacher

ENOUGH = LEAST_TO_PASS


def comparison(interval, images=ENOUGH, **more):
    return TeacherComparison(
        source="resnet18", taps=("layer2",), images=images, good=images, defects=3 * images, auroc=0.8,
        auroc_source=0.9, interval=interval, outcome=outcome_of(interval, images), **more,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("interval", "images", "outcome"),
    [
        ((-0.05, 0.02), ENOUGH, "not worse"),
        ((-0.04, -0.01), ENOUGH, "not worse"),  # lower, but by less than the margin
        ((-0.051, 0.02), ENOUGH, "undecided"),
        ((-0.2, 0.0), ENOUGH, "undecided"),
        ((-0.2, -0.001), ENOUGH, "worse"),
        ((-0.2, -0.001), 20, "worse"),
        ((0.0, 0.0), ENOUGH - 1, "undecided"),  # that nothing was seen is no proof
        ((0.0, 0.0), ENOUGH, "not worse"),
        (None, ENOUGH, "undecided"),
    ],
)
def test_the_outcome_needs_a_margin_a_bound_and_images(interval, images, outcome):
    assert outcome_of(interval, images) == outcome


def test_the_text_counts_images_and_says_what_is_missing():
    text = comparison((-0.2, -0.1)).describe()
    assert "image AUROC 80.0 %, of resnet18 90.0 %, on 60 held-out good images and 180 synthetic defects" in text
    assert text.endswith("difference -20.0 to -10.0 points with 95 % confidence: worse")
    assert "at least 60 images are needed for 'not worse'" in comparison((0.0, 0.0), 30).describe()
    assert "undecided, at least 20 images are needed" in comparison(None, 7).describe()
    assert "of the run that made the teacher" in comparison(None, of_other_run=True).describe()
    parts = comparison(None, parts=10).describe()
    assert "on 60 held-out good images of 10 parts and 180 synthetic defects" in parts
    assert parts.endswith("undecided, at least 20 parts are needed")
    few = msgspec.structs.replace(comparison((0.0, 0.0)), parts=30, outcome=outcome_of((0.0, 0.0), 30))
    assert few.describe().endswith("undecided, at least 60 parts are needed for 'not worse'")
    tiles = TeacherComparison(
        source="resnet18", taps=(), images=1, good=4, defects=0, auroc=None, auroc_source=None, interval=None,
        outcome="undecided",
    )  # fmt: skip
    assert tiles.describe() == (
        "not compared with resnet18: 4 tiles of 1 held-out good image and 0 synthetic defects are too few"
    )


def test_only_a_clearly_worse_teacher_gets_a_remark():
    found = worse_teacher([comparison((-0.2, -0.1)), comparison((-0.2, 0.1)), comparison(None)])
    assert [(each.kind, each.count) for each in found] == [("compact_teacher_worse", 180)]
    assert "image AUROC 80.0 %, of resnet18 90.0 %" in str(found[0])
