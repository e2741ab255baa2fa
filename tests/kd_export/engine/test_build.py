"""Building engines, against a TensorRT of every age that only records: what is asked of it, and
every refusal."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import msgspec
import onnx
import pytest

from kd_export.engine import build as build_module
from kd_export.engine import flavours, timing_cache
from kd_export.engine.build import EngineRequest, build_engine
from kdx.bundle.engine_record import EngineRecord, engines_of
from kdx.bundle.open import open_bundle
from kdx.errors import BackendError, GateError, KdxError, OptionError, OutputError
from kdx.runtime.gpu import Gpu
from kdx.storage import files
from kdx.storage.files import sha256_file
from tests.images import solar_cells
from tests.kd_export.engine import fake_builder
from tests.students import add_int8

CARD = Gpu("NVIDIA RTX A2000", "8.6", "13.0")


@pytest.fixture(scope="session")
def half_bundle(tiny_run, tmp_path_factory, cli) -> Path:
    bundle = tmp_path_factory.mktemp("half") / "tile.kdx"
    cli("export", tiny_run, "-o", bundle, "--precision", "fp32,fp16", "--max-batch", 8)
    return bundle


@pytest.fixture
def bundle(half_bundle, tmp_path) -> Path:
    import shutil

    return Path(shutil.copytree(half_bundle, tmp_path / "tile.kdx"))


@pytest.fixture
def with_tensorrt(monkeypatch):
    """Put a fake TensorRT and a GPU, or none, into this machine."""

    def put(version: str = "10.16.1", *, gpus: tuple[Gpu, ...] = (CARD,), **faults):
        module = fake_builder.make(version, **faults)
        monkeypatch.setattr(build_module, "load_flavour", lambda name: flavours.Flavour(name, module))
        for where in (build_module, flavours):
            monkeypatch.setattr(where, "gpus", lambda: gpus)
        return module

    return put


def build(bundle: Path, *, force: bool = False, **request):
    request = {"flavour": "tensorrt", "precision": "fp16", **request}
    return build_engine(open_bundle(bundle), EngineRequest(**request), force=force)


@pytest.mark.slow
@pytest.mark.parametrize("version", ["10.16.1", "11.4.0"])
def test_tensorrt_10_and_11_are_built_strongly_typed_without_any_flag(bundle, with_tensorrt, version) -> None:
    trt = with_tensorrt(version)
    engine = build(bundle, batches=(8, 1), level=5)
    assert ("network", 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)) in trt.calls
    assert trt.config.flag_names == []
    assert trt.config.sources == {"EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS"}
    assert trt.config.builder_optimization_level == 5
    assert trt.config.profiles == [
        [("image", (1, 8, 8, 3), (1, 8, 8, 3), (1, 8, 8, 3))],
        [("image", (1, 8, 8, 3), (8, 8, 8, 3), (8, 8, 8, 3))],
    ]
    record = engine.record
    assert (record.fingerprint.tensorrt, record.fingerprint.gpu, record.batches) == (version, CARD.name, [1, 8])
    assert (record.layers_from, record.device_memory_mib) == ("inspector", 3.0)


def test_tensorrt_8_6_gets_the_flag_and_its_fp32_island(bundle, with_tensorrt, monkeypatch) -> None:
    trt = with_tensorrt("8.6.2")
    kept = fake_builder.NAMES[2]
    plan_build = build_module.plan_build
    monkeypatch.setattr(
        build_module,
        "plan_build",
        lambda *about: (replace(plan_build(*about)[0], kept=frozenset({kept})), plan_build(*about)[1]),
    )
    build(bundle)
    assert ("network", 1 << 0) in trt.calls
    (parsed,) = (onnx.load_from_string(about) for what, about in trt.calls if what == "parse")
    assert parsed.opset_import[0].version == 17
    assert not [node.name for node in parsed.graph.node if node.op_type == "ReduceMax" and len(node.input) == 2]
    assert trt.config.flag_names == ["FP16", "OBEY_PRECISION_CONSTRAINTS"]
    for layer in trt.layers:
        # No tensor says FP16 before the build: what is demanded is what was pinned.
        assert layer.output.dtype == trt.float32
        is_half = layer.name in fake_builder.NAMES[:2]
        assert layer.precision is (trt.float16 if is_half else trt.float32), layer.name
        assert (layer.output_type is trt.float32) is not is_half, layer.name


def test_a_build_with_tensorrt_8_6_says_that_it_needs_onnx(bundle, with_tensorrt, monkeypatch) -> None:
    with_tensorrt("8.6.2")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(BackendError, match=r"building with TensorRT 8\.6 needs the package 'onnx'") as caught:
        build(bundle)
    assert caught.value.fix == "pip install onnx"


def test_the_inspector_of_tensorrt_8_6_proves_fp16(bundle, with_tensorrt) -> None:
    with_tensorrt("8.6.2", full=fake_builder.NAMES[:1])
    with pytest.raises(GateError, match="1 of 3 convolutions are not FP16"):
        build(bundle)
    assert not list(engines_of(bundle))


@pytest.mark.parametrize("there", ["", "cudnn.so.8", "cublas.so.11", "cublasLt.so.12"])
def test_tensorrt_8_6_leaves_out_libraries_that_cannot_be_loaded(bundle, with_tensorrt, monkeypatch, there) -> None:
    def load(library: str) -> None:
        if library != f"lib{there}":
            raise OSError(f"{library}: cannot open shared object file")

    trt = with_tensorrt("8.6.2")
    monkeypatch.setattr(flavours.ctypes, "CDLL", load)
    build(bundle)
    names = {"": set(), "cudnn.so.8": {"CUDNN"}, "cublas.so.11": {"CUBLAS"}, "cublasLt.so.12": {"CUBLAS_LT"}}
    assert trt.config.sources == {"EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS"} | names[there]


@pytest.fixture
def quantised(bundle_copy) -> Path:
    return add_int8(bundle_copy, solar_cells(3, (64, 64))[..., :1])


@pytest.mark.slow
@pytest.mark.parametrize(("version", "flags"), [("8.6.2", ["INT8"]), ("10.16.1", []), ("11.4.0", [])])
def test_an_int8_build_leaves_the_rest_in_fp32(quantised, with_tensorrt, version, flags) -> None:
    trt = with_tensorrt(version, precision="int8")
    engine = build(quantised, precision="int8")
    assert engine.path.name == "tensorrt-8.6-int8"
    assert trt.config.flag_names == flags
    assert not any(getattr(layer, "precision_is_set", False) for layer in trt.layers)
    (parsed,) = (onnx.load_from_string(content) for call, content in trt.calls if call == "parse")
    types = {tensor.name: tensor.data_type for tensor in parsed.graph.initializer}
    weights = {node.input[0] for node in parsed.graph.node if node.op_type == "DequantizeLinear"} & types.keys()
    # TensorRT 8.6 gets weights that the graph quantises, the others int8 constants.
    assert bool(weights) is (version != "8.6.2")
    assert {layer.precision for layer in engine.record.layers} == {"int8"}
    # Beside it lie those of other precisions.
    with_tensorrt(version, precision="fp16")
    build(quantised, precision="fp32")
    assert {each.record.precision for each in engines_of(quantised)} == {"int8", "fp32"}


@pytest.mark.slow
def test_an_int8_build_with_fp32_convolutions_is_refused(quantised, with_tensorrt) -> None:
    with_tensorrt(precision="int8", full=fake_builder.NAMES[1:])
    with pytest.raises(GateError, match="2 of 3 convolutions are not INT8") as caught:
        build(quantised, precision="int8")
    assert all(f"{name} (fp32)" in caught.value.received for name in fake_builder.NAMES[1:])
    assert not list(engines_of(quantised))


@pytest.mark.parametrize("version", ["8.6.2", "10.16.1", "11.4.0"])
@pytest.mark.parametrize("batches", [(2,), (1, 4, 8)])
@pytest.mark.parametrize("fault", ["shapeless", "typeless"])
def test_the_layers_of_every_profile_are_proved(bundle, with_tensorrt, version, batches, fault) -> None:
    """By formats, which TensorRT shows for the profile and shapes of a context, or by weights."""
    with_tensorrt(version, **{fault: True})
    record = build(bundle, batches=batches).record
    assert [layer.precision for layer in record.layers] == ["fp16"] * 3 * len(batches)
    assert record.not_shown == []
    for call, said in (
        ("create_execution_context", "cannot create an execution context"),
        ("set_optimization_profile_async", "cannot show the layers of profile 0"),
    ):
        with_tensorrt(version, **{fault: True}, nothing=(call,))
        with pytest.raises(BackendError, match=said):
            build(bundle, batches=batches, force=True)


def test_an_engine_for_the_second_card_is_not_loaded_on_the_first(bundle, with_tensorrt, monkeypatch) -> None:
    cards = (Gpu("GeForce RTX 4070", "8.9", "13.0"), CARD)
    with_tensorrt(gpus=cards, unloadable=True)
    monkeypatch.setattr(flavours.Flavour, "set_target", lambda self, config, capability: None)
    engine = build(bundle, flavour="rtx", compute_capability="8.6")
    assert (engine.record.layers_from, engine.record.device_memory_mib) == ("network", None)
    assert (engine.record.fingerprint.gpu, engine.record.fingerprint.compute_capability) == (None, "8.6")
    with pytest.raises(BackendError, match="cannot be loaded here"):
        build(bundle, flavour="rtx", compute_capability="8.9")


def test_a_convolution_in_fp32_is_found_in_every_profile(bundle, with_tensorrt) -> None:
    with_tensorrt(shapeless=True, full=fake_builder.NAMES[1:2])
    with pytest.raises(GateError, match="2 of 6 convolutions are not FP16") as caught:
        build(bundle, batches=(1, 8))
    name = fake_builder.NAMES[1]
    assert caught.value.received == f"{name} (fp32), {name} [profile 1] (fp32)"


def test_what_the_engine_does_not_show_is_counted_where_types_decide(bundle, with_tensorrt, cli) -> None:
    with_tensorrt(hidden=fake_builder.NAMES[:1])
    assert build(bundle).record.not_shown == [fake_builder.NAMES[0]]
    with_tensorrt("8.6.2", hidden=fake_builder.NAMES[:1])
    with pytest.raises(GateError, match="1 of 3 convolutions are not shown") as caught:
        build(bundle, force=True)
    assert caught.value.received == fake_builder.NAMES[0]
    with_tensorrt(unlisted=True)
    said = cli("build-engine", bundle, "--fp16", "--batch", "1,8", "--force")
    assert "3 convolutions are not shown" in said.stdout + said.stderr


@pytest.mark.slow
def test_int8_must_be_shown_in_every_profile_that_is_listed(quantised, with_tensorrt) -> None:
    with_tensorrt(precision="int8", unlisted=True)
    record = build(quantised, precision="int8", batches=(1, 8)).record
    assert record.not_shown == [f"{name} [profile 1]" for name in fake_builder.NAMES]
    with_tensorrt(precision="int8", hidden=fake_builder.NAMES[:2])
    with pytest.raises(GateError, match="4 of 6 convolutions are not shown"):
        build(quantised, precision="int8", batches=(1, 8), force=True)


def test_an_fp32_build_pins_nothing(bundle, with_tensorrt) -> None:
    trt = with_tensorrt("8.6.2")
    build(bundle, precision="fp32")
    assert trt.config.flag_names == []


def test_the_plan_is_plain_and_the_record_says_what_it_is(bundle, with_tensorrt) -> None:
    before = {file: sha256_file(file) for file in bundle.rglob("*") if file.is_file()}
    with_tensorrt()
    engine = build(bundle)
    assert engine.path == bundle / "engines/tensorrt-8.6-fp16"
    assert engine.plan.read_bytes() == b"plan"
    record = msgspec.json.decode((engine.path / "engine.json").read_bytes(), type=EngineRecord)
    assert record.onnx_sha256 == sha256_file(bundle / "model.fp16.onnx")
    assert record.plan_sha256 == sha256_file(engine.plan)
    assert record.peak_memory_mib > 10
    assert [e.path for e in engines_of(bundle)] == [engine.path]
    # The bundle that was verified stays as it is, and opens.
    assert {file: sha256_file(file) for file in before} == before
    open_bundle(bundle)


@pytest.mark.parametrize(
    ("faults", "kind", "said"),
    [
        ({"refuse": True}, GateError, ("refuses the graph", "antialias")),
        ({"fail": True}, BackendError, ("could not build", "out of device memory")),
        ({"unloadable": True}, BackendError, ("cannot be loaded",)),
        ({"full": fake_builder.NAMES[:2]}, GateError, ("2 of 3 convolutions are not FP16", *fake_builder.NAMES[:2])),
        ({"full": fake_builder.NAMES[2:]}, GateError, ("1 of 3", "conv10")),
        ({"nameless": True}, GateError, ("FP16 cannot be confirmed",)),
        # As the real bindings answer where CUDA cannot start.
        ({"nothing": ("Builder",)}, BackendError, ("cannot create a builder", "failure with error: 35", "nvidia-smi")),
        ({"nothing": ("create_network",)}, BackendError, ("cannot create a network",)),
        ({"nothing": ("Parser",)}, BackendError, ("cannot create a parser",)),
        ({"nothing": ("create_builder_config",)}, BackendError, ("cannot create a configuration",)),
        ({"nothing": ("create_optimization_profile",)}, BackendError, ("cannot create an optimisation profile",)),
        ({"nothing": ("add_optimization_profile",)}, BackendError, ("does not take an optimisation profile",)),
        ({"nothing": ("Runtime",)}, BackendError, ("cannot create a runtime",)),
        ({"nothing": ("create_engine_inspector",)}, BackendError, ("cannot create an engine inspector",)),
    ],
)
def test_what_fails_leaves_no_engine(bundle, with_tensorrt, faults, kind, said) -> None:
    with_tensorrt(**faults)
    with pytest.raises(kind) as error:
        build(bundle)
    assert all(part in str(error.value) for part in said), error.value
    assert list(engines_of(bundle)) == []
    assert not any((bundle / "engines").glob("*")) if (bundle / "engines").exists() else True


@pytest.mark.parametrize(
    ("request_", "gpus", "kind", "said"),
    [
        ({"batches": (1, 9)}, (CARD,), OptionError, ("batch size", "1 to 8")),
        ({"batches": ()}, (CARD,), OptionError, ("batch size",)),
        ({"level": 6}, (CARD,), OptionError, ("`level`", "0 to 5")),
        ({"compute_capability": "8.9"}, (CARD,), OptionError, ("GPU at hand only", "8.6")),
        ({}, (), BackendError, ("shows none", "--flavour rtx")),
        ({"flavour": "rtx"}, (), BackendError, ("no GPU here", "8.6 (RTX 30)")),
        ({"flavour": "rtx", "compute_capability": "9.0"}, (), OptionError, ("8.6, 8.9", "9.0")),
        ({"flavour": "rtx"}, (Gpu("NVIDIA H200", "9.0", "13.0"),), OptionError, ("9.0", "--flavour tensorrt")),
        ({"flavour": "rtx", "compute_capability": "8.6", "timing_cache": Path("t")}, (), OptionError, ("times no",)),
    ],
)
def test_requests_that_cannot_be(bundle, with_tensorrt, request_, gpus, kind, said) -> None:
    with_tensorrt(gpus=gpus)
    with pytest.raises(kind) as error:
        build(bundle, **request_)
    assert all(part in str(error.value) for part in said), error.value


def test_an_engine_is_replaced_with_force_only(bundle, with_tensorrt) -> None:
    with_tensorrt()
    build(bundle)
    with pytest.raises(OutputError, match="exists already"):
        build(bundle)
    assert build(bundle, force=True, level=1).record.level == 1


def test_a_folder_that_is_no_engine_is_never_replaced(bundle, with_tensorrt) -> None:
    with_tensorrt()
    mine = bundle / "engines/tensorrt-8.6-fp16/notes.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError):
        build(bundle, force=True)
    assert mine.read_text(encoding="utf-8") == "mine"


def test_the_timing_cache_is_read_updated_and_refused(bundle, with_tensorrt, tmp_path) -> None:
    with_tensorrt()
    cache = tmp_path / "timings"
    build(bundle, timing_cache=cache)
    assert cache.read_bytes() == b"+"
    build(bundle, timing_cache=cache, force=True)
    assert cache.read_bytes() == b"++"
    cache.write_bytes(b"foreign")
    with pytest.raises(OptionError, match="is not a timing cache"):
        build(bundle, timing_cache=cache, force=True)
    assert cache.read_bytes() == b"foreign"


def test_the_place_of_a_timing_cache_is_checked_first(bundle, with_tensorrt, tmp_path, monkeypatch) -> None:
    trt = with_tensorrt()
    for file, said in ((tmp_path, "is a folder"), (tmp_path / "none/t", "is missing")):
        with pytest.raises(OptionError, match=said):
            build(bundle, timing_cache=file)
    with pytest.raises(OutputError, match=r"would lie in .*, which is a bundle"):
        build(bundle, timing_cache=bundle / "timings")
    monkeypatch.setattr(files.os, "access", lambda path, _: Path(path) != tmp_path)
    with pytest.raises(OutputError, match="cannot be written"):
        build(bundle, timing_cache=tmp_path / "t")
    assert trt.calls == []


def test_an_engine_stays_where_its_timing_cache_cannot_be_written(bundle, with_tensorrt, tmp_path, monkeypatch, cli):
    with_tensorrt()
    cache = tmp_path / "t"

    def full(path: Path, *_: bytes) -> None:
        assert path == cache
        assert list(engines_of(bundle)), "it is written last"
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(timing_cache, "write_atomic", full)
    (remark,) = cli("build-engine", bundle, "--fp16", "--timing-cache", cache, "--json").json["remarks"]
    assert remark["kind"] == "timing_cache"
    assert remark["first"] == [f"{cache}: No space left on device"]
    said = cli("build-engine", bundle, "--fp16", "--timing-cache", cache, "--force").stderr
    assert "1 timing cache was not written" in said
    assert [engine.plan.read_bytes() for engine in engines_of(bundle)] == [b"plan"]


def test_a_bundle_without_fp16_says_how_to_get_it(tiny_bundle, with_tensorrt) -> None:
    with_tensorrt()
    with pytest.raises(KdxError) as error:
        build(tiny_bundle)
    assert "--precision fp32,fp16" in error.value.fix


def test_missing_packages_are_named(monkeypatch) -> None:
    monkeypatch.setattr(flavours.util, "find_spec", lambda name: None)
    for name, install in (("tensorrt", "tensorrt-cu13"), ("rtx", "kdx[rtx]")):
        with pytest.raises(BackendError) as error:
            flavours.load_flavour(name)
        assert install in error.value.fix


@pytest.mark.parametrize("package", ["tensorrt", "tensorrt-cu13", "tensorrt-cu12-bindings"])
def test_the_version_is_known_under_every_name_of_the_package(monkeypatch, package) -> None:
    def version(name: str) -> str:
        if name != package:
            raise PackageNotFoundError(name)
        return "10.16.1"

    monkeypatch.setattr(flavours.util, "find_spec", lambda name: True)
    monkeypatch.setattr(flavours, "version", version)
    assert flavours.installed_version("tensorrt") == "10.16.1"
    assert flavours.installed_version("rtx") == "of unknown version"


def test_a_package_that_does_not_load_is_named(monkeypatch) -> None:
    monkeypatch.setattr(flavours.util, "find_spec", lambda name: True)

    def broken(name):
        raise OSError("libnvinfer.so.10: cannot open shared object file")

    monkeypatch.setattr(flavours, "import_module", broken)
    with pytest.raises(BackendError, match=r"libnvinfer\.so\.10"):
        flavours.load_flavour("tensorrt")


def test_a_killed_build_leaves_nothing(bundle) -> None:
    # The process dies while the engine's folder is written: what was there stays, and nothing half
    # made is an engine.
    script = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        from kd_export.engine import build, flavours
        from kdx.bundle.open import open_bundle
        from kdx.runtime.gpu import Gpu
        from tests.kd_export.engine import fake_builder
        module = fake_builder.make()
        card = (Gpu("NVIDIA RTX A2000", "8.6", "13.0"),)
        build.load_flavour = lambda name: flavours.Flavour(name, module)
        build.gpus = flavours.gpus = lambda: card
        write = Path.write_bytes
        def write_bytes(path, data):
            write(path, data)
            if path.name == "model.plan":
                os.kill(os.getpid(), signal.SIGKILL)
        Path.write_bytes = write_bytes
        build.build_engine(open_bundle(sys.argv[1]), build.EngineRequest(flavour="tensorrt", precision="fp16"))
        """
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", script, bundle], cwd=root, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert list(engines_of(bundle)) == []
    assert not (bundle / "engines/tensorrt-8.6-fp16").exists()
    open_bundle(bundle)


