"""Signed bundles: whatever is altered, replaced or of somebody else is refused where a signature is
required."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import kdx
from kdx.bundle.engine_record import PLAN, RECORD
from kdx.bundle.index import update_index
from kdx.bundle.manifest import GOLDEN_MAPS, GOLDEN_SCORES, GRAPH, INDEX, SIGNATURE, TRAINING_IMAGES
from kdx.bundle.open import open_bundle
from kdx.bundle.store import write_manifest
from kdx.errors import BundleError
from kdx.runtime.backend_table import BACKENDS, BackendInfo
from kdx.storage.files import sha256_file
from tests.engines import add_engine, make_record
from tests.kdx.bundle.conftest import open_key

pytest.importorskip("cryptography", reason="cryptography is not installed: pip install 'kdx[sign]'")

from kdx.bundle.keys import public_keys
from kdx.bundle.signature import require_signed_engines
from kdx.bundle.signing import sign_bundle

WRONG = r"the signature of .* is wrong"
KINDS = ("graph", "maps", "scores", "image", "training images")


def file_of(bundle: Path, kind: str) -> str:
    names = {"graph": GRAPH, "maps": GOLDEN_MAPS, "scores": GOLDEN_SCORES, "training images": TRAINING_IMAGES}
    return names.get(kind) or f"golden/{open_bundle(bundle).manifest.golden[0]}"


def edit_index(bundle: Path, **changes: object) -> None:
    index = json.loads((bundle / INDEX).read_text(encoding="utf-8"))
    (bundle / INDEX).write_text(json.dumps({**index, **changes}), encoding="utf-8")


def alter(path: Path) -> None:
    """Change a file so that it can be read as before, where that can be: its last byte, or a note
    in an ONNX graph."""
    data = path.read_bytes()
    path.write_bytes(data + b"\x32\x01!" if path.suffix == ".onnx" else data[:-1] + bytes([data[-1] ^ 1]))


def forge(bundle: Path, name: str) -> None:
    """Alter a file, and the index as whoever means it would."""
    alter(bundle / name)
    index = json.loads((bundle / INDEX).read_text(encoding="utf-8"))
    digest = sha256_file(bundle / name)
    threshold = {**index["threshold"], "graph_sha256": digest} if name == GRAPH else index["threshold"]
    edit_index(bundle, files={**index["files"], name: digest}, threshold=threshold)


def edit_signature(bundle: Path, **changes: object) -> None:
    file = bundle / SIGNATURE
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


# Bundles that are as they were signed


@pytest.mark.parametrize("form", ["path", "text", "bytes", "several"])
def test_a_signed_bundle_decides_as_before(signed, line, stranger, frame, form):
    public = line[1]
    key = {"path": public, "text": str(public), "bytes": public.read_bytes(), "several": [stranger[1], public]}[form]
    with (
        kdx.load(signed, "onnxruntime-cpu") as plain,
        kdx.load(signed, "onnxruntime-cpu", require_signature=key) as ours,
    ):
        assert ours(frame).score == plain(frame).score
        assert ours(frame).threshold == plain(frame).threshold


def test_what_was_signed_is_said(signed, line):
    seal = open_bundle(signed, require_signature=line[1]).seal
    assert seal.statement.index_sha256 == sha256_file(signed / INDEX)
    assert [seal.key_sha256] == list(public_keys(line[1]))
    assert seal.statement.engines == {}


def test_a_relative_key_is_found_from_another_folder(signed, line, monkeypatch):
    monkeypatch.chdir(line[1].parent)
    keys = (line[1].name, line[1].read_bytes())
    with kdx.load(signed, "onnxruntime-cpu", 1, require_signature=keys) as ours:
        of_one = ours.origin
    with kdx.load_many([signed], "onnxruntime-cpu", 1, require_signature=keys[0]) as group:
        of_group = group[next(iter(group))].origin
    monkeypatch.chdir("/")
    for origin in (of_one, of_group):
        assert origin.reopen().seal is not None


def test_without_the_requirement_no_key_verifies_a_signature(signed):
    edit_signature(signed, signature="A" * 86 + "==")
    assert open_bundle(signed).seal is None


def test_a_damaged_signature_is_refused_in_any_case(signed):
    (signed / SIGNATURE).write_text("rubbish", encoding="utf-8")
    with pytest.raises(BundleError, match=r"bundle\.sig' is not valid"):
        open_bundle(signed)


def test_the_signature_is_none_of_the_bundles_files(signed):
    before = open_bundle(signed).manifest
    assert SIGNATURE not in before.files
    assert write_manifest(signed, before).manifest == before


def test_signing_again_replaces_the_signature(signed, stranger, line):
    sign_bundle(signed, open_key(stranger))
    assert open_bundle(signed, require_signature=stranger[1]).seal
    with pytest.raises(BundleError, match="signed by another key"):
        open_bundle(signed, require_signature=line[1])


def test_bundles_of_a_group_are_verified(signed, tiny_bundle, line, frame):
    with kdx.load_many({"a": signed}, "onnxruntime-cpu", require_signature=line[1]) as group:
        assert group["a"](frame).threshold is not None
    with pytest.raises(BundleError, match="is not signed"):
        kdx.load_many({"a": signed, "b": tiny_bundle}, "onnxruntime-cpu", require_signature=line[1])


# Bundles that are not


def test_an_unsigned_bundle_is_refused(bundle_copy, line):
    with pytest.raises(BundleError, match="is not signed") as caught:
        kdx.load(bundle_copy, require_signature=line[1])
    assert caught.value.received == "no signature"
    assert next(iter(public_keys(line[1]))) in caught.value.expected
    assert "kdx sign" in caught.value.fix


def test_another_key_is_refused(signed, line, stranger):
    with pytest.raises(BundleError, match="signed by another key") as caught:
        kdx.load(signed, require_signature=stranger[1])
    assert next(iter(public_keys(stranger[1]))) in caught.value.expected
    assert next(iter(public_keys(line[1]))) in caught.value.received


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("required", [True, False])
def test_a_damaged_file_is_refused_in_any_case(signed, line, kind, required):
    name = file_of(signed, kind)
    alter(signed / name)
    with pytest.raises(BundleError, match="was altered") as caught:
        open_bundle(signed, require_signature=line[1] if required else None)
    assert caught.value.received == f"sha256 {sha256_file(signed / name)}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_forged_file_is_refused_where_a_signature_is_required(signed, line, kind):
    forge(signed, file_of(signed, kind))
    with pytest.raises(BundleError, match=r"bundle\.json .* was altered after it was signed") as caught:
        open_bundle(signed, require_signature=line[1])
    assert caught.value.received == f"sha256 {sha256_file(signed / INDEX)}"
    (signed / SIGNATURE).unlink()
    assert open_bundle(signed)  # hashes alone cannot tell


@pytest.mark.parametrize("change", ["threshold", "no threshold", "method", "one space"])
def test_an_altered_index_is_refused(signed, line, change):
    index = json.loads((signed / INDEX).read_text(encoding="utf-8"))
    if change == "one space":
        (signed / INDEX).write_bytes((signed / INDEX).read_bytes() + b" ")
    else:
        threshold = {**index["threshold"], "score": 1e9, "scores": []}
        edit_index(
            signed,
            **{"threshold": {"threshold": threshold}, "method": {"method": "other"}}.get(change, {"threshold": None}),
        )
    for key in (line[1], None):  # a signature that does not fit is refused even where none is required
        with pytest.raises(BundleError, match="altered after it was signed") as caught:
            kdx.load(signed, require_signature=key)
        assert "if you changed it on purpose, sign it again" in caught.value.fix
        assert "if not, do not use this bundle: copy it again" in caught.value.fix
    sign_bundle(signed, open_key(line))
    assert open_bundle(signed, require_signature=line[1]).seal


@pytest.mark.parametrize(
    ("command", "given"),
    [
        ("predict", ["{}/golden"]),
        ("score", ["{}/golden", "--out", "{}.scores"]),
        ("verify", []),
        ("selftest", []),
        ("inspect", []),
        ("bench", ["--budget-ms", "9"]),
        ("calibrate", ["{}/golden"]),
        ("evaluate", ["{}/golden"]),
        ("report", ["{}/golden", "-o", "{}.html"]),
        ("roi", ["--remove"]),
        ("triton", ["-o", "{}.served"]),
    ],
)
def test_no_command_uses_an_index_that_was_altered_after_it_was_signed(cli, signed, command, given):
    edit_index(signed, method="other")
    found = cli(command, signed, *[each.format(signed) for each in given], code=1 if command == "selftest" else 2)
    said = " ".join(f"{found.stdout}{found.stderr}".split())
    assert "was altered after it was signed" in said
    assert "if you changed it on purpose" in said
    assert (signed / SIGNATURE).is_file()


def test_the_signature_of_another_bundle_is_refused(signed, raw_bundle, tmp_path, line):
    other = Path(shutil.copytree(raw_bundle, tmp_path / "other.kdx"))
    shutil.copy(signed / SIGNATURE, other)
    with pytest.raises(BundleError, match="altered after it was signed"):
        open_bundle(other, require_signature=line[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"signature": "A" * 86 + "=="}, WRONG),
        ({"signature": ""}, WRONG),
        ({"signature": "no base64"}, WRONG),
        ({"schema": 0}, "there is no schema 0"),
        ({"schema": 2}, "newer kdx"),
        ({"algorithm": "none"}, "signed by another key"),
        ({"key_sha256": ""}, "signed by another key"),
        ({"statement": "{}"}, WRONG),
        ({"statement": 7}, "not valid"),
    ],
)
def test_an_altered_signature_is_refused(signed, line, changes, message):
    edit_signature(signed, **changes)
    with pytest.raises(BundleError, match=message):
        open_bundle(signed, require_signature=line[1])


def test_a_statement_that_was_brought_up_to_date_is_refused(signed, line):
    edit_index(signed, method="other")
    statement = json.loads(json.loads((signed / SIGNATURE).read_text(encoding="utf-8"))["statement"])
    edit_signature(signed, statement=json.dumps({**statement, "index_sha256": sha256_file(signed / INDEX)}))
    with pytest.raises(BundleError, match=WRONG):
        open_bundle(signed, require_signature=line[1])


def test_a_stranger_cannot_sign_in_the_lines_name(bundle_copy, line, stranger):
    sign_bundle(bundle_copy, open_key(stranger))
    edit_signature(bundle_copy, key_sha256=next(iter(public_keys(line[1]))))
    with pytest.raises(BundleError, match=WRONG):
        open_bundle(bundle_copy, require_signature=line[1])


def test_a_signature_for_another_purpose_is_refused(signed, line):
    import base64

    statement = json.loads((signed / SIGNATURE).read_text(encoding="utf-8"))["statement"]
    bare = open_key(line).sign(statement.encode())
    edit_signature(signed, signature=base64.b64encode(bare).decode())
    with pytest.raises(BundleError, match=WRONG):
        open_bundle(signed, require_signature=line[1])


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"{}"])
def test_a_damaged_signature_file_is_refused(signed, line, content):
    (signed / SIGNATURE).write_bytes(content)
    with pytest.raises(BundleError, match="not valid"):
        open_bundle(signed, require_signature=line[1])


def test_a_run_in_a_signed_bundles_place_is_refused(signed, line):
    (signed / "run.json").write_text(
        "{}", encoding="utf-8"
    )  # now it passes for a run, which would be loaded by other rules
    with pytest.raises(BundleError, match="is a run"):
        kdx.load(signed, require_signature=line[1])


def test_what_was_verified_is_what_is_parsed(signed, line, monkeypatch):
    import kdx.bundle.open

    verify = kdx.bundle.open.read_seal

    def swapping(*arguments: object) -> object:
        seal = verify(*arguments)
        edit_index(signed, method="swapped")  # somebody is quick
        return seal

    monkeypatch.setattr(kdx.bundle.open, "read_seal", swapping)
    assert open_bundle(signed, require_signature=line[1]).manifest.method == "stpm"
    (signed / SIGNATURE).unlink()
    assert open_bundle(signed).manifest.method == "swapped"


def test_an_altered_bundle_is_not_signed(bundle_copy, line):
    alter(bundle_copy / GRAPH)
    with pytest.raises(BundleError, match="was altered"):
        sign_bundle(bundle_copy, open_key(line))
    assert not (bundle_copy / SIGNATURE).exists()


def test_calibrating_takes_the_signature_away(cli, signed, dataset, line):
    result = cli("calibrate", signed, dataset, "--false-reject-rate", 0.3)
    assert "the signature was removed" in result.stdout
    assert not (signed / SIGNATURE).exists()
    assert not cli("calibrate", signed, dataset, "--false-reject-rate", 0.3, "--json").json["signature_removed"]
    with pytest.raises(BundleError, match="is not signed"):
        open_bundle(signed, require_signature=line[1])


def test_a_calibration_that_a_full_disk_stops_leaves_the_signature(signed, line, monkeypatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    manifest = open_bundle(signed).manifest
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            update_index(signed, manifest.files, lambda before: before, done="calibrated", fix="")
    assert open_bundle(signed, require_signature=line[1]).manifest == manifest


# Engines


@pytest.fixture
def with_engine(bundle_copy, line) -> Path:
    add_engine(bundle_copy, "fp16", make_record())
    sign_bundle(bundle_copy, open_key(line))
    return bundle_copy


@pytest.fixture
def tensorrt(monkeypatch) -> None:
    """Let this machine pass for one that runs engines."""
    usable = BackendInfo.is_usable
    monkeypatch.setattr(BackendInfo, "is_usable", lambda info: info.name == "tensorrt" or usable(info))

    def opened(*_: object) -> None:
        raise AssertionError("the engine was opened")

    monkeypatch.setitem(BACKENDS, "tensorrt", replace(BACKENDS["tensorrt"], factory="nowhere:nothing"))
    monkeypatch.setattr(BackendInfo, "open", opened)


def test_engines_are_signed_with_the_bundle(with_engine, line):
    opened = open_bundle(with_engine, require_signature=line[1])
    names = [f"engines/fp16/{RECORD}", f"engines/fp16/{PLAN}"]
    assert opened.seal.statement.engines == {name: sha256_file(with_engine / name) for name in sorted(names)}
    require_signed_engines(opened)


@pytest.mark.parametrize("change", ["plan", "record", "both", "no plan", "another engine"])
def test_an_engine_that_is_not_signed_is_refused(with_engine, line, change):
    folder = with_engine / "engines/fp16"
    if change == "another engine":
        add_engine(with_engine, "later", make_record())
    elif change == "no plan":
        (folder / PLAN).unlink()
    elif change == "both":
        shutil.rmtree(folder)
        add_engine(with_engine, "fp16", make_record(plan=b"evil"), b"evil")
    elif change == "plan":
        alter(folder / PLAN)
    else:
        (folder / RECORD).write_bytes((folder / RECORD).read_bytes() + b" ")
    opened = open_bundle(with_engine, require_signature=line[1])
    with pytest.raises(BundleError, match="is not what was signed") as caught:
        require_signed_engines(opened)
    assert caught.value.expected
    assert caught.value.received.startswith("sha256 ")
    assert "remove" in caught.value.fix


@pytest.mark.parametrize("backend", ["tensorrt", "auto"])
@pytest.mark.usefixtures("tensorrt")
def test_an_unsigned_engine_is_not_opened(with_engine, line, backend):
    (with_engine / "engines/fp16" / PLAN).write_bytes(b"evil")
    with pytest.raises(BundleError, match="is not what was signed"):
        kdx.load(with_engine, backend, require_signature=line[1])
    with pytest.raises(AssertionError, match="the engine was opened"):
        kdx.load(with_engine, "tensorrt")


@pytest.mark.usefixtures("tensorrt")
def test_verify_opens_no_unsigned_engine(cli, with_engine, line):
    (with_engine / "engines/fp16" / PLAN).write_bytes(b"evil")
    options = ("--backend", "tensorrt", "--require-signature", line[1])
    assert "is not what was signed" in cli("verify", with_engine, *options, code=2).stderr


def test_an_unsigned_engine_prevents_nothing_where_none_is_run(with_engine, line, frame):
    (with_engine / "engines/fp16" / PLAN).write_bytes(b"evil")
    with kdx.load(with_engine, "onnxruntime-cpu", require_signature=line[1]) as detector:
        assert detector(frame).threshold is not None


def test_an_altered_plan_is_not_signed(bundle_copy, line):
    add_engine(bundle_copy, "fp16", make_record(), plan=b"evil")
    with pytest.raises(kdx.KdxError, match="missing or was altered"):
        sign_bundle(bundle_copy, open_key(line))
