"""INT8 students must decide as well as FP32, and need not repeat its scores."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from kdx.bundle.variants import DecisionComparison, Judged
from kdx.calibration.rates import quantile_with_interval
from kdx.runtime.backend import Outputs
from kdx.verification import resampling
from kdx.verification.decisions import (
    Labelled,
    compare_decisions,
    compare_labelled,
    decision_faults,
    judge_decisions,
)
from kdx.verification.held_out import LEAST_DEFECTS, LEAST_GOOD, HeldOutScores
from kdx.verification.tolerances import DECISIONS, INT8_STUDENTS


def scores_of(frames: int, seed: int = 0, *, shift: float = 1.5, noise: float = 0.4) -> HeldOutScores:
    """Return scores that have a part in common with those of other seeds, as two networks'."""
    part = np.random.default_rng([frames, 99]).normal(0, 1, 4 * frames)
    rng = np.random.default_rng([frames, seed])
    good = part[:frames] + noise * rng.normal(size=frames)
    return HeldOutScores(good, part[frames:] + shift + noise * rng.normal(size=3 * frames))


FP32 = scores_of(100)
GOLDEN = Outputs(
    np.random.default_rng(0).random((5, 8, 8)).astype(np.float32), np.arange(1, 6, dtype=np.float32)[:, None]
)


def judged(variant: HeldOutScores, exact: HeldOutScores = FP32, **more):
    golden = GOLDEN, GOLDEN, more.pop("answers", GOLDEN)
    return judge_decisions("x", DECISIONS, INT8_STUDENTS, golden, (exact, variant), **more)


# The figures


def test_areas_and_counts_are_those_of_plain_loops() -> None:
    own = scores_of(100, 1)
    found = compare_decisions(FP32, own)
    labels = np.repeat([0, 1], [100, 300])
    for scores, area, rejected, false in (
        (FP32, found.auroc_reference, found.rejected_reference, found.false_rejects_reference),
        (own, found.auroc, found.rejected, found.false_rejects),
    ):
        assert area == pytest.approx(roc_auc_score(labels, np.concatenate([scores.good, scores.defects])))
        # Of 100 images, the threshold at 1 % is the highest score of the 99 others.
        thresholds = [np.delete(scores.good, index).max() for index in range(100)]
        assert rejected == sum(defect > thresholds[index % 100] for index, defect in enumerate(scores.defects))
        assert false == sum(good > threshold for good, threshold in zip(scores.good, thresholds, strict=True)) == 1
    assert (found.good, found.frames, found.defects, found.false_reject_rate) == (100, 100, 300, 0.01)
    assert found.auroc_interval[0] < found.auroc - found.auroc_reference < found.auroc_interval[1]
    assert found.rejected_interval[0] < (found.rejected - found.rejected_reference) / 300 < found.rejected_interval[1]


