"""Frames that show no part are detected, and are never good; real images pass."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

import kdx
from kdx.bundle.open import open_bundle
from kdx.bundle.store import write_manifest
from kdx.calibration.frame_limits import FEWEST_IMAGES, learn_limits, outliers_of
from kdx.calibration.level_fit import fit_level
from kdx.decision.verdict import Decision, decide
from kdx.imaging.frame_faults import (
    UNKNOWN,
    ChannelLimits,
    FrameFault,
    FrameLimits,
    faults_of,
    limits_of,
    limits_of_most,
    values_of,
)
from kdx.imaging.image_identity import Likeness, identify
from kdx.storage.files import sha256_file

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
def test_faults_are_detected_from_the_samples_alone(image, faults):
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


def test_what_most_frames_show_is_no_fault_and_what_few_show_is():
    backlit, dark_field = filled(255), filled(0)
    backlit[:180] = 30
    dark_field[100:104, 100:110] = 200
    limits = limits_of_most([*[backlit] * 19, noisy(240, 256), noisy(251, 256)])
    assert limits.bright == pytest.approx(0.4, abs=0.01)
    assert not faults_of(backlit, limits)
    assert FrameFault.WHITE in faults_of(noisy(251, 256), limits)
    limits = limits_of_most([*[filled(128)] * 9, noisy(0, 5)])
    assert faults_of(noisy(0, 5), limits) == (FrameFault.BLACK,)
    assert not faults_of(dark_field, limits_of_most([dark_field] * 3))
    assert limits_of_most([]) == UNKNOWN
    assert not faults_of(noisy(240, 256), UNKNOWN)
    assert faults_of(filled(255), UNKNOWN) == (FrameFault.UNIFORM,)


def test_large_frames_are_sampled(monkeypatch):
    image = np.zeros((2048, 2448, 3), np.uint8)
    image[1] = 255  # between the samples
    assert set(faults_of(image, ANY)) == {FrameFault.BLACK, FrameFault.UNIFORM}


@pytest.mark.parametrize("score", [0.1, 0.9])
def test_a_faulty_frame_is_never_good(score):
    assert decide(score, 0.5) is (Decision.GOOD if score < 0.5 else Decision.DEFECTIVE)
    assert decide(score, 0.5, (FrameFault.BLACK,)) is (Decision.UNDECIDED if score < 0.5 else Decision.DEFECTIVE)
    assert decide(score, None, (FrameFault.BLACK,)) is Decision.UNDECIDED


@pytest.mark.slow
def test_every_way_to_call_a_detector_looks_at_frames(tiny_bundle, frame):
    black = np.zeros_like(frame)
    with kdx.load(tiny_bundle, backend="onnxruntime-cpu") as detector:
        detector.threshold = 1e30  # everything scores as good
        single = detector(black)
        first, second = detector.batch([black, frame])
        assert detector(frame).is_good
    for verdict in (single, first):
        assert FrameFault.BLACK in verdict.frame_faults
        assert verdict.decision is Decision.UNDECIDED
        assert np.isfinite(verdict.score)
    assert second.is_good
    assert not second.frame_faults


@pytest.mark.parametrize(("backend", "shared_teacher"), [("onnxruntime-cpu", False), ("openvino", True)])
def test_a_group_looks_at_frames(tiny_bundle, backend, shared_teacher):
    if backend == "openvino":
        pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'kdx[openvino]'")
    bundles = {"a": tiny_bundle, "b": tiny_bundle}
    with kdx.load_many(bundles, backend=backend, shared_teacher=shared_teacher, threads=1) as group:
        black = np.zeros_like(open_bundle(tiny_bundle).golden().images[0])
        for name in group:
            group[name].threshold = 1e30  # everything scores as good
        for verdict in group(black).values():
            assert FrameFault.BLACK in verdict.frame_faults
            assert verdict.decision is Decision.UNDECIDED


def test_an_export_keeps_what_golden_images_look_like(raw_bundle):
    bundle = open_bundle(raw_bundle)
    assert bundle.manifest.frame_limits == limits_of(bundle.golden().images)
    assert not any(faults_of(image, bundle.manifest.frame_limits) for image in bundle.golden().images)
    # Bundles that were written before this was kept can be read.
    old = msgspec.to_builtins(bundle.manifest)
    del old["frame_limits"]
    assert msgspec.convert(old, type(bundle.manifest)).frame_limits == ANY


def test_a_run_looks_at_frames_as_its_bundle_does(tiny_run, raw_bundle):
    with kdx.load(tiny_run) as run:
        assert run.frame_limits == open_bundle(raw_bundle).manifest.frame_limits


def lit_from_behind(part: Image.Image, size: tuple[int, int], corner: tuple[int, int]) -> Image.Image:
    """Return a white frame of this width and height with a part in it."""
    frame = Image.new("L", size, 255)
    frame.paste(part, corner)
    return frame


@pytest.mark.slow
def test_of_frames_whose_window_was_cut_out_the_calibration_learns_how_white_they_are(cli, tiny_run, cells, tmp_path):
    bundle, frames = tmp_path / "cut.kdx", tmp_path / "frames"
    window = ("--input-size", "96x128", "--crop", "32,16,64,64")
    assert cli("export", tiny_run, "-o", bundle, *window, "--json").json["remarks"] == []
    assert open_bundle(bundle).manifest.frame_limits == UNKNOWN
    frames.mkdir()
    for path in cells.iterdir():
        lit_from_behind(Image.open(path), (128, 96), (32, 16)).save(frames / path.name)
    overexposed = frames / "white.png"
    Image.fromarray(np.random.default_rng(0).integers(251, 256, (96, 128)).astype(np.uint8)).save(overexposed)
    for _ in range(2):  # what an earlier calibration learned is learned again
        found = cli("calibrate", bundle, frames, "--false-reject-rate", 0.2, "--json").json
        assert found["frame_faults"] == {str(overexposed): ["white"]}
        assert found["frame_limits"]["bright"] == pytest.approx(2 / 3, abs=0.02)
        assert found["frame_limits"]["images"] == 16


@pytest.mark.slow
@pytest.mark.parametrize("before", [FrameLimits(), FrameLimits(dark=1.0), UNKNOWN])
def test_of_frames_in_tiles_the_calibration_learns_how_dark_and_white_they_are(
    cli, tiled, large_frames, tmp_path, before
):
    """Whatever the tiles show, which are the middle of frames."""
    bundle, frames = Path(shutil.copytree(tiled / "tile.kdx", tmp_path / "tile.kdx")), tmp_path / "frames"
    write_manifest(bundle, msgspec.structs.replace(open_bundle(bundle).manifest, frame_limits=before))
    frames.mkdir()
    for path in sorted((large_frames / "train/good").iterdir())[:4]:
        part = Image.open(path).crop((40, 0, 120, 96))
        lit_from_behind(part, (160, 96), (40, 0)).save(frames / path.name)
    found = cli("calibrate", bundle, frames, "--false-reject-rate", 0.25, "--json").json
    assert found["frame_faults"] == {}
    with kdx.load(bundle) as detector:
        assert detector.frame_limits.bright == pytest.approx(0.5, abs=0.02)
        assert not detector.frame_limits.channels
        off = np.random.default_rng(0).integers(0, 5, (96, 160, 1)).astype(np.uint8)
        assert detector(off).frame_faults == (FrameFault.BLACK,)


@pytest.mark.slow
def test_an_export_and_a_run_know_nothing_of_frames_in_tiles(cli, tiled, tmp_path):
    cli("export", tiled / "run", "-o", tmp_path / "tile.kdx")
    assert open_bundle(tmp_path / "tile.kdx").manifest.frame_limits == UNKNOWN
    with kdx.load(tiled / "run") as run:
        assert run.frame_limits == UNKNOWN


def test_parts_that_are_largely_white_are_no_faults_of_a_run(run_copy):
    for path in (run_copy / "golden").iterdir():
        pixels = np.asarray(Image.open(path)).copy()
        pixels[: 2 * len(pixels) // 3] = 255  # as binary images of line-scan cameras are
        Image.fromarray(pixels).save(path)
    with kdx.load(run_copy) as detector:
        assert not detector(kdx.read_image(path, detector.input)).frame_faults


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
    found = cli("calibrate", bundle, data, *options, "--json").json["frame_faults"]
    assert list(found) == [str(bright)]
    assert set(found[str(bright)]) <= {"saturated", "white"}
    assert "1 good image shows no part: hardly any image" in cli("calibrate", bundle, data, *options).stdout


def test_frames_without_a_part_choose_no_threshold(cli, tiny_bundle, make_dataset, tmp_path):
    data = make_dataset(tmp_path / "data", train=0, good=30, scratch=3)

    def calibrated(*options):
        bundle = shutil.copytree(tiny_bundle, tmp_path / "tile.kdx", dirs_exist_ok=True)
        cli("calibrate", bundle, data / "test/good", "--backend", "onnxruntime-cpu", *options)
        return msgspec.structs.replace(open_bundle(bundle).manifest.threshold, created="")

    rate, defects = ("--false-reject-rate", 0.05), ("--with-defects", data / "test/scratch")
    before = calibrated(*rate), calibrated(*defects)
    for name, level in (("good/off", 0), ("good/bright", 255), ("scratch/off", 1), ("scratch/bright", 254)):
        Image.fromarray(np.full((64, 64), level, np.uint8)).save(data / "test" / f"{name}.png")
    assert (calibrated(*rate), calibrated(*defects)) == before


def test_frames_without_a_part_fit_no_level_map(tiny_bundle, make_dataset, tmp_path):
    data = make_dataset(tmp_path / "data", train=0, good=20, scratch=0)
    for level in range(8):  # of so many, some are in the half that is fitted on
        Image.fromarray(np.full((64, 64), level, np.uint8)).save(data / f"test/good/off-{level}.png")
    paths, known = sorted((data / "test/good").iterdir()), open_bundle(tiny_bundle).training_images()
    held_out = [path for path in paths if known.likeness(identify(path)) is not Likeness.SAME]
    hashes = {sha256_file(path): path.name for path in held_out}
    half = [hashes[each] for each in sorted(hashes)[: len(hashes) // 2]]
    parts = [name for name in half if not name.startswith("off")]
    assert 5 <= len(parts) < len(half)
    with kdx.load(tiny_bundle, backend="onnxruntime-cpu") as detector:
        fitted = fit_level(open_bundle(tiny_bundle), detector, paths, None)
    assert sorted(hashes[each] for each in fitted.images) == sorted(parts)


# Limits that calibration learns


def parts(count: int, *, offset: int = 0, side: int = 96, channels: int = 1) -> list[np.ndarray]:
    """Real solar cells, each channel a little different."""
    from tests.conftest import cell_images

    grey = [np.asarray(image, float) for image in cell_images(count, offset=offset, size=side)]
    factors = np.array([1.0, 0.8, 0.6][:channels])
    return [np.rint(image[..., None] * factors).astype(np.uint8) for image in grey]


def learned(images, known=ANY) -> FrameLimits:
    return learn_limits([values_of(image) for image in images], [], known)


def noise(level: float, sigma: float, shape=(96, 96, 1), seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.clip(np.rint(rng.normal(level, sigma, shape)), 0, 255).astype(np.uint8)


def test_values_are_what_their_names_say():
    grey = np.random.default_rng(0).integers(0, 256, (60, 70, 1)).astype(np.uint8)
    (values,) = values_of(grey)
    exact = grey[..., 0].astype(float)
    assert values.brightness == pytest.approx(exact.mean(), rel=1e-12)
    assert values.contrast == pytest.approx(exact.std(), rel=1e-12)
    assert values.lit == (exact > 4).mean()
    near = np.concatenate([np.diff(exact, axis=axis).ravel() ** 2 for axis in (0, 1)]).mean()
    far = np.concatenate(
        [((exact[2:] - exact[:-2]) ** 2).ravel(), ((exact[:, 2:] - exact[:, :-2]) ** 2).ravel()]
    ).mean()
    assert values.structure == pytest.approx(1 - near / far, rel=1e-12)
    assert values.roughness == pytest.approx(near / 2 / exact.var(), rel=1e-12)
    assert abs(values.structure) < 0.05  # noise
    assert values.roughness == pytest.approx(1, abs=0.05)


def test_a_gradient_is_structure_without_roughness():
    (values,) = values_of(np.broadcast_to(np.arange(0, 240, 2, dtype=np.uint8)[None, :, None], (120, 120, 1)))
    assert values.structure == pytest.approx(0.75, abs=0.01)
    assert values.roughness < 1e-3


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 3), (1, 9, 1), (9, 1, 1), (255, 255, 3), (2048, 300, 1)])
def test_every_size_has_values(shape):
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    assert len(values_of(image)) == shape[2]
    assert len(values_of(np.zeros(shape, np.uint8))) == shape[2]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("sigma", [0.7, 1.5, 4.0])
@pytest.mark.parametrize("level", [0, 8, 16, 60, 120])
@pytest.mark.parametrize("count", [6, 40])
def test_a_covered_lens_is_detected_at_every_level(count, level, sigma, seed):
    limits = learned(parts(count))
    assert set(faults_of(noise(level, sigma, seed=seed), limits)) & {FrameFault.NOISE, FrameFault.FLAT}


def test_other_dead_frames_are_detected():
    images = parts(40)
    limits, part = learned(images), images[0].astype(float)
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 110, 96)[None, :, None]
    half, quarter = images[0].copy(), images[0].copy()
    half[:, 48:] = noise(0, 1.5, (96, 48, 1))
    quarter[72:] = 0
    dead = {
        "leak": (np.rint(ramp + rng.normal(0, 1.5, part.shape)), FrameFault.SMOOTH),
        "half": (half, FrameFault.PARTLY_BLACK),
        "quarter": (quarter, FrameFault.PARTLY_BLACK),
        "under": (np.rint(part / 10), FrameFault.DARK),
        "garbage": (rng.integers(0, 256, part.shape), FrameFault.NOISE),
        "over": (part * 10, FrameFault.SATURATED),
    }
    for name, (image, fault) in dead.items():
        found = faults_of(np.clip(image, 0, 255).astype(np.uint8), limits)
        assert fault in found or (name == "over" and FrameFault.WHITE in found), name


@pytest.mark.parametrize("channel", [0, 1, 2])
@pytest.mark.parametrize("value", [0, 128, 255])
def test_one_dead_channel_is_a_fault(channel, value):
    images = parts(20, channels=3)
    limits = learned(images)
    assert not any(faults_of(image, limits) for image in images)
    dead = images[0].copy()
    dead[..., channel] = value
    assert faults_of(dead, limits)
    assert FrameFault.UNIFORM not in faults_of(dead, limits)


def test_good_images_keep_the_limits_they_set_and_others_do_too():
    images = parts(60)
    limits = learned(images)
    assert limits.images == 60
    assert not any(faults_of(image, limits) for image in images)
    others = [bool(faults_of(image, limits)) for image in parts(60, offset=100)]
    assert sum(others) <= 1
    # Half the least and twice the most; further where values differ much.
    brightness = [values_of(image)[0].brightness for image in images]
    (channel,) = limits.channels
    assert 0 < channel.darkest <= min(brightness) / 2
    assert channel.brightest is None or channel.brightest >= 2 * max(brightness)


def test_golden_images_widen_limits_and_nothing_else():
    images = parts(20)
    odd = noise(60, 5.0)
    limits = learn_limits([values_of(image) for image in images], [values_of(odd)], FrameLimits(dark=0.1, bright=0.2))
    assert not faults_of(odd, limits)
    assert (limits.dark, limits.bright, limits.images) == (0.1, 0.2, 20)


def test_too_few_images_set_no_limits():
    known = FrameLimits(dark=0.1, bright=0.2, channels=(ChannelLimits(darkest=3.0),), images=9)
    assert learned(parts(FEWEST_IMAGES - 1), known) == FrameLimits(dark=0.1, bright=0.2)
    assert learned(parts(FEWEST_IMAGES), known).images == FEWEST_IMAGES


def test_images_that_are_all_alike_in_one_value_set_no_wrong_limit():
    """Dark field: most is black, and blank parts have no contrast at all."""
    images = [filled(0, side=96, channels=1) for _ in range(12)]
    for index, image in enumerate(images[1:]):
        image[10 + index : 40, 20:60] = 90
    limits = learned(images, FrameLimits(dark=1.0))
    (channel,) = limits.channels
    assert (channel.contrast, channel.darkest, channel.lit) == (None, None, None)
    assert not any(set(faults_of(image, limits)) - {FrameFault.UNIFORM} for image in images)


def test_an_image_that_alone_widens_the_limits_is_named():
    images = parts(30)
    values = [values_of(image) for image in images]
    assert outliers_of(values) == []
    for covered in (noise(16, 0.7), noise(120, 1.5)):
        assert outliers_of([*values, values_of(covered)]) == [30]
    two = [values_of(noise(16, 0.7, seed=seed)) for seed in range(2)]
    assert outliers_of([*values, *two]) == [30, 31]


def test_calibration_learns_and_replaces_limits(cli, tiny_bundle, make_dataset, tmp_path):
    bundle = shutil.copytree(tiny_bundle, tmp_path / "tile.kdx")
    data = make_dataset(tmp_path / "data", train=28, good=1, scratch=2)
    options = ("--false-reject-rate", 0.2, "--backend", "onnxruntime-cpu")
    found = cli("calibrate", bundle, data, *options, "--json").json
    manifest = open_bundle(bundle).manifest
    assert found["frame_limits"]["images"] == manifest.frame_limits.images == manifest.threshold.images
    assert found["frame_faults"] == {}
    assert found["frame_outliers"] == []
    assert not any(faults_of(image, manifest.frame_limits) for image in open_bundle(bundle).golden().images)
    with kdx.load(bundle, backend="onnxruntime-cpu") as detector:
        covered = noise(16, 0.7, (detector.input.height, detector.input.width, 1))
        verdict = detector(covered)
        assert verdict.frame_faults
        assert verdict.decision is not Decision.GOOD
        for path in sorted((data / "train/good").iterdir()):
            assert not detector(kdx.read_image(path, detector.input)).frame_faults
    # Defective images do not count, another calibration replaces the limits, and few images set
    # none.
    cli("calibrate", bundle, data, "--backend", "onnxruntime-cpu", "--with-defects", data / "test/scratch", code=None)
    assert open_bundle(bundle).manifest.frame_limits.images in (0, manifest.frame_limits.images)
    assert "frames, from" in cli("calibrate", bundle, data, *options).stdout
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted((data / "train/good").iterdir())[-4:]:
        shutil.copy(path, few)
    shown = cli("calibrate", bundle, few, "--false-reject-rate", 0.25, "--backend", "onnxruntime-cpu").stdout
    assert "fewer than 5 good images to learn from" in shown
    assert open_bundle(bundle).manifest.frame_limits.channels == ()


def test_a_covered_lens_among_good_images_is_named(cli, tiny_bundle, make_dataset, tmp_path):
    bundle = shutil.copytree(tiny_bundle, tmp_path / "tile.kdx")
    data = make_dataset(tmp_path / "data", train=28, good=1, scratch=0)
    covered = data / "train/good/covered.png"
    Image.fromarray(noise(16, 0.7, (64, 64, 1))[..., 0]).save(covered)
    options = ("--false-reject-rate", 0.2, "--backend", "onnxruntime-cpu")
    assert cli("calibrate", bundle, data, *options, "--json").json["frame_outliers"] == [str(covered)]
    assert "alone widen these limits" in cli("calibrate", bundle, data, *options).stdout


def test_a_run_and_an_uncalibrated_bundle_keep_the_fixed_limits(raw_bundle, frame):
    assert open_bundle(raw_bundle).manifest.frame_limits.channels == ()
    with kdx.load(raw_bundle, backend="onnxruntime-cpu") as detector:
        assert not detector(noise(16, 0.7, frame.shape)).frame_faults
