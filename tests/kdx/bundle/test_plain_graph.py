"""Nothing in a bundle can execute code or read files from elsewhere: graphs, arrays, images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from kdx.bundle.manifest import GOLDEN_MAPS, GRAPH
from kdx.bundle.open import open_bundle
from kdx.bundle.plain_graph import require_plain_graph
from kdx.bundle.store import write_manifest
from kdx.errors import BundleError
from kdx.storage.files import sha256_file
from tests.platforms import needs_posix

BUNDLE = Path("part.kdx")
VALUE = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])


def identity(name: str = "y", domain: str = "", **attributes: object) -> onnx.NodeProto:
    return helper.make_node("Identity", ["x"], [name], domain=domain, **attributes)


def graph_of(*nodes: onnx.NodeProto, weights: tuple[onnx.TensorProto, ...] = ()) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "graph", [VALUE], [], list(weights))


def check(model: onnx.ModelProto | bytes) -> None:
    require_plain_graph(model if isinstance(model, bytes) else model.SerializeToString(), GRAPH, BUNDLE)


def external(location: str) -> onnx.TensorProto:
    """A tensor whose content is another file's."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field of protobuf."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    groups = []
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


PLAIN = helper.make_model(graph_of(identity(), weights=(helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0]),)))


# Graphs


@pytest.mark.parametrize("domain", ["", "ai.onnx"])
def test_standard_operations_pass(domain):
    check(helper.make_model(graph_of(identity(domain=domain))))


def test_weights_inside_the_file_pass():
    check(PLAIN)


@pytest.mark.parametrize("domain", ["custom.ops", "com.microsoft", "ai.onnx.ml", "AI.ONNX", "\x00"])
def test_another_domain_is_refused(domain):
    with pytest.raises(BundleError, match="code or files from elsewhere") as caught:
        check(helper.make_model(graph_of(identity(), identity("z", domain=domain))))
    shown = domain.replace("\x00", "\\x00")  # control characters of files are written out
    assert caught.value.received == f"an operation of the domain '{shown}'"
    assert caught.value.expected


def test_a_compiled_blob_is_refused():
    blob = helper.make_node(
        "EPContext", ["x"], ["y"], domain="com.microsoft", ep_cache_context=b"\x7fELF", embed_mode=1
    )
    with pytest.raises(BundleError, match="code or files from elsewhere"):
        check(helper.make_model(graph_of(blob)))


@pytest.mark.parametrize("where", ["a branch", "one of several graphs", "a branch of a branch", "a function"])
def test_another_domain_is_found_wherever_it_hides(where):
    inner = graph_of(identity(domain="custom.ops"))
    if where == "a function":
        function = helper.make_function("", "f", ["x"], ["y"], list(inner.node), [helper.make_opsetid("", 18)])
        model = helper.make_model(graph_of(identity()), functions=[function])
    elif where == "one of several graphs":
        model = helper.make_model(graph_of(identity(bodies=[graph_of(identity()), inner])))
    else:
        body = inner if where == "a branch" else graph_of(identity(body=inner))
        model = helper.make_model(graph_of(identity(body=body)))
    with pytest.raises(BundleError, match=r"custom\.ops"):
        check(model)


def test_a_function_of_another_domain_is_refused():
    function = helper.make_function("custom.ops", "f", ["x"], ["y"], [identity()], [helper.make_opsetid("", 18)])
    with pytest.raises(BundleError, match=r"custom\.ops"):
        check(helper.make_model(graph_of(identity()), functions=[function]))


@pytest.mark.parametrize("location", ["../../etc/passwd", "/etc/passwd", "weights.bin", ""])
@pytest.mark.parametrize("where", ["weight", "attribute", "attributes", "sparse weight"])
def test_external_data_is_refused(location, where):
    tensor = external(location)
    graph = graph_of(identity(), weights=(tensor,) if where == "weight" else ())
    if where == "attribute":
        graph.node.append(identity("z", value=tensor))
    elif where == "attributes":
        graph.node.append(identity("z", values=[tensor]))
    elif where == "sparse weight":
        graph.sparse_initializer.add(values=tensor)
    with pytest.raises(BundleError, match="code or files from elsewhere") as caught:
        check(helper.make_model(graph))
    assert caught.value.received == "a tensor in another file (external data)"


@pytest.mark.parametrize("part", ["location", "entries"])
def test_half_of_an_external_tensor_is_refused_as_well(part):
    tensor = external("weights.bin")
    tensor.ClearField("external_data" if part == "location" else "data_location")
    with pytest.raises(BundleError, match="external data"):
        check(helper.make_model(graph_of(identity(), weights=(tensor,))))


