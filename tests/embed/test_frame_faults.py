"""The C library finds the same faults of frames as Python."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest

import kdx
from kdx.bundle.open import open_bundle
from kdx.bundle.store import write_manifest
from kdx.errors import BundleError
from kdx.imaging.frame_faults import ChannelLimits, values_of
from tests.embed.build import DECISIONS, FAULTS, CallError, Detector, missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


@pytest.mark.parametrize("value", [0, 3, 128, 255])
def test_frames_without_a_part_are_detected_as_in_python(library, bundle, value):
    height, width, channels = open_bundle(bundle).golden().images[0].shape
    image = np.full((height, width, channels), value, np.uint8)
    image[0, 0] = 100  # a stuck pixel
    with kdx.load(bundle, backend="openvino", threads=1) as expected, Detector(library, bundle) as detector:
        ours, theirs = detector(image)[0], expected(image)
    faults = names_of(ours.frame_faults)
    assert faults == {fault.value for fault in theirs.frame_faults}
    assert DECISIONS[ours.decision] == theirs.decision.value != "good" or not faults


def samples_of_frames(bundle: Path) -> dict[str, np.ndarray]:
    """Return frames with and without a part, of a bundle's size."""
    images = open_bundle(bundle).golden().images
    shape, rng = images[0].shape, np.random.default_rng(0)
    half = images[0].copy()
    half[shape[0] // 2 :] = 0
    ramp = np.broadcast_to(np.linspace(0, 120, shape[1])[None, :, None], shape)
    frames = {f"golden {i}": image for i, image in enumerate(images)}
    for level in (0, 16, 120):
        for sigma in (0.7, 1.5, 6.0):
            noise = np.clip(np.rint(rng.normal(level, sigma, shape)), 0, 255)
            frames[f"noise {level} {sigma}"] = noise.astype(np.uint8)
    frames["leak"] = np.rint(ramp + rng.uniform(0, 2, shape)).astype(np.uint8)
    frames |= {"half": half, "over": np.clip(images[0].astype(int) * 10, 0, 255).astype(np.uint8)}
    frames |= {"under": images[0] // 10, "random": rng.integers(0, 256, shape).astype(np.uint8)}
    frames["stripes"] = np.broadcast_to(np.uint8(200) * (np.arange(shape[1]) % 2 == 0)[None, :, None], shape).copy()
    return frames


def names_of(bits: int) -> set[str]:
    return {name for bit, name in FAULTS.items() if bits & bit}


def test_learned_limits_of_frames_say_the_same(library, bundle):
    assert open_bundle(bundle).manifest.frame_limits.channels
    seen: set[str] = set()
    with kdx.load(bundle, backend="openvino", threads=1) as expected, Detector(library, bundle) as detector:
        for name, frame in samples_of_frames(bundle).items():
            ours, theirs = detector(np.ascontiguousarray(frame))[0], expected(frame)
            assert names_of(ours.frame_faults) == {fault.value for fault in theirs.frame_faults}, name
            assert DECISIONS[ours.decision] == theirs.decision.value, name
            assert bool(ours.frame_faults) != name.startswith("golden"), name
            seen |= names_of(ours.frame_faults)
    assert {"dark", "flat", "noise", "partly_black"} <= seen


@pytest.mark.parametrize("seed", range(6))
def test_limits_at_a_frames_own_values_say_the_same(library, bundle, tmp_path, seed):
    """Both languages compute exactly the same numbers: a value at a limit is no fault, the next
    number is one."""
    path = Path(shutil.copytree(bundle, tmp_path / "tile.kdx"))
    manifest, rng = open_bundle(path).manifest, np.random.default_rng(seed)
    frame = (rng.integers(0, 256, open_bundle(path).golden().images[0].shape) // (1 + seed)).astype(np.uint8)
    if seed % 2:
        frame = np.repeat(np.repeat(frame[::2, ::2], 2, axis=0), 2, axis=1)
    found = [values._asdict() for values in values_of(frame)]
    for is_above in (False, True):
        step = (lambda value: float(np.nextafter(value, np.inf))) if is_above else float
        limits = [
            ChannelLimits(
                darkest=step(values["brightness"]),
                brightest=float(np.nextafter(values["brightness"], -np.inf)) if is_above else values["brightness"],
                **{name: step(values[name]) for name in ("contrast", "structure", "roughness", "lit")},
            )
            for values in found
        ]
        changed = msgspec.structs.replace(manifest.frame_limits, dark=1.0, bright=1.0, channels=tuple(limits))
        write_manifest(path, msgspec.structs.replace(manifest, frame_limits=changed))
        with kdx.load(path, backend="openvino", threads=1) as expected, Detector(library, path, "fp32") as detector:
            ours, theirs = detector(frame)[0], expected(frame)
        assert names_of(ours.frame_faults) == {fault.value for fault in theirs.frame_faults}
        every = {"dark", "bright", "flat", "noise", "smooth", "partly_black"}
        assert names_of(ours.frame_faults) == (every if is_above else set())


def test_limits_of_another_number_of_channels_are_refused(library, bundle, tmp_path):
    path = Path(shutil.copytree(bundle, tmp_path / "tile.kdx"))
    manifest = open_bundle(path).manifest
    limits = msgspec.structs.replace(manifest.frame_limits, channels=(ChannelLimits(),) * 2)
    write_manifest(path, msgspec.structs.replace(manifest, frame_limits=limits))
    with pytest.raises(CallError, match="channels"):
        Detector(library, path)
    with pytest.raises(BundleError, match="channels"):
        open_bundle(path)