def test_dry_run_says_what_and_whether(bundle, with_tensorrt, cli) -> None:
    with_tensorrt()
    said = cli("build-engine", bundle, "--fp16", "--batch", "1,8", "--dry-run").stdout
    assert "tensorrt-8.6-fp16" in said
    assert "model.fp16.onnx" in said
    assert "there now: nothing" in said
    assert not (bundle / "engines").exists()
    assert "building fp16 for tensorrt" in cli("build-engine", bundle, "--fp16").stderr
    assert "building" not in cli("build-engine", bundle, "--fp16", code=2).stderr, "there is one"
    assert "an engine that fits" in cli("build-engine", bundle, "--fp16", "--dry-run").stdout
    with_tensorrt("11.4.0")
    assert "may not run: built for TensorRT 10.16.1" in cli("build-engine", bundle, "--fp16", "--dry-run").stdout
    record = cli("build-engine", bundle, "--fp16", "--dry-run", "--json").json
    assert record["fingerprint"]["tensorrt"] == "11.4.0"
    with_tensorrt(gpus=())
    assert "shows none" in cli("build-engine", bundle, "--fp16", "--dry-run", code=2).stderr
    refused = cli("build-engine", bundle, "--fp16", code=2).stderr
    assert "shows none" in refused
    assert "building" not in refused


