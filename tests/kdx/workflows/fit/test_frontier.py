"""What kdx fit decides from figures: the frontier, the best, the order of training, the screening,
and the plot."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from PIL import Image

from kdx.runtime.machine import Machine
from kdx.workflows.fit.accuracy_images import auroc_error
from kdx.workflows.fit.frontier import next_to_train, ranked, with_frontier
from kdx.workflows.fit.frontier_plot import write_plots
from kdx.workflows.fit.screen import screening_outcome
from kdx.workflows.fit.trial import was_disturbed
from kdx.workflows.fit.trial_records import (
    SCHEMA,
    SYNTHETIC,
    Best,
    FrontierRow,
    Measured,
    MethodSize,
    Report,
    Scores,
    Screened,
    Timing,
    Trial,
    fastest_timing,
)

BUDGET = 8.0


def timing(ms, *, p50=None, backend="x", precision="fp32", percentile=99.0):
    median = ms if p50 is None else p50
    return Timing(
        backend=backend, precision=precision, percentile=percentile, measured_ms=ms, p50_ms=median, max_ms=ms, runs=100
    )


def row(ms, auroc, method="stpm", size=128, precision="fp32"):
    scores = Scores(
        good=10, defective=10, image_auroc=auroc, image_auroc_error=0.01, pixel_auroc=None, pro=None,
        false_reject_rate=None, detection_rate=0.5,
    )  # fmt: skip
    return FrontierRow(
        candidate=MethodSize(method, size),
        timing=timing(ms, precision=precision),
        scores=scores,
        bundle=f"bundles/{method}-{size}.kdx",
        bundle_sha256="",
        keeps_budget=ms <= BUDGET,
    )


def frontier(*points):
    """Return the marked points' indices in the order given."""
    rows = [row(ms, auroc, size=index) for index, (ms, auroc) in enumerate(points)]
    return sorted(one.candidate.size for one in with_frontier(rows) if one.on_frontier)


# The frontier


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([], []),
        ([(5.0, 0.9)], [0]),
        ([(5.0, 0.9), (6.0, 0.95)], [0, 1]),  # slower and more accurate
        ([(5.0, 0.9), (6.0, 0.85)], [0]),  # slower and less accurate
        ([(5.0, 0.9), (6.0, 0.9)], [0]),  # slower for nothing
        ([(5.0, 0.9), (5.0, 0.95)], [1]),  # less accurate for nothing
        ([(5.0, 0.9), (5.0, 0.9)], [0, 1]),  # equals in both
        ([(9.0, 0.99), (1.0, 0.5), (4.0, 0.4), (5.0, 0.8), (6.0, 0.7)], [0, 1, 3]),
    ],
)
def test_the_frontier_holds_what_nothing_beats(points, expected):
    assert frontier(*points) == expected


def test_the_table_is_sorted_by_latency():
    rows = with_frontier([row(9, 0.9), row(2, 0.5, size=64), row(4, 0.7, size=96)])
    assert [one.timing.measured_ms for one in rows] == [2, 4, 9]


def test_the_best_is_the_most_accurate_within_the_budget_and_of_equals_the_fastest():
    too_slow, slow, fast, poor = row(8.01, 0.99, size=1), row(8.0, 0.9004, size=2), row(3, 0.9, size=3), row(1, 0.8)
    assert ranked([too_slow, slow, poor, fast]) == [fast, slow, poor]
    assert ranked([too_slow]) == []


def test_a_median_never_counts_as_a_percentile():
    look = timing(1.0, percentile=50.0)
    assert fastest_timing([look, timing(5.0)]) == timing(5.0)
    assert fastest_timing([Timing(backend="x", precision="fp32", error="missing")]) is None


# The order of training


def test_each_method_comes_once_at_its_largest_size_quickest_first_then_the_best_continues():
    waiting = {
        MethodSize(m, s): ms for m, s, ms in [("a", 64, 1), ("a", 96, 4), ("b", 64, 2), ("b", 96, 3), ("c", 64, 5)]
    }
    accuracy = {"a": 0.9, "b": 0.7, "c": 0.8}
    order, results = [], []
    while waiting:
        chosen = next_to_train(list(waiting.items()), results)
        del waiting[chosen]
        order.append((chosen.method, chosen.size))
        results.append((chosen, accuracy[chosen.method]))
    assert order == [("b", 96), ("a", 96), ("c", 64), ("a", 64), ("b", 64)]


def test_the_largest_size_is_that_of_the_most_pixels():
    waiting = [(MethodSize("a", size), 1.0) for size in (96, (64, 256), 64)]
    assert next_to_train(waiting, []).size == (64, 256)
    assert MethodSize("a", (64, 256)).name == "a-64x256"


def test_a_method_that_failed_comes_last():
    waiting = [(MethodSize("a", 64), 1.0), (MethodSize("b", 64), 2.0)]
    assert next_to_train(waiting, [(MethodSize("a", 96), -1.0), (MethodSize("b", 96), 0.1)]).method == "b"


# The screening


def test_one_precision_within_the_budget_is_enough():
    timings = [timing(9.0), timing(BUDGET, precision="int8")]
    assert screening_outcome(MethodSize("a", 64), timings, BUDGET).outcome == "may keep"


