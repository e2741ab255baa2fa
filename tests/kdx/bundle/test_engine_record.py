"""Engines in a bundle: which record fits a machine, and what is said of those that do not."""

from __future__ import annotations

import json
from dataclasses import replace

import msgspec
import pytest

from kdx.bundle.checked_files import Graph
from kdx.bundle.engine_record import (
    ENGINES,
    PLAN,
    RECORD,
    SCHEMA,
    describe,
    engine_name,
    engines_of,
    find_engine,
    mismatch,
    rebuild_command,
    this_system,
)
from kdx.bundle.seal import Seal, Statement
from kdx.errors import BackendError, BundleError
from kdx.storage.files import sha256_bytes, sha256_file
from kdx.storage.json_records import encode_record
from tests.engines import MACHINE, ONNX, RTX, add_engine, make_record


@pytest.fixture
def graph(tmp_path):
    (tmp_path / "part.kdx").mkdir()
    (tmp_path / "part.kdx/model.onnx").write_bytes(ONNX)
    return tmp_path / "part.kdx/model.onnx"


# What is found


def test_an_engine_is_found_and_its_plan_read(graph):
    folder = add_engine(graph.parent, "fp16", make_record())
    engine = find_engine(Graph.of(graph), MACHINE)
    assert engine.path == folder
    assert engine.record == make_record()  # through JSON and back
    assert engine.read_plan() == b"plan"


def test_a_required_signature_covers_the_very_record_that_is_used(graph):
    """An engine that was put there after the signature was checked is code that nobody signed."""
    folder = add_engine(graph.parent, "fp16", make_record())
    names = {f"engines/fp16/{file.name}": sha256_file(file) for file in folder.iterdir()}
    statement = Statement(kdx_version="0", created="", index_sha256="", engines=names)
    sealed = replace(Graph.of(graph), seal=Seal("key", statement))
    assert find_engine(sealed, MACHINE).read_plan() == b"plan"
    (folder / PLAN).write_bytes(b"other")
    (folder / RECORD).write_bytes(encode_record(make_record(plan=b"other")))
    with pytest.raises(BundleError, match=r"'engines/fp16/engine\.json' is not what was signed"):
        find_engine(sealed, MACHINE)
    assert find_engine(Graph.of(graph), MACHINE).read_plan() == b"other"  # no signature was required
    with pytest.raises(BundleError, match="is not what was signed"):
        find_engine(replace(sealed, seal=Seal("key", msgspec.structs.replace(statement, engines={}))), MACHINE)


def test_of_several_engines_the_one_that_fits_is_found(graph):
    add_engine(graph.parent, "a", make_record(msgspec.structs.replace(MACHINE, gpu="Another GPU")))
    add_engine(graph.parent, "b", make_record(RTX))
    add_engine(graph.parent, "c", make_record(onnx_sha256="0" * 64))
    right = add_engine(graph.parent, "d", make_record())
    assert find_engine(Graph.of(graph), MACHINE).path == right
    assert find_engine(Graph.of(graph), RTX).path.name == "b"
    assert [engine.path.name for engine in engines_of(graph.parent)] == ["a", "b", "c", "d"]


def test_a_plan_survives_another_driver(graph):
    add_engine(graph.parent, "fp16", make_record(msgspec.structs.replace(MACHINE, driver="12.2")))
    assert find_engine(Graph.of(graph), MACHINE)


def test_an_rtx_engine_built_without_a_gpu_runs_on_any_card_of_its_capability(graph):
    add_engine(graph.parent, "rtx", make_record(msgspec.structs.replace(RTX, gpu=None, driver=None)))
    assert find_engine(Graph.of(graph), RTX)
    assert find_engine(Graph.of(graph), msgspec.structs.replace(RTX, gpu="Another GPU"))


# What is refused


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("flavour", "rtx", "built for flavour rtx, here is tensorrt"),
        ("tensorrt", "10.16.1.11", "built for TensorRT 10.16.1.11, here is 11.4.0.106"),
        ("compute_capability", "8.9", "built for compute capability 8.9, here is 8.6"),
        ("system", "Windows AMD64", "built for system Windows AMD64, here is Linux x86_64"),
        ("gpu", "NVIDIA RTX A2000", "built on NVIDIA RTX A2000, here is NVIDIA RTX A4000"),
        ("gpu", None, "built on None, here is NVIDIA RTX A4000"),
    ],
)
def test_one_difference_is_enough(graph, field, value, message):
    record = make_record(msgspec.structs.replace(MACHINE, **{field: value}))
    assert mismatch(record, MACHINE, record.onnx_sha256) == message
    add_engine(graph.parent, "fp16", record)
    with pytest.raises(BackendError) as caught:
        find_engine(Graph.of(graph), MACHINE)
    assert caught.value.received == f"engines/fp16: {message}"
    assert caught.value.expected == describe(MACHINE)


def test_no_difference_is_none():
    assert mismatch(make_record(), MACHINE, sha256_bytes(ONNX)) == ""


def test_an_engine_of_an_older_graph_is_stale(graph):
    add_engine(graph.parent, "fp16", make_record())
    graph.write_bytes(b"exported again")
    with pytest.raises(BackendError, match="built from another graph"):
        find_engine(Graph.of(graph), MACHINE)


def test_every_engine_is_named_with_its_reason(graph):
    add_engine(graph.parent, "a", make_record(onnx_sha256="0" * 64))
    add_engine(graph.parent, "b", make_record(RTX))
    with pytest.raises(BackendError) as caught:
        find_engine(Graph.of(graph), MACHINE)
    assert "engines/a: " in caught.value.received
    assert "; engines/b: built for flavour rtx" in caught.value.received