def test_one_engine_has_one_precision(bundle, cli) -> None:
    said = cli("build-engine", bundle, "--fp16", "--int8", code=2).stderr
    assert "an engine has one precision" in said
    assert "holds no int8 graph" in cli("build-engine", bundle, "--int8", "--dry-run", code=2).stderr


def test_inspect_shows_engines_and_stale_ones(bundle, with_tensorrt, cli) -> None:
    with_tensorrt()
    cli("build-engine", bundle, "--fp16")
    assert "engine tensorrt-8.6-fp16: TensorRT 10.16.1" in cli("inspect", bundle).stdout
    record = bundle / "engines/tensorrt-8.6-fp16/engine.json"
    content = json.loads(record.read_text(encoding="utf-8"))
    record.write_text(json.dumps({**content, "onnx_sha256": "0" * 64}), encoding="utf-8")
    assert "stale" in cli("inspect", bundle).stdout
    assert set(cli("inspect", bundle, "--json").json["engines"]) == {"tensorrt-8.6-fp16"}


def test_ctrl_c_ends_a_build_of_tensorrt(bundle) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    assert hasattr(trt, "IProgressMonitor")
    script = textwrap.dedent(
        """
        import os, signal, sys, threading
        from kd_export.engine import build
        from kdx.bundle.open import open_bundle
        real = build._interruptible
        import contextlib
        @contextlib.contextmanager
        def at_once(trt, config):
            with real(trt, config) as interrupted:
                os.kill(os.getpid(), signal.SIGINT)
                yield interrupted
        build._interruptible = at_once
        import tensorrt_rtx as trt
        answers = []
        class Watched(trt.IProgressMonitor):
            def __init_subclass__(cls):
                asked = cls.step_complete
                def step_complete(self, phase, step):
                    answers.append(asked(self, phase, step))
                    return answers[-1]
                cls.step_complete = step_complete
        trt.IProgressMonitor = Watched
        request = build.EngineRequest(flavour="rtx", precision="fp16", compute_capability="8.6")
        try:
            build.build_engine(open_bundle(sys.argv[1]), request)
        except KeyboardInterrupt:
            # TensorRT asked whether to continue, and was told to stop: the build did not simply run to its end.
            sys.exit(130 if answers and not any(answers) else 1)
        """
    )
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", script, bundle], cwd=root, capture_output=True, check=False, env=dict(os.environ)
    )
    assert done.returncode == 130, done.stderr
    assert list(engines_of(bundle)) == []