def test_what_misses_says_by_how_much():
    screened = screening_outcome(MethodSize("a", 64), [timing(9.0), timing(12.0, precision="int8")], BUDGET)
    assert screened.outcome == "misses"
    assert "p99 9.0 ms in x, fp32" in screened.reason


def test_what_ran_nowhere_failed():
    broken = Timing(backend="x", precision="fp32", error="no such operator")
    screened = screening_outcome(MethodSize("a", 64), [broken], BUDGET)
    assert (screened.outcome, screened.reason) == ("failed", "x fp32: no such operator")
    assert screening_outcome(MethodSize("a", 64), [broken, timing(3.0, precision="int8")], BUDGET).precisions == [
        "int8"
    ]


@pytest.mark.parametrize(("p50", "is_told"), [(4.0, False), (4.5, False), (12.0, True)])
def test_a_busy_machine_is_detected_by_the_graph_that_was_screened(p50, is_told):
    candidate = MethodSize("stpm", 64)
    screened = Screened(candidate=candidate, outcome="may keep", timings=[timing(5.0, p50=4.0)])
    measured = Measured(precision="fp32", timings=[timing(20.0, p50=p50)], scores=row(1, 0.5).scores)
    trial = Trial(
        candidate=candidate, key="", bundle_sha256="", epochs=1, train_images=1, held_out_images=1, seconds=1.0,
        measured=[measured],
    )  # fmt: skip
    assert bool(was_disturbed(screened, trial)) == is_told


# The standard error


def test_the_error_of_an_auroc_is_that_of_images_drawn_again():
    # Scores of two exponential distributions, for which Hanley and McNeil's formula is exact: A = r
    # / (1 + r).
    rng = np.random.default_rng(0)
    ratio, good, defective = 4.0, 30, 20
    drawn = []
    for _ in range(3000):
        low, high = rng.exponential(1.0, (good, 1)), rng.exponential(ratio, (1, defective))
        drawn.append((high > low).mean())
    assert auroc_error(ratio / (1 + ratio), good, defective) == pytest.approx(np.std(drawn), rel=0.05)
    assert auroc_error(1.0, good, defective) == 0.0


# The plot


def report(rows, best=None):
    machine = Machine(cpu="CPU", cores=2, threads=2, system="", python="", versions={})
    return Report(
        schema=SCHEMA, data="parts", category=None, budget_ms=BUDGET, percentile=99.0, false_reject_rate=0.01,
        evidence=SYNTHETIC, notes=[], machine=machine, screened=[], rows=rows, dropped=[], best=best, advice=[],
        next="", created="",
    )  # fmt: skip


def many_rows():
    rng = np.random.default_rng(0)
    methods = ("stpm", "dual-det", "dskd", "mixed-teacher", "dual")
    return with_frontier(
        [
            row(size / 20 * scale * rng.uniform(0.8, 1.2), rng.uniform(0.7, 0.99), method, size, precision)
            for method in methods
            for size in (64, 128, 256)
            for precision, scale in (("fp32", 1.0), ("int8", 0.5))
        ]
    )


def drawn_text(svg):
    """Return what the plot says: matplotlib writes each text as a comment beside its outlines."""
    return svg.read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_plot_is_a_picture_that_says_what_it_shows(tmp_path):
    rows = many_rows()
    chosen = ranked(rows)[0]
    files = (tmp_path / "f.png", tmp_path / "f.svg")
    write_plots(report(rows, Best(bundle="best.kdx", row=chosen, confirmed=chosen.timing)), files)
    with Image.open(files[0]) as image:
        image.load()
        assert image.format == "PNG"
        assert min(image.size) > 500
        assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 20
    text = drawn_text(files[1])
    for word in ("budget 8 ms", SYNTHETIC, "int8", "frontier", str(chosen.candidate)):
        assert word in text


@pytest.mark.slow
def test_the_same_report_draws_the_same_files(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_plots(report(many_rows()), (tmp_path / name / "f.png", tmp_path / name / "f.svg"))
    for kind in ("png", "svg"):
        assert (tmp_path / f"one/f.{kind}").read_bytes() == (tmp_path / f"two/f.{kind}").read_bytes()


def test_labels_do_not_stand_on_each_other():
    from kdx.workflows.fit.frontier_plot import draw

    figure = draw(report(many_rows()))
    axes = figure.axes[0]
    boxes = [text.get_window_extent() for text in axes.texts if "budget" not in text.get_text()]
    assert len(boxes) > 5
    assert not [1 for i, one in enumerate(boxes) for other in boxes[:i] if one.overlaps(other)]


def test_nothing_to_draw_leaves_no_earlier_plot(tmp_path):
    file = tmp_path / "f.png"
    file.write_bytes(b"old")
    write_plots(report([]), (file,))
    assert not file.exists()


def test_a_plot_of_one_point_can_be_drawn(tmp_path):
    only = msgspec.structs.replace(row(5.0, 1.0), on_frontier=True)
    write_plots(report([only]), (tmp_path / "f.png",))
    assert (tmp_path / "f.png").stat().st_size > 5000
