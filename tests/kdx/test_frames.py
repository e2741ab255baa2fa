"""Frames that show no part are told, and are never good; real images are not among them."""

from __future__ import annotations

import shutil

import msgspec
import numpy as np
import pytest
from PIL import Image

import kdx
from kdx.bundle import open_bundle
from kdx.frames import FrameFault, FrameLimits, faults_of, limits_of
from kdx.runtime.detector import Decision, decide

ANY = FrameLimits()


def filled(value: int, side: int = 300, channels: int = 3):
    return np.full((side, side, channels), value, np.uint8)


def noisy(low: int, high: int, side: int = 300):
    return np.random.default_rng(0).integers(low, high, (side, side, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    ("image", "faults"),
    [
        (filled(0), {FrameFault.BLACK, FrameFault.UNIFORM}),
        (noisy(0, 5), {FrameFault.BLACK}),
        (filled(255, channels=1), {FrameFault.WHITE, FrameFault.UNIFORM}),
        (noisy(251, 256), {FrameFault.WHITE}),
        (filled(128), {FrameFault.UNIFORM}),
        (noisy(180, 256), set()),  # 7 % at white
        (noisy(240, 256), {FrameFault.SATURATED}),  # 31 %
        (noisy(0, 40), set()),  # dark, but not the sensor's black alone
    ],
)
def test_faults_are_told_by_the_samples_alone(image, faults):
    assert set(faults_of(image, ANY)) == faults


def test_a_stuck_pixel_hides_no_black_frame():
    image = filled(0)
    image[0, 0] = 200
    assert faults_of(image, ANY) == (FrameFault.BLACK,)


def test_what_golden_images_show_is_no_fault():
    dark_field, backlit = filled(0), filled(255)
    dark_field[100:104, 100:110] = 200
    backlit[:90] = 30
    limits = limits_of(np.stack([dark_field, backlit]))
    assert limits.dark > 0.999
    assert 0.65 < limits.bright < 0.75
    for image in (dark_field, backlit):
        assert faults_of(image, ANY)
        assert not faults_of(image, limits)
    assert FrameFault.WHITE in faults_of(filled(255), limits)


def test_large_frames_are_sampled(monkeypatch):
    image = np.zeros((2048, 2448, 3), np.uint8)
    image[1] = 255  # between the samples
    assert set(faults_of(image, ANY)) == {FrameFault.BLACK, FrameFault.UNIFORM}


@pytest.mark.parametrize("score", [0.1, 0.9])
def test_a_faulty_frame_is_never_good(score):
    assert decide(score, 0.5) is (Decision.GOOD if score < 0.5 else Decision.DEFECTIVE)
    assert decide(score, 0.5, (FrameFault.BLACK,)) is (Decision.UNDECIDED if score < 0.5 else Decision.DEFECTIVE)
    assert decide(score, None, (FrameFault.BLACK,)) is Decision.UNDECIDED


def test_every_way_to_call_a_detector_looks_at_frames(tiny_bundle, frame):
    black = np.zeros_like(frame)
    with kdx.load(tiny_bundle, backend="onnxruntime-cpu") as detector:
        detector.threshold = np.inf  # everything scores as good
        single = detector(black)
        first, second = detector.batch([black, frame])
        assert detector(frame).is_good
    for verdict in (single, first):
        assert FrameFault.BLACK in verdict.frame_faults
        assert verdict.decision is Decision.UNDECIDED
        assert np.isfinite(verdict.score)
    assert second.is_good
    assert not second.frame_faults
    with kdx.load_many({"a": tiny_bundle, "b": tiny_bundle}, backend="onnxruntime-cpu") as group:
        assert all(verdict.frame_faults for verdict in group(black).values())


def test_an_export_keeps_what_golden_images_look_like(tiny_bundle):
    bundle = open_bundle(tiny_bundle)
    assert bundle.manifest.frame_limits == limits_of(bundle.golden().images)
    assert not any(faults_of(image, bundle.manifest.frame_limits) for image in bundle.golden().images)
    # Bundles that were written before this was kept can be read.
    old = msgspec.to_builtins(bundle.manifest)
    del old["frame_limits"]
    assert msgspec.convert(old, type(bundle.manifest)).frame_limits == ANY


def test_predict_names_the_fault(cli, tiny_bundle, frame, tmp_path):
    Image.fromarray(np.zeros_like(frame[..., 0])).save(tmp_path / "off.png")
    Image.fromarray(frame[..., 0]).save(tmp_path / "part.png")
    off, part = cli("predict", tiny_bundle, tmp_path, "--json").lines
    assert off["verdict"] != "good"
    assert "black" in off["frame_faults"]
    assert "frame_faults" not in part
    assert "black" in cli("predict", tiny_bundle, tmp_path / "off.png").stdout


def test_calibration_says_which_good_images_will_not_pass(cli, tiny_bundle, make_dataset, tmp_path):
    bundle = shutil.copytree(tiny_bundle, tmp_path / "tile.kdx")
    data = make_dataset(tmp_path / "data", train=20, good=1, scratch=0)
    bright = data / "train/good/019.png"
    Image.fromarray(np.clip(np.asarray(Image.open(bright)).astype(int) + 200, 0, 255).astype(np.uint8)).save(bright)
    options = ("--false-reject-rate", 0.3, "--backend", "onnxruntime-cpu")
    told = cli("calibrate", bundle, data, *options, "--json").json["frame_faults"]
    assert list(told) == [str(bright)]
    assert set(told[str(bright)]) <= {"saturated", "white"}
    assert "1 of these good images will be undecided" in cli("calibrate", bundle, data, *options).stdout