def resample(scores: HeldOutScores, frames: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Return AUROC and share of rejected defects of frames that were drawn, image by image."""
    defects = np.concatenate([np.flatnonzero(scores.frame_of_defects == frame) for frame in frames])
    rejected = []
    for defect in defects:
        others = scores.good[frames[frames != scores.frame_of_defects[defect]]]
        rejected.append(scores.defects[defect] > np.max(others, initial=-np.inf))
    area = roc_auc_score(labels, np.concatenate([scores.good[frames], scores.defects[defects]]))
    return float(area), float(np.mean(rejected))


def test_intervals_are_those_of_a_plain_loop_over_the_same_resamples(monkeypatch) -> None:
    monkeypatch.setattr(resampling, "RESAMPLES", 250)
    exact, own = scores_of(20), scores_of(20, 1)
    found = compare_decisions(exact, own)
    differences = []
    (drawn,) = next(resampling.draws(20))
    for counts in drawn.astype(int):
        frames, labels = np.repeat(np.arange(20), counts), np.repeat([0, 1], [20, 60])
        differences.append(np.subtract(resample(own, frames, labels), resample(exact, frames, labels)))
    areas, rejected = np.quantile(differences, [0.025, 0.975], axis=0).T
    np.testing.assert_allclose(found.auroc_interval, areas, atol=1e-12)
    np.testing.assert_allclose(found.rejected_interval, rejected, atol=1e-12)


def test_tiles_of_one_frame_are_one_image() -> None:
    """120 tiles of 10 frames show less than 120 images would."""
    good = np.tile(np.linspace(0, 1, 10), 12)  # the tiles of a frame are alike
    defects = good + 0.5

    def compared(frames: int | None) -> DecisionComparison:
        worse = np.where(np.arange(120) % 10 == 3, defects - 0.4, defects)
        return compare_decisions(HeldOutScores(good, defects, frames), HeldOutScores(good, worse, frames))

    tiles, whole = compared(10), compared(None)
    assert (tiles.good, tiles.frames) == (120, 10)
    assert (tiles.auroc, tiles.auroc_reference) == (whole.auroc, whole.auroc_reference)
    assert np.ptp(tiles.auroc_interval) > 2 * np.ptp(whole.auroc_interval)
    assert "on 120 tiles of 10 held-out good images" in tiles.describe()
    few = HeldOutScores(np.zeros(80), np.zeros(240), frames=LEAST_GOOD - 1)
    assert f"{LEAST_GOOD - 1} held-out good images and 240 synthetic defects are too few" in judged(few, few).faults[0]


def test_the_text_names_every_figure() -> None:
    found = DecisionComparison(
        defects_are="synthetic", good=114, frames=114, defects=200, false_reject_rate=0.01, auroc=0.911,
        auroc_reference=0.912, auroc_interval=(-0.0056, 0.0004), rejected=133, rejected_reference=132,
        rejected_interval=(-0.0001, 0.015), false_rejects=1, false_rejects_reference=2,
    )  # fmt: skip
    assert found.describe() == (
        "on 114 held-out good images and 200 synthetic defects on them: image AUROC 91.1 (FP32 91.2), difference "
        "-0.1 points (95 %: -0.6 to +0.0); 133 defects rejected (FP32 132), difference +0.5 points (95 %: +0.0 to "
        "+1.5); false rejects: 1 (FP32 2); a fault on less than 2.6 % of such images may have been missed"
    )
    assert found.detectable_share == pytest.approx(1 - 0.05 ** (1 / 114))
    labelled = msgspec.structs.replace(found, defects_are="labelled")
    assert labelled.describe().startswith("on 114 good and 200 defective labelled images: image AUROC 91.1")
    assert labelled.describe().endswith("; false rejects: 1 (FP32 2)")
    judged_too = msgspec.structs.replace(labelled, false_rejects_interval=(-0.031, 0.004))
    assert judged_too.describe() == (f"{labelled.describe()}, difference -0.9 points (95 %: -3.1 to +0.4)")


# The rule


def test_the_scores_may_be_any_others_if_the_decisions_are_as_good() -> None:
    own = scores_of(100, 1)
    moved = HeldOutScores(np.exp(3 * own.good), np.exp(3 * own.defects))
    found = judged(moved)
    assert found.passed
    assert found.verdicts.flips > 0, "likeness to FP32 is a figure, and no condition"
    assert found.decisions == judged(own).decisions


def test_what_decides_better_passes_however_much_it_differs() -> None:
    better = HeldOutScores(np.random.default_rng(8).normal(0, 0.1, 100), np.random.default_rng(9).normal(9, 3, 300))
    found = judged(better)
    assert found.passed
    assert found.decisions[0].auroc_interval[0] > 0
    assert found.decisions[0].rejected > found.decisions[0].rejected_reference


def test_what_separates_defects_clearly_worse_is_refused() -> None:
    found = judged(scores_of(100, 1, shift=1.2))
    (compared,) = found.decisions
    assert compared.auroc_interval[0] < -DECISIONS.auroc
    assert f"image AUROC on synthetic defects {100 * compared.auroc:.1f}, FP32 has" in found.faults[0]
    assert (
        f"it may be lower by up to {-100 * compared.auroc_interval[0]:.1f} points, allowed are 1.5" in found.faults[0]
    )


def test_lost_defects_are_refused_where_the_order_hardly_changes() -> None:
    """Five of a hundred good images become as hot as many defects, which hardly changes the
    area."""
    exact = HeldOutScores(np.linspace(0, 1, 100), np.linspace(0.9, 3, 300))
    hot = np.where(np.arange(100) % 20 == 3, 1.9, exact.good)
    found = judged(HeldOutScores(hot, exact.defects), exact)
    compared = found.decisions[0]
    assert compared.rejected < 0.6 * compared.rejected_reference
    fault = found.faults[-1]
    assert f"{compared.rejected} of 300 synthetic defects are rejected, FP32 rejects" in fault
    allowed = 15 * compared.rejected_reference / 300
    assert fault.endswith(
        f"the share may be lower by up to {-100 * compared.rejected_interval[0]:.1f} points, allowed are {allowed:.1f}"
    )


@pytest.mark.parametrize("shift", [1.5, 1.45, 1.4, 1.3, 1.0])
def test_a_variant_that_is_worse_never_passes_where_a_better_one_fails(shift) -> None:
    """Defects score lower and lower in the variant: refused once, it stays refused."""
    rng = np.random.default_rng(int(100 * shift))
    own = scores_of(30, 1, shift=shift)
    exact = scores_of(30)
    defects, passed, intervals = own.defects.copy(), [], []
    for _ in range(25):
        found = judged(HeldOutScores(own.good, defects), exact)
        passed.append(found.passed)
        intervals.append((*found.decisions[0].auroc_interval, *found.decisions[0].rejected_interval))
        lower = rng.random(90) < 0.2
        defects = np.where(lower, defects - rng.exponential(0.3, 90), defects)
    assert passed == sorted(passed, reverse=True)
    assert not passed[-1]
    assert (np.diff(intervals, axis=0) <= 1e-12).all()


@pytest.mark.parametrize("frames", [6, 20, 64, 150])
def test_what_is_as_good_passes_with_few_images_as_with_many(frames, monkeypatch) -> None:
    """Networks that decide equally well, as similar as FP32 and INT8 students on magnetic tiles."""
    monkeypatch.setattr(resampling, "RESAMPLES", 500)
    passed = 0
    for seed in range(40):
        rng = np.random.default_rng([frames, seed])
        part = rng.normal(size=4 * frames)
        scores = [part + 0.07 * rng.normal(size=4 * frames) for _ in range(2)]
        sides = [HeldOutScores(each[:frames], each[frames:] + 3) for each in scores]
        passed += not decision_faults(compare_decisions(*sides), DECISIONS)
    assert passed >= 36


@pytest.mark.parametrize("frames", [20, 80])
def test_intervals_cover_no_difference_of_equals(frames, monkeypatch) -> None:
    """Also of rejected defects, whose thresholds depend on one or two images; three standard errors
    off."""
    monkeypatch.setattr(resampling, "RESAMPLES", 500)
    rng, covered, count = np.random.default_rng(frames), np.zeros(2), 100
    for _ in range(count):
        part = rng.normal(size=4 * frames)
        scores = [part + 0.15 * rng.normal(size=4 * frames) for _ in range(2)]
        found = compare_decisions(*(HeldOutScores(each[:frames], each[frames:] + 2.5) for each in scores))
        covered += [low <= 0 <= high for low, high in (found.auroc_interval, found.rejected_interval)]
    assert (covered / count >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / count)).all()


def test_limits_of_few_images_are_wider_and_a_large_loss_is_still_refused() -> None:
    assert DECISIONS.factor(64) == DECISIONS.factor(200) == 1
    assert DECISIONS.factor(16) == 2
    exact = HeldOutScores(np.linspace(0.1, 0.2, 6), np.full(18, 0.3))
    lost = exact.defects.copy()
    lost[0] = 0.19
    found = judged(HeldOutScores(exact.good, lost), exact)
    assert found.passed
    assert found.decisions[0].rejected == 17
    assert "a fault on less than 39 % of such images may have been missed" in found.decisions[0].describe()
    lost[:6] = 0.15
    assert not judged(HeldOutScores(exact.good, lost), exact).passed


# Evidence


@pytest.mark.parametrize(("good", "defects"), [(LEAST_GOOD - 1, 200), (100, LEAST_DEFECTS - 1), (0, 0)])
def test_too_little_evidence_refuses_even_what_is_identical(good, defects) -> None:
    few = HeldOutScores(FP32.good[:good], FP32.defects[:defects])
    found = judged(few, few)
    assert f"{good} held-out good images and {defects} synthetic defects are too few" in found.faults[0]
    assert found.decisions == []


def test_scores_that_are_all_equal_reject_nothing_and_are_refused() -> None:
    equal = HeldOutScores(np.ones(100), np.ones(300))
    found = judged(equal)
    assert found.decisions[0].auroc == 0.5
    assert found.faults[-1] == "none of the 300 synthetic defects is rejected"
    found = judged(equal, equal)
    none = ["FP32 rejects none of the 300 synthetic defects, so missed defects cannot be compared"]
    assert found.faults == none
    assert judged(FP32, equal).faults == none, "one that is rejected by chance is no evidence"


def test_labelled_defects_of_which_fp32_rejects_none_are_no_fault_of_students_that_are_as_good() -> None:
    labels = np.repeat([False, True], [100, 50])
    subtle = np.concatenate([FP32.good[:100], np.linspace(FP32.good.min(), np.median(FP32.good), 50)])
    found = judged(FP32, labelled=Labelled(labels, subtle, subtle))
    assert found.passed
    assert [(each.defects_are, each.rejected_reference) for each in found.decisions][1] == ("labelled", 0)
    worse = np.concatenate([subtle[:100], subtle[100:] - np.ptp(FP32.good)])
    assert not judged(FP32, labelled=Labelled(labels, subtle, worse)).passed, "image AUROC is compared all the same"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_refused(value) -> None:
    broken = HeldOutScores(FP32.good, np.where(FP32.defects > 2, value, FP32.defects))
    assert judged(broken).faults == ["scores of held-out images that are not finite"]
    assert judged(FP32, broken).faults == ["scores of held-out images that are not finite"]
    golden = Outputs(GOLDEN.maps, np.where(GOLDEN.scores > 3, value, GOLDEN.scores).astype(np.float32))
    assert judged(FP32, answers=golden).faults == ["scores that are not finite"]
    maps = GOLDEN.maps.copy()
    maps[0, 0, 0] = value
    assert judged(FP32, answers=Outputs(maps, GOLDEN.scores)).faults == ["scores that are not finite"]


def test_a_runtime_must_compute_what_was_trained() -> None:
    near = Outputs(GOLDEN.maps, GOLDEN.scores * np.float32(1 + INT8_STUDENTS.score / 2))
    assert judged(FP32, answers=near).passed
    far = Outputs(GOLDEN.maps, GOLDEN.scores * np.float32(1 + 2 * INT8_STUDENTS.score))
    said = f"golden scores are off by {2 * INT8_STUDENTS.score:.2g} and maps by 0 of what the trained module computes"
    assert said in judged(FP32, answers=far).faults[0]
    maps = GOLDEN.maps.copy()
    maps[2] += np.float32(2 * INT8_STUDENTS.map * np.ptp(maps[2]))
    assert not judged(FP32, answers=Outputs(maps, GOLDEN.scores)).passed


# Labelled images


def labelled(own: np.ndarray, exact: np.ndarray, labels: np.ndarray) -> Labelled:
    return Labelled(labels, exact, own)


def test_labelled_images_are_decided_at_the_thresholds_of_held_out_ones() -> None:
    rng = np.random.default_rng(1)
    labels = np.arange(150) >= 50
    part = rng.normal(0, 1, 150) + 1.5 * labels
    exact, own = part + 0.3 * rng.normal(size=150), part + 0.3 * rng.normal(size=150)
    variant = scores_of(100, 1)
    found = compare_labelled(FP32, variant, labelled(own, exact, labels))
    assert found.auroc == pytest.approx(roc_auc_score(labels, own))
    assert found.auroc_reference == pytest.approx(roc_auc_score(labels, exact))
    thresholds = [quantile_with_interval(each.good, 0.01)[0] for each in (FP32, variant)]
    assert [found.rejected_reference, found.rejected] == [
        int((scores[labels] > threshold).sum()) for scores, threshold in zip((exact, own), thresholds, strict=True)
    ]
    assert [found.false_rejects_reference, found.false_rejects] == [
        int((scores[~labels] > threshold).sum()) for scores, threshold in zip((exact, own), thresholds, strict=True)
    ]
    assert judged(variant, labelled=labelled(own, exact, labels)).decisions[1] == found


def test_worse_labelled_images_refuse_what_held_out_ones_pass() -> None:
    labels = np.arange(200) >= 100
    exact = np.linspace(0, 1, 200)
    worse = np.where(labels, exact - 0.3, exact)
    found = judged(FP32, labelled=labelled(worse, exact, labels))
    assert "image AUROC on labelled defects" in found.faults[0]
    broken = np.where(labels, np.nan, exact)
    for own, reference in ((broken, exact), (exact, broken)):
        assert judged(FP32, labelled=labelled(own, reference, labels)).faults == [
            "scores of labelled images that are not finite"
        ]


def test_the_interval_of_false_rejects_is_that_of_a_plain_loop(monkeypatch) -> None:
    monkeypatch.setattr(resampling, "RESAMPLES", 250)
    rng = np.random.default_rng(3)
    labels = np.arange(45) >= 15
    part = rng.normal(0.5, 1, 45)
    exact, own = part + 0.3 * rng.normal(size=45), part + 0.3 * rng.normal(size=45)
    sides = scores_of(20), scores_of(20, 1)
    found = compare_labelled(*sides, labelled(own, exact, labels))
    differences = []
    for frames, goods in zip(*next(resampling.draws(20, 15, 30))[:2], strict=True):
        drawn = [np.repeat(np.arange(len(counts)), counts.astype(int)) for counts in (frames, goods)]
        # 5 % is the rate of so few images.
        shares = [
            np.mean(scores[:15][drawn[1]] > quantile_with_interval(side.good[drawn[0]], 0.05)[0])
            for scores, side in zip((exact, own), sides, strict=True)
        ]
        differences.append(shares[1] - shares[0])
    np.testing.assert_allclose(found.false_rejects_interval, np.quantile(differences, [0.025, 0.975]), atol=1e-12)
    assert compare_decisions(*sides).false_rejects_interval is msgspec.UNSET


def test_a_variant_that_rejects_the_labelled_good_images_is_refused() -> None:
    """All defects are above them, so image AUROC and rejected defects are FP32's."""
    held_out = HeldOutScores(np.linspace(0, 1, 100), np.full(300, 2.5))
    labels = np.arange(200) >= 100
    exact = np.concatenate([np.linspace(0, 0.9, 100), np.linspace(2, 3, 100)])
    own = np.where(labels, exact, exact / 2 + 1.2)
    found = judged(held_out, held_out, labelled=labelled(own, exact, labels))
    compared = found.decisions[1]
    assert (compared.auroc, compared.rejected) == (compared.auroc_reference, compared.rejected_reference) == (1, 100)
    assert found.faults == [
        "100 of 100 labelled good images are rejected, FP32 rejects 0; with 95 % confidence the share may be higher "
        "by up to 100.0 points, allowed are 10.0"
    ]
    assert judged(held_out, held_out, labelled=labelled(exact, own, labels)).passed, "to reject fewer is a gain"
    # Also where no defect is rejected, and where few defects are labelled.
    lost = judged(held_out, held_out, labelled=labelled(np.where(labels, 0.5, own), exact, labels))
    assert any("labelled good images are rejected" in fault for fault in lost.faults)
    few = labelled(own[:106], exact[:106], labels[:106])
    assert "allowed are 10.0" in judged(held_out, held_out, labelled=few).faults[0]


@pytest.mark.parametrize("good", [8, 30, 100])
def test_what_rejects_more_good_images_never_passes_where_fewer_fail(good) -> None:
    """Labelled good images score higher and higher in the variant: refused once, it stays
    refused."""
    rng = np.random.default_rng(good)
    held_out = HeldOutScores(np.linspace(0, 1, 100), np.full(300, 5.0))
    labels = np.arange(good + 20) >= good
    exact = np.where(labels, 5, rng.uniform(0, 0.9, good + 20))
    own, passed, high = exact.copy(), [], []
    for index in range(-1, good, max(1, good // 25)):
        own[: index + 1] = 2
        found = compare_labelled(held_out, held_out, labelled(own, exact, labels))
        passed.append(not decision_faults(found, DECISIONS))
        high.append(found.false_rejects_interval)
    assert passed == sorted(passed, reverse=True)
    assert passed[0]
    assert not passed[-1]
    assert (np.diff(high, axis=0) >= 0).all()


@pytest.mark.parametrize("good", [6, 20, 64, 150])
def test_false_rejects_of_what_is_as_good_pass_with_few_labelled_images(good, monkeypatch) -> None:
    monkeypatch.setattr(resampling, "RESAMPLES", 500)
    passed = 0
    for seed in range(40):
        rng = np.random.default_rng([good, seed])
        frames, part = rng.normal(size=100), np.concatenate([rng.normal(size=good), rng.normal(4, 1, 30)])
        sides = [HeldOutScores(frames + 0.07 * rng.normal(size=100), np.full(300, 4.0)) for _ in range(2)]
        exact, own = (part + 0.07 * rng.normal(size=good + 30) for _ in range(2))
        found = compare_labelled(*sides, labelled(own, exact, np.arange(good + 30) >= good))
        passed += not any("good images are rejected" in fault for fault in decision_faults(found, DECISIONS))
    assert passed >= 36


# The record


def test_records_of_other_variants_keep_their_bytes() -> None:
    plain = Judged(runtime="x", compared=1, flips=0, score_max=0.1)
    assert msgspec.json.encode(plain) == (
        b'{"runtime":"x","compared":1,"flips":0,"score_max":0.1,"auroc":null,"auroc_reference":null,"verdicts":null}'
    )
    assert msgspec.json.decode(msgspec.json.encode(plain), type=Judged) == plain
    assert plain.describe() == ""


def test_a_record_comes_back_as_it_was_written() -> None:
    labels = np.arange(20) >= 10
    found = judged(scores_of(100, 1), labelled=labelled(5.0 * labels, 5.0 * labels, labels))
    record = Judged(runtime="x", compared=1, flips=0, score_max=0.1, verdicts=found.verdicts, decisions=found.decisions)
    assert msgspec.json.encode(record).count(b"false_rejects_interval") == 1, "of labelled images alone"
    assert msgspec.json.decode(msgspec.json.encode(record), type=Judged) == record
    assert record.describe().startswith("decides as well as FP32 on 100 held-out good images and 300 synthetic")
