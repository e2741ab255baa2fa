"""What the page shows is counted by band, and bounded in number and in bytes."""

from __future__ import annotations

import contextlib
import dataclasses

import msgspec
import numpy as np

from kdx.bundle.open import open_bundle
from kdx.decision.verdict import Decision, Verdict
from kdx.errors import BackendError
from kdx.monitoring.drift import FEWEST_VERDICTS
from kdx.monitoring.judged_by import JudgedBy
from kdx.monitoring.prometheus import Metrics
from kdx.station.record import Shown, not_judged
from kdx.station.serve.answers import Asked
from kdx.station.serve.figures import DriftFigures, Figures
from kdx.station.serve.kept_shift import FILE, ShiftKeeper, read_shift
from kdx.station.serve.live import NO_BUNDLE, Live, Seen


def undecided(data: bytes = b"") -> Seen:
    record = not_judged(Shown(image=None, image_sha256=None), BackendError("lost"), None)
    return Seen("tile", record, data, Asked(), None, None)


def test_counts_are_those_of_the_shift_and_of_each_bundle():
    live = Live({"tile": lambda: None, "nut": lambda: None})
    for _ in range(3):
        live.add(undecided())
    live.refuse(dataclasses.replace(undecided(), bundle="nut"))
    tile, nut = live.shift().bundles
    assert (tile.counts["undecided"], tile.counts["good"], nut.counts["unreadable"]) == (3, 0, 1)
    assert (tile.p50_ms, nut.p50_ms) == (None, None)
    before = live.version
    live.begin_shift()
    tile, nut = live.shift().bundles
    assert not any((*tile.counts.values(), *nut.counts.values()))
    assert live.version > before
    assert len(live.shift().latest) == 3  # the parts are still there to look at


def test_times_are_of_parts_that_were_judged():
    live = Live({"tile": lambda: None})
    for milliseconds in (None, 2.0, None, None):
        live.add(dataclasses.replace(undecided(), milliseconds=milliseconds))
    (tile,) = live.shift().bundles
    assert (tile.p50_ms, tile.p99_ms) == (2.0, 2.0)
    assert [glance.milliseconds for glance in live.shift().latest] == [None, None, 2.0, None]


def test_the_latest_come_first_and_old_ones_go():
    live = Live({"tile": lambda: None})
    parts = [undecided() for _ in range(100)]
    for part in parts:
        live.add(part)
    latest = [glance.verdict_id for glance in live.shift().latest]
    assert latest == [part.record.verdict_id for part in parts[: -len(latest) - 1 : -1]]
    assert live.find(parts[-1].record.verdict_id) is parts[-1]
    assert live.find(parts[0].record.verdict_id) is None


def test_large_images_do_not_pile_up():
    live = Live({"tile": lambda: None})
    large = bytes(50 << 20)
    for _ in range(5):
        live.add(undecided(large))
    assert len(live.shift().latest) == 2
    live.add(undecided(bytes(200 << 20)))
    assert len(live.shift().latest) == 1  # the latest is always shown


def test_drift_is_computed_now_and_then_and_is_unknown_for_few_scores():
    found = iter([None, DriftFigures(0.5, alarm=True)])
    live = Live({"tile": lambda: next(found)})
    assert live.shift().bundles[0].drift is None
    for _ in range(24):
        live.add(undecided())
        assert live.shift().bundles[0].drift is None
        assert not live.shift().bundles[0].drift_alarm
    live.add(undecided())
    (tile,) = live.shift().bundles
    assert (tile.drift, tile.drift_alarm) == (0.5, True)


def test_the_drift_of_a_bundle_is_that_of_its_metrics(tiny_bundle):
    figures, bundle = Figures(), open_bundle(tiny_bundle)
    metrics = Metrics(figures.registry, bundle, "fp32", "onnxruntime")
    by = JudgedBy(
        bundle=bundle.path.name, bundle_sha256="", graph_sha256="", backend="onnxruntime-cpu", precision="fp32"
    )
    assert figures.drift_of(by) is None
    for _ in range(FEWEST_VERDICTS):
        metrics.add(Verdict(Decision.GOOD, 1e9, 1.0, np.zeros((2, 2), np.float32)), 1.0)
    assert figures.drift_of(by) == (1.0, True)
    assert figures.drift_of(msgspec.structs.replace(by, precision="int8")) is None


def test_a_large_difference_that_is_not_significant_is_no_alarm():
    live = Live({"tile": lambda: DriftFigures(0.3, alarm=False)})
    (tile,) = live.shift().bundles
    assert (tile.drift, tile.drift_alarm) == (0.3, False)


def test_a_server_that_is_started_again_counts_on(tmp_path):
    live = Live({"tile": lambda: None, "nut": lambda: None})
    with contextlib.closing(ShiftKeeper(tmp_path, live)):
        live.add(undecided())
        live.refuse(undecided())
        live.add(dataclasses.replace(undecided(), bundle=NO_BUNDLE))
    again = Live({"tile": lambda: None, "bolt": lambda: None}, read_shift(tmp_path))
    counts = {each.name: each.counts for each in again.shift().bundles}
    assert set(counts) == {"tile", "bolt", NO_BUNDLE}
    assert (counts["tile"]["undecided"], counts["tile"]["unreadable"], counts["bolt"]["undecided"]) == (1, 1, 0)
    assert counts[NO_BUNDLE]["undecided"] == 1
    assert again.shift().since == live.shift().since
    with contextlib.closing(ShiftKeeper(tmp_path, again)):
        again.add(undecided())
    third = Live({"nut": lambda: None}, read_shift(tmp_path))  # counts of a bundle that was not served meanwhile
    (nut, _) = third.shift().bundles
    assert (nut.name, nut.counts["undecided"], third.kept().counts["tile"]["undecided"]) == ("nut", 0, 2)
    third.begin_shift()
    assert not any(third.kept().counts.values())
    (tmp_path / FILE).write_bytes(b"{")
    assert read_shift(tmp_path) is None
    assert read_shift(None) is None
