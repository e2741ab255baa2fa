"""The page on the bundle format lists the fields of the types that are read and written, with their
defaults."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kdx.bundle import bundle, engine_record, manifest, seal, signature, stored_threshold, variants
from kdx.bundle.pair_spec import MapSpec, PairSpec, Tap
from kdx.bundle.teacher_comparison import TeacherComparison
from kdx.imaging.frame_faults import ChannelLimits, FrameLimits
from kdx.imaging.image_identity import Identity
from kdx.imaging.images import InputSpec
from kdx.imaging.tiling import Tiling

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/bundle-format.md").read_text(encoding="utf-8")
READER = "".join(file.read_text(encoding="utf-8") for file in sorted((ROOT / "embed/src").glob("*.cpp")))
TYPES: dict[str, type] = {
    "Manifest": manifest.Manifest,
    "Input": InputSpec,
    "Pair specification": PairSpec,
    "Map": MapSpec,
    "Tap": Tap,
    "Provenance": manifest.Provenance,
    "INT8 students": manifest.Int8Students,
    "Teacher comparison": TeacherComparison,
    "Threshold": stored_threshold.Threshold,
    "Review band": stored_threshold.ReviewBand,
    "Level fit": stored_threshold.LevelFit,
    "Defect choice": stored_threshold.DefectChoice,
    "Set by hand": stored_threshold.ByHand,
    "Variant": variants.Variant,
    "Kept node": variants.KeptNode,
    "Range report": variants.RangeReport,
    "Tap range": variants.TapRange,
    "Gate result": variants.Judged,
    "Held-out verdicts": variants.HeldOutVerdicts,
    "Decision comparison": variants.DecisionComparison,
    "Frame limits": FrameLimits,
    "Channel limits": ChannelLimits,
    "Tiling": Tiling,
    "Identity": Identity,
    "Engine record": engine_record.EngineRecord,
    "Fingerprint": engine_record.Fingerprint,
    "Layer": engine_record.Layer,
    "Signature": signature.SignatureFile,
    "Statement": seal.Statement,
}


def tables() -> dict[str, dict[str, str]]:
    """Return the default of every field, by heading and field."""
    found = {}
    for part in re.split(r"^#{2,3} ", PAGE, flags=re.MULTILINE)[1:]:
        heading, _, body = part.partition("\n")
        _, has_fields, table = body.partition("| field | type | default | meaning |\n")
        if has_fields:
            rows = re.match(r"(?:\|.*\n)+", table)
            cells = [row.split(" | ") for row in rows[0].splitlines()[1:]]
            found[heading] = {row[0].strip("| `"): row[2].strip("` ") for row in cells}
    return found


def default_of(field: Any) -> str:
    """Return a field's default as the page writes it."""
    missing = (dataclasses.MISSING, msgspec.NODEFAULT)
    default = field.default
    if default in missing:
        if field.default_factory in missing:
            return "required"
        default = field.default_factory()
    if default is msgspec.UNSET:
        return "absent"
    if isinstance(default, FrameLimits):
        assert default == FrameLimits()
        return "no limits"
    text = json.dumps(default)  # an enumeration of strings gives its value
    return text if text == '""' else text.strip('"')


def fields_of(kind: type) -> dict[str, str]:
    """Return the default of every field of a type."""
    fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else msgspec.structs.fields(kind)
    return {field.name: default_of(field) for field in fields}


def test_every_table_belongs_to_a_type() -> None:
    assert tables().keys() == TYPES.keys()


@pytest.mark.parametrize("heading", TYPES)
def test_a_table_lists_the_fields_of_its_type(heading: str) -> None:
    assert tables()[heading] == fields_of(TYPES[heading])


def test_the_page_names_every_field_that_the_c_library_reads() -> None:
    known = {field for fields in tables().values() for field in fields}
    known |= {"images"}  # the one field of training_images.json, described in the text
    read = set(re.findall(r'(?:\.at|contains|find|value|number_of|recorded_hash)\((?:\w+, )?"(\w+)"', READER))
    assert len(read) > 30
    assert read <= known


def test_the_page_names_every_file() -> None:
    names = [manifest.INDEX, manifest.SIGNATURE, manifest.GOLDEN_MAPS, manifest.GOLDEN_SCORES, manifest.ROI]
    names += [manifest.TRAINING_IMAGES, manifest.LEVEL, engine_record.PLAN, engine_record.RECORD]
    names += [manifest.INT8_MAPS, manifest.INT8_SCORES]
    names += [variants.graph_file(precision) for precision in variants.PRECISIONS]
    listed = re.findall(r"^\| `(\S+)` \|", PAGE, re.MULTILINE)
    assert [name for name in names if not any(file.endswith(name) for file in listed)] == []


def test_the_page_describes_the_present_schemas() -> None:
    assert f"The current schema is {manifest.SCHEMA}." in PAGE
    assert f"students](#int8-students) has schema {manifest.INT8_SCHEMA}." in PAGE
    assert f"hand](#set-by-hand) has schema {manifest.BY_HAND_SCHEMA}." in PAGE
    assert f"`engines/NAME/engine.json`, schema {engine_record.SCHEMA}." in PAGE
    assert f"`bundle.sig`, schema {signature.SCHEMA}." in PAGE
    assert msgspec.structs.fields(bundle.TrainingImages)[0].name == "images"
