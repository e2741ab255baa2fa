"""What ``kdx inspect`` says of a bundle."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from kdx.bundle.open import open_bundle
from kdx.workflows.inspect import describe_bundle


def test_what_counts_without_a_region_is_the_whole_image_or_its_window(tiny_bundle):
    bundle = open_bundle(tiny_bundle)
    assert describe_bundle(bundle, None)["region"] == "none: whole images count"
    spec = msgspec.structs.replace(bundle.manifest.input, crop=(4, 8, 40, 32))
    cropped = replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, input=spec))
    assert describe_bundle(cropped, None)["region"] == "none: the whole window 4,8,40,32 counts"


def test_a_run_that_was_extended_or_started_from_students_says_so(tiny_bundle):
    bundle = open_bundle(tiny_bundle)
    known, before = len(bundle.training_images()), describe_bundle(bundle, None)["trained"]
    assert f" on {known} images, data" in before
    source = msgspec.structs.replace(bundle.manifest.provenance, epoch=4, cycles=[1, 3], earlier_images=2)
    changed = replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, provenance=source))
    said = describe_bundle(changed, None)["trained"]
    started = "(started from students that were trained on 2 others)"
    assert said.startswith(f"4 epochs, in cycles of 1 + 3, on {known - 2} images {started}, data ")