@pytest.mark.parametrize(
    ("name", "machine", "command"),
    [
        ("model.onnx", MACHINE, "--flavour tensorrt"),
        ("model.onnx", RTX, "--flavour rtx"),
        ("model.fp16.onnx", MACHINE, "--fp16 --flavour tensorrt"),
        ("model.int8.onnx", RTX, "--int8 --flavour rtx"),
    ],
)
def test_without_an_engine_the_command_that_builds_one_is_given(graph, name, machine, command):
    path = graph.with_name(name)
    path.write_bytes(ONNX)
    with pytest.raises(BackendError, match=f"no engine of {name}") as caught:
        find_engine(Graph.of(path), machine)
    assert caught.value.received == "no engine"
    assert caught.value.fix.startswith(f"kdx build-engine {graph.parent} ")
    assert caught.value.fix.endswith(command)


@pytest.mark.parametrize("damage", ["altered", "cut", "missing"])
def test_a_damaged_plan_is_not_read(graph, damage):
    plan = add_engine(graph.parent, "fp16", make_record()) / PLAN
    if damage == "missing":
        plan.unlink()
    else:
        plan.write_bytes(b"plan!" if damage == "altered" else b"pla")
    with pytest.raises(BackendError, match="missing or was altered") as caught:
        find_engine(Graph.of(graph), MACHINE).read_plan()
    assert caught.value.fix == rebuild_command(make_record())


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff", b'{"schema": 1, "kdx_version": 7}'])
def test_a_damaged_record_is_refused(graph, content):
    (add_engine(graph.parent, "fp16", make_record()) / RECORD).write_bytes(content)
    with pytest.raises(BackendError, match="not valid") as caught:
        find_engine(Graph.of(graph), MACHINE)
    assert "kdx build-engine" in caught.value.fix
    # It stands in nobody's way.
    fits = add_engine(graph.parent, "whole", make_record())
    assert find_engine(Graph.of(graph), MACHINE).path == fits


def test_a_folder_in_place_of_a_record_prevents_nothing(graph):
    (graph.parent / ENGINES / "fp16" / RECORD).mkdir(parents=True)
    unreadable: dict[str, str] = {}
    assert not list(engines_of(graph.parent, unreadable))
    assert unreadable == {"fp16": "engine.json cannot be read: Is a directory"}
    with pytest.raises(BackendError, match="holds no engine") as caught:
        find_engine(Graph.of(graph), MACHINE)
    assert "engines/fp16: engine.json cannot be read" in caught.value.received


def test_a_record_of_a_newer_kdx_is_refused_whatever_else_it_holds(graph):
    folder = add_engine(graph.parent, "fp16", make_record())
    (folder / RECORD).write_text(json.dumps({"schema": SCHEMA + 1, "all": "different"}), encoding="utf-8")
    with pytest.raises(BackendError, match="newer kdx") as caught:
        find_engine(Graph.of(graph), MACHINE)
    assert "engines/fp16" in caught.value.received


# Words


def test_descriptions():
    assert describe(MACHINE) == "TensorRT 11.4.0.106, compute capability 8.6, NVIDIA RTX A4000, Linux x86_64"
    assert describe(msgspec.structs.replace(RTX, gpu=None)).startswith("TensorRT for RTX 1.7.1.116, compute")
    assert "None" not in describe(msgspec.structs.replace(RTX, gpu=None))


def test_the_command_that_builds_the_same_again():
    begin = "kdx build-engine BUNDLE"
    assert rebuild_command(make_record()) == f"{begin} --fp16 --flavour tensorrt --batch 1,8 --force"
    assert rebuild_command(make_record(precision="int8")).startswith(f"{begin} --int8 --flavour")
    plain = make_record(RTX, precision="fp32", batches=[1])
    assert rebuild_command(plain) == f"{begin} --flavour rtx --force"
    assert rebuild_command(msgspec.structs.replace(plain, level=5)) == f"{begin} --flavour rtx --level 5 --force"


@pytest.mark.parametrize(
    ("name", "changes", "options"),
    [
        # In the place of the new one: it is replaced by one of the same batches and level.
        ("tensorrt-8.6-fp16", {"level": 5}, " --batch 1,8 --level 5 --force"),
        ("tensorrt-8.6-fp16", {"batches": [1], "onnx_sha256": "0" * 64}, " --force"),
        ("tensorrt-8.9-fp16", {}, " --batch 1,8"),
        ("tensorrt-8.6-int8", {"precision": "int8"}, ""),
    ],
)
def test_the_command_replaces_an_engine_that_does_not_run_here(graph, name, changes, options):
    graph = graph.rename(graph.with_name("model.fp16.onnx"))
    folder = add_engine(graph.parent, name, make_record(msgspec.structs.replace(MACHINE, tensorrt="10.0"), **changes))
    with pytest.raises(BackendError) as caught:
        find_engine(Graph.of(graph), MACHINE)
    assert caught.value.fix == f"kdx build-engine {graph.parent} --fp16 --flavour tensorrt{options}"
    assert ("--force" in options) is (folder.name == engine_name("tensorrt", MACHINE.compute_capability, "fp16"))


def test_the_command_replaces_an_engine_that_cannot_be_read(graph):
    graph = graph.rename(graph.with_name("model.fp16.onnx"))
    (add_engine(graph.parent, "tensorrt-8.6-fp16", make_record()) / RECORD).write_bytes(b"{}")
    with pytest.raises(BackendError) as caught:
        find_engine(Graph.of(graph), MACHINE)
    assert caught.value.fix.endswith("--fp16 --flavour tensorrt --force")


def test_the_system_has_two_words():
    assert len(this_system().split()) == 2


def test_the_hash_is_that_of_the_file(graph):
    assert sha256_file(graph) == make_record().onnx_sha256