def test_what_protobuf_would_merge_is_looked_at():
    # Protobuf reads two consecutive messages as one, whose later values win.
    evil = helper.make_model(graph_of(identity(domain="custom.ops")))
    with pytest.raises(BundleError, match=r"custom\.ops"):
        check(PLAIN.SerializeToString() + evil.SerializeToString())
    node = field(7, b"custom.ops") + field(7, b"")
    with pytest.raises(BundleError, match=r"custom\.ops"):
        check(field(7, field(1, node)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"rubbish",
        b"<?xml version='1.0'?><net/>",
        PLAIN.SerializeToString()[:-3],
        PLAIN.SerializeToString() + b"\x08" + b"\xff" * 11,
        PLAIN.SerializeToString() + varint(8 << 3 | 3) + varint(8 << 3 | 4),
        PLAIN.SerializeToString() + b"\x02\x00",
        # A key beyond 32 bits, of which C++ keeps the lower ones: field 7 to one reader, another to
        # the next.
        PLAIN.SerializeToString() + varint((1 << 32) | (7 << 3) | 2) + varint(0),
        helper.make_model(graph_of()).SerializeToString()[:4],
    ],
    ids=["empty", "rubbish", "xml", "cut", "endless number", "group", "field 0", "long key", "no graph"],
)
def test_what_is_not_onnx_is_refused(data):
    with pytest.raises(BundleError, match="is not an ONNX graph"):
        check(data)


def test_nesting_without_end_costs_no_stack():
    body = field(1, field(4, b"Identity"))
    for _ in range(3_000):
        body = field(1, field(5, field(6, body)))
    check(field(7, body))


# Bundles


@pytest.fixture
def unsigned(bundle_copy) -> Path:
    return bundle_copy


def replace_file(bundle: Path, name: str, data: bytes) -> None:
    """Put a file into a bundle whose index then says that it is right."""
    (bundle / name).write_bytes(data)
    index = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    index["files"][name] = sha256_file(bundle / name)
    index["threshold"] = None
    (bundle / "bundle.json").write_text(json.dumps(index), encoding="utf-8")


def test_a_bundle_whose_graph_calls_a_custom_operation_does_not_open(cli, unsigned, dataset):
    model = onnx.load(unsigned / GRAPH)
    model.graph.node[-1].domain = "custom.ops"
    replace_file(unsigned, GRAPH, model.SerializeToString())
    result = cli("predict", unsigned, dataset / "test/good", code=2)
    assert "an operation of the domain 'custom.ops'" in result.stderr


def test_a_bundle_whose_weights_are_elsewhere_does_not_open(unsigned, tmp_path):
    model = onnx.load(unsigned / GRAPH)
    (tmp_path / "secret.bin").write_bytes(bytes(4096))
    weight = next(each for each in model.graph.initializer if each.raw_data)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../secret.bin")
    replace_file(unsigned, GRAPH, model.SerializeToString())
    with pytest.raises(BundleError, match="external data"):
        open_bundle(unsigned)


class Harmful:
    """Makes a folder where it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.mkdir, (str(self.target),)


def test_a_pickle_in_an_array_is_not_executed(unsigned, tmp_path):
    target = tmp_path / "executed"
    np.save(tmp_path / "maps.npy", np.array([Harmful(target)], dtype=object), allow_pickle=True)
    replace_file(unsigned, GOLDEN_MAPS, (tmp_path / "maps.npy").read_bytes())
    with pytest.raises(BundleError, match="cannot be read"):
        open_bundle(unsigned).golden()
    assert not target.exists()
    np.load(tmp_path / "maps.npy", allow_pickle=True)
    assert target.exists()  # it would have been


@needs_posix
def test_postscript_in_an_image_is_not_run(unsigned, tmp_path, monkeypatch):
    ran = tmp_path / "ran"
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch '{ran}'\n", encoding="utf-8")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    name = f"golden/{open_bundle(unsigned).manifest.golden[0]}"
    replace_file(unsigned, name, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n")
    with pytest.raises(BundleError, match="not a readable image"):
        open_bundle(unsigned).golden()
    assert not ran.exists()


def test_files_that_no_index_names_are_never_read(unsigned):
    # A library beside the graph is dead weight: nothing loads what the index does not name.
    (unsigned / "custom_ops.so").write_bytes(b"\x7fELF")
    assert "custom_ops.so" not in open_bundle(unsigned).manifest.files


def test_a_bundle_that_kdx_writes_again_passes(unsigned, tmp_path):
    shutil.copytree(unsigned, tmp_path / "again")
    manifest = open_bundle(tmp_path / "again").manifest
    assert write_manifest(tmp_path / "again", manifest).manifest == manifest
