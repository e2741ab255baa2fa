"""Model repositories for Triton: read with its own protobuf, and run as a client and the server's
warm-up would."""

from __future__ import annotations

import json
import math
import shlex
import shutil
import sys
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime as ort
import pytest

import kdx
from kdx.bundle.engine_record import PLAN
from kdx.bundle.manifest import INDEX
from kdx.bundle.open import open_bundle
from kdx.errors import BackendError, BundleError, GateError, OptionError, OutputError
from kdx.storage.files import sha256_file
from tests.engines import MACHINE, RTX, add_engine, make_record
from tests.images import solar_cells
from tests.kdx.test_lean_import import python
from tests.students import add_int8

pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed: pip install 'kdx[serving]'")

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig, ModelInstanceGroup

from kd_export.serving.config import config_of, require_fit, tensors_of_onnx, text_of
from kd_export.serving.repository import Served, ServingRequest, write_repository

NUMPY = {DataType.TYPE_UINT8: np.uint8, DataType.TYPE_FP32: np.float32}


def write(bundle: Path, repository: Path, **options: object) -> Served:
    return write_repository(open_bundle(bundle), ServingRequest(**options), repository)


def config_in(folder: Path) -> ModelConfig:
    return text_format.Parse((folder / "config.pbtxt").read_text(encoding="utf-8"), ModelConfig())


@pytest.fixture(scope="module")
def served(tiny_bundle, tmp_path_factory) -> Served:
    """A model that no test may change."""
    return write(tiny_bundle, tmp_path_factory.mktemp("repository"))


@pytest.fixture(scope="module")
def static_bundle(tiny_run, tmp_path_factory, cli) -> Path:
    """A bundle whose graph takes one image."""
    bundle = tmp_path_factory.mktemp("static") / "static.kdx"
    cli("export", tiny_run, "-o", bundle, "--max-batch", 1)
    return bundle


# What is written


def test_the_repository_is_what_triton_looks_for(served, tiny_bundle):
    files = {file.relative_to(served.folder).as_posix() for file in served.folder.rglob("*") if file.is_file()}
    golden = len(open_bundle(tiny_bundle).manifest.golden)
    warm_up = {f"warmup/golden-{index}.raw" for index in range(min(6, golden))}
    assert files == {"config.pbtxt", "1/model.onnx", *warm_up}
    assert served.folder.name == "tiny"
    assert sha256_file(served.folder / "1/model.onnx") == sha256_file(tiny_bundle / "model.onnx")


def test_the_configuration_says_what_the_graph_is(served):
    config = config_in(served.folder)
    assert (config.name, config.backend, config.default_model_filename) == ("tiny", "onnxruntime", "model.onnx")
    assert config.max_batch_size == 32
    assert config.HasField("dynamic_batching")
    assert [(i.name, DataType.Name(i.data_type), list(i.dims)) for i in config.input] == [
        ("image", "TYPE_UINT8", [64, 64, 1])
    ]
    assert [(o.name, DataType.Name(o.data_type), list(o.dims)) for o in config.output] == [
        ("anomaly_map", "TYPE_FP32", [64, 64]),
        ("anomaly_score", "TYPE_FP32", [1]),
    ]
    (group,) = config.instance_group
    assert (group.count, group.kind) == (1, ModelInstanceGroup.KIND_CPU)
    assert not config.optimization.execution_accelerators.gpu_execution_accelerator


def test_clients_find_threshold_and_origin(served, tiny_bundle):
    parameters = {key: value.string_value for key, value in config_in(served.folder).parameters.items()}
    manifest = open_bundle(tiny_bundle).manifest
    assert float(parameters["kdx.threshold"]) == manifest.threshold.score
    assert float(parameters["kdx.pixel_threshold"]) == manifest.threshold.pixel
    assert parameters["kdx.bundle_json_sha256"] == sha256_file(tiny_bundle / INDEX)
    assert (parameters["kdx.precision"], parameters["kdx.method"]) == ("fp32", "stpm")


def test_a_calibration_since_the_bundle_was_opened_is_not_named(bundle_copy, tmp_path):
    opened = open_bundle(bundle_copy)
    open_bundle(bundle_copy).with_thresholds(msgspec.structs.replace(opened.manifest.threshold, created="later"))
    told = write_repository(opened, ServingRequest(), tmp_path / "repository").model.parameters
    assert told["kdx.bundle_json_sha256"] == opened.index_sha256 != sha256_file(bundle_copy / INDEX)


def test_the_warm_up_runs_and_decides_as_the_reference(served, tiny_bundle):
    # As the server does it: the file's bytes, in the shape of the configuration, as often as the
    # batch says.
    config = config_in(served.folder)
    session = ort.InferenceSession(str(served.folder / "1/model.onnx"), providers=["CPUExecutionProvider"])
    golden = open_bundle(tiny_bundle).golden()
    batches = []
    for sample in config.model_warmup:
        image = sample.inputs["image"]
        data = (served.folder / "warmup" / image.input_data_file).read_bytes()
        array = np.frombuffer(data, NUMPY[image.data_type]).reshape(1, *image.dims).repeat(sample.batch_size, axis=0)
        maps, scores = session.run(["anomaly_map", "anomaly_score"], {"image": array})
        assert maps.shape == (sample.batch_size, *config.output[0].dims)
        assert scores.shape == (sample.batch_size, *config.output[1].dims)
        index = next(i for i, each in enumerate(golden.images) if np.array_equal(each, array[0]))
        np.testing.assert_allclose(scores[:, 0], golden.scores[index, 0], rtol=1e-4)
        batches.append(sample.batch_size)
    assert batches == [1, 2, 4, 8, 16, 32]


@pytest.mark.parametrize(("largest", "batches", "delay"), [(1, [1], 0), (5, [1, 2, 4, 5], 300)])
def test_a_smaller_batch_can_be_asked_for(tiny_bundle, tmp_path, largest, batches, delay):
    config = config_in(write(tiny_bundle, tmp_path, max_batch=largest, max_queue_delay_us=delay).folder)
    assert config.max_batch_size == largest
    assert [sample.batch_size for sample in config.model_warmup] == batches
    assert config.HasField("dynamic_batching") == (largest > 1)
    assert config.dynamic_batching.max_queue_delay_microseconds == delay


@pytest.mark.slow
def test_a_graph_of_one_image_has_its_batch_in_the_shapes(static_bundle, tmp_path):
    config = config_in(write(static_bundle, tmp_path).folder)
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    assert list(config.input[0].dims) == [1, 64, 64, 1]
    assert [list(output.dims) for output in config.output] == [[1, 64, 64], [1, 1]]
    (sample,) = config.model_warmup
    assert (sample.batch_size, list(sample.inputs["image"].dims)) == (1, [1, 64, 64, 1])


def test_on_a_gpu_fp32_stays_fp32(tiny_bundle, tmp_path):
    served = write(tiny_bundle, tmp_path, gpu=True, instances=2, threads=3)
    config = config_in(served.folder)
    (group,) = config.instance_group
    assert (group.count, group.kind) == (2, ModelInstanceGroup.KIND_GPU)
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert (accelerator.name, dict(accelerator.parameters)) == ("cuda", {"use_tf32": "0"})
    assert "intra_op_thread_count" not in config.parameters
    assert "--gpus=1" in shlex.split(served.command)


def test_threads_and_instances_on_a_cpu(tiny_bundle, tmp_path):
    config = config_in(write(tiny_bundle, tmp_path, instances=3, threads=2).folder)
    assert config.instance_group[0].count == 3
    assert config.parameters["intra_op_thread_count"].string_value == "2"


def test_the_command_mounts_the_repository(tiny_bundle, tmp_path):
    words = shlex.split(write(tiny_bundle, tmp_path / "a repository").command)
    assert f"{tmp_path}/a repository:/models" in words
    assert words[-2:] == ["tritonserver", "--model-repository=/models"]
    assert "--gpus=1" not in words


def test_other_models_stay(tiny_bundle, tmp_path):
    first = write(tiny_bundle, tmp_path, name="first")
    before = sha256_file(first.folder / "config.pbtxt")
    second = write(tiny_bundle, tmp_path, name="second")
    assert config_in(second.folder).name == "second"
    assert sha256_file(first.folder / "config.pbtxt") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second"]


# What is compared with the graph


def break_type(config):
    config.input[0].data_type = DataType.TYPE_FP32


def break_size(config):
    config.input[0].dims[0] += 1


def break_layout(config):
    config.input[0].dims[:] = [1, 64, 64]


def break_name(config):
    config.output[1].name = "score"


def break_output(config):
    del config.output[0]


def break_rank(config):
    config.output[1].ClearField("dims")


def break_batch(config):
    config.max_batch_size = 0


def break_warm_up_batch(config):
    config.model_warmup[0].batch_size = 33


def break_warm_up_shape(config):
    config.model_warmup[0].inputs["image"].dims[0] = 63


def break_warm_up_file(config):
    config.model_warmup[0].inputs["image"].input_data_file = "another.raw"


BREAKS = [value for name, value in sorted(globals().items()) if name.startswith("break_")]


@pytest.mark.parametrize("change", BREAKS, ids=lambda each: each.__name__)
def test_a_configuration_that_does_not_fit_is_refused(served, change):
    config = config_in(served.folder)
    tensors = tensors_of_onnx((served.folder / "1/model.onnx").read_bytes())
    require_fit(config, tensors, served.folder)
    change(config)
    with pytest.raises(GateError, match="does not fit the graph"):
        require_fit(config, tensors, served.folder)


@pytest.mark.slow
def test_a_static_graph_is_not_taken_for_a_dynamic_one(served, static_bundle):
    with pytest.raises(GateError, match=r"shape=\(None, 64, 64, 1\)"):
        require_fit(
            config_in(served.folder), tensors_of_onnx((static_bundle / "model.onnx").read_bytes()), served.folder
        )


def test_text_that_protobuf_reads_otherwise_is_refused(served, monkeypatch):
    config = config_of(served.model)
    assert text_format.Parse(text_of(config), ModelConfig()) == config
    print_ = text_format.MessageToString
    monkeypatch.setattr(text_format, "MessageToString", lambda message: print_(message).replace("64", "46"))
    with pytest.raises(GateError, match="does not read back as written"):
        text_of(config)


def test_nothing_is_left_of_what_was_refused(tiny_bundle, tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise GateError("refused")

    monkeypatch.setattr("kd_export.serving.repository.require_fit", refuse)
    with pytest.raises(GateError, match="refused"):
        write(tiny_bundle, tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


# TensorRT


@pytest.fixture
def engine_bundle(bundle_copy) -> Path:
    """A bundle with an engine of its FP32 graph for batches up to 8."""
    add_engine(bundle_copy, "fp32", engine_record(bundle_copy))
    return bundle_copy


def engine_record(bundle: Path, fingerprint=MACHINE, **changes: object):
    made = {"precision": "fp32", "onnx_sha256": sha256_file(bundle / "model.onnx"), **changes}
    return make_record(fingerprint, **made)


def test_a_plan_is_served_with_its_profiles(engine_bundle, tmp_path):
    served = write(engine_bundle, tmp_path, backend="tensorrt")
    config = config_in(served.folder)
    assert (config.backend, config.default_model_filename, config.max_batch_size) == ("tensorrt", "model.plan", 8)
    (group,) = config.instance_group
    assert (group.kind, list(group.profile)) == (ModelInstanceGroup.KIND_GPU, ["0", "1"])
    assert (served.folder / "1/model.plan").read_bytes() == b"plan"
    assert "YY.MM" in served.command
    assert MACHINE.tensorrt in served.note
    assert MACHINE.gpu in served.note


def test_an_int8_engine_is_served_with_the_threshold_of_tensorrt(bundle_copy, tmp_path):
    add_int8(bundle_copy, solar_cells(3, (64, 64))[..., :1])
    record = engine_record(bundle_copy, precision="int8", onnx_sha256=sha256_file(bundle_copy / "model.int8.onnx"))
    add_engine(bundle_copy, "int8", record)
    with pytest.raises(OptionError, match="undecided") as caught:
        write(bundle_copy, tmp_path, backend="tensorrt")
    assert "int8 has no threshold for tensorrt" in caught.value.received
    opened = open_bundle(bundle_copy)
    own = opened.manifest.runtime_thresholds["int8"]
    measured = msgspec.structs.replace(own["onnxruntime"], score=0.125, scores=[])
    opened.with_thresholds(opened.manifest.threshold, {"int8": {**own, "tensorrt": measured}})
    served = write(bundle_copy, tmp_path, backend="tensorrt", precision="int8")
    assert served.model.parameters["kdx.threshold"] == "0.125"
    assert served.precision == "int8"


def test_one_of_several_engines_is_named(engine_bundle, tmp_path):
    add_engine(engine_bundle, "other", engine_record(engine_bundle, plan=b"other", batches=[4]), b"other")
    with pytest.raises(OptionError, match="several engines") as caught:
        write(engine_bundle, tmp_path, backend="tensorrt")
    assert caught.value.received == "fp32, other"
    served = write(engine_bundle, tmp_path, backend="tensorrt", engine="other")
    assert (served.folder / "1/model.plan").read_bytes() == b"other"
    assert config_in(served.folder).max_batch_size == 4


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"fingerprint": RTX}, "TensorRT for RTX"),
        ({"onnx_sha256": "0" * 64}, "built from another graph"),
        ({"precision": "fp16"}, "built from another graph"),
        ({"schema": 99}, "newer kdx"),
    ],
)
def test_an_engine_that_cannot_be_served_is_named_with_its_reason(bundle_copy, tmp_path, changes, reason):
    add_engine(bundle_copy, "one", engine_record(bundle_copy, **changes))
    with pytest.raises(BackendError, match="no engine to serve") as caught:
        write(bundle_copy, tmp_path, backend="tensorrt")
    assert reason in caught.value.received
    assert f"kdx build-engine {bundle_copy}" in caught.value.fix
    assert ("--force" in caught.value.fix) is (reason == "built from another graph")  # in the place of that one


def test_an_altered_plan_is_not_served(engine_bundle, tmp_path):
    (engine_bundle / "engines/fp32" / PLAN).write_bytes(b"evil")
    with pytest.raises(BackendError, match="missing or was altered"):
        write(engine_bundle, tmp_path / "repository", backend="tensorrt")
    assert not (tmp_path / "repository").exists()


# Requests that cannot be met


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"backend": "pytorch"}, OptionError, "unknown backend of Triton"),
        ({"precision": "fp16"}, BundleError, "holds no fp16 graph"),
        ({"precision": "bf16"}, OptionError, "serves no bf16"),
        ({"backend": "openvino", "precision": "fp16"}, OptionError, "serves no fp16"),
        ({"backend": "tensorrt"}, BackendError, "no engine to serve"),
        ({"max_batch": 33}, OptionError, "takes no such batch"),
        ({"max_batch": 0}, OptionError, "takes no such batch"),
        ({"backend": "openvino", "max_batch": 4}, OptionError, "cannot batch"),
        ({"backend": "openvino", "gpu": True}, OptionError, "runs on CPUs"),
        ({"instances": 0}, OptionError, "at least 1"),
        ({"threads": 0}, OptionError, "at least 1"),
        ({"max_queue_delay_us": -1}, OptionError, "at least 1"),
        ({"max_batch": 1, "max_queue_delay_us": 300}, OptionError, "`max_queue_delay_us` would change nothing"),
        ({"backend": "openvino", "max_queue_delay_us": 300}, OptionError, "`max_queue_delay_us` would change nothing"),
        ({"name": "../elsewhere"}, OptionError, "invalid name of a model"),
        ({"name": ".hidden"}, OptionError, "invalid name of a model"),
        ({"name": ""}, OptionError, "invalid name of a model"),
    ],
)
def test_what_cannot_be_served_is_refused(tiny_bundle, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        write(tiny_bundle, tmp_path / "repository", **options)
    assert not (tmp_path / "repository").exists()


def test_tensorrt_runs_on_no_cpu(engine_bundle, tmp_path):
    with pytest.raises(OptionError, match="runs on GPUs"):
        write(engine_bundle, tmp_path, backend="tensorrt", gpu=False)


def test_an_existing_model_is_replaced_on_request_alone(tiny_bundle, tmp_path):
    opened = open_bundle(tiny_bundle)
    folder = write(tiny_bundle, tmp_path).folder
    (folder / "1/stale.onnx").write_text("stale", encoding="utf-8")
    with pytest.raises(OutputError, match="exists already"):
        write(tiny_bundle, tmp_path)
    write_repository(opened, ServingRequest(), tmp_path, force=True)
    assert not (folder / "1/stale.onnx").exists()


def test_what_is_no_model_is_never_replaced(tiny_bundle, tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny/thesis.txt").write_text("precious", encoding="utf-8")
    with pytest.raises(OutputError, match="exists already"):
        write_repository(open_bundle(tiny_bundle), ServingRequest(), tmp_path, force=True)
    assert (tmp_path / "tiny/thesis.txt").read_text(encoding="utf-8") == "precious"


# The command line


def test_the_command_writes_and_says_how_to_run_it(cli, tiny_bundle, tmp_path):
    result = cli("triton", tiny_bundle, "-o", tmp_path / "repository", "--max-batch", 4).stdout
    assert "docker run --rm -p8000:8000" in result
    assert "onnxruntime on the CPU, fp32, batches up to 4" in result
    record = cli("triton", tiny_bundle, "-o", tmp_path / "repository", "--name", "two", "--cpu", "--json").json
    assert (record["name"], record["max_batch"], record["gpu"]) == ("two", 32, False)
    assert math.isclose(float(record["parameters"]["kdx.threshold"]), open_bundle(tiny_bundle).manifest.threshold.score)
    assert (Path(record["model"]) / "config.pbtxt").is_file()


def test_a_bundle_without_a_threshold_is_served_with_a_warning(cli, raw_bundle, tmp_path):
    result = cli("triton", raw_bundle, "-o", tmp_path)
    assert "not calibrated" in result.stderr
    assert "kdx.threshold" not in config_in(tmp_path / "tiny").parameters


def test_a_precision_has_its_own_threshold(bundle_copy, tmp_path):
    add_int8(bundle_copy, solar_cells(3, (64, 64))[..., :1])
    opened = open_bundle(bundle_copy)
    by_runtime = opened.manifest.runtime_thresholds["int8"]
    own = msgspec.structs.replace(by_runtime["onnxruntime"], score=0.125, scores=[])
    opened.with_thresholds(opened.manifest.threshold, {"int8": {**by_runtime, "onnxruntime": own}})
    served = write(bundle_copy, tmp_path, precision="int8")
    assert served.model.parameters["kdx.threshold"] == "0.125"
    assert sha256_file(served.folder / "1/model.onnx") == sha256_file(bundle_copy / "model.int8.onnx")
    del by_runtime["onnxruntime"]
    opened.with_thresholds(opened.manifest.threshold, {"int8": by_runtime})
    with pytest.raises(
        kdx.KdxError, match=r"verdict of a client would be undecided(.|\n)*int8 has no threshold for onnxruntime"
    ):
        write(bundle_copy, tmp_path / "other", precision="int8")


def test_errors_reach_the_user(cli, tmp_path, tiny_bundle):
    assert "there is no bundle" in cli("triton", tmp_path / "nowhere", "-o", tmp_path / "r", code=2).stderr
    stderr = cli("triton", tiny_bundle, "-o", tmp_path / "r", "--backend", "pytorch", code=2).stderr
    assert "onnxruntime, openvino, tensorrt" in stderr
    json_error = cli("triton", tiny_bundle, "-o", tmp_path / "r", "--precision", "fp16", "--json", code=2).json
    assert json_error["error"]["type"] == "BundleError"


def test_without_tritonclient_the_extra_is_named(cli, tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tritonclient.grpc.model_config_pb2", None)
    stderr = cli("triton", tiny_bundle, "-o", tmp_path / "r", code=2).stderr
    assert 'pip install "kdx[serving]"' in stderr


def test_an_unsigned_engine_is_not_served_where_a_signature_is_required(cli, engine_bundle, tmp_path):
    pytest.importorskip("cryptography", reason="cryptography is not installed: pip install 'kdx[sign]'")
    made = cli("sign", "--new-key", tmp_path / "line", "--json").json
    cli("sign", engine_bundle, "--key", made["private"])
    options = ("--backend", "tensorrt", "--require-signature", made["public"])
    cli("triton", engine_bundle, "-o", tmp_path / "signed", *options)
    record = engine_bundle / "engines/fp32/engine.json"
    record.write_text(json.dumps(json.loads(record.read_text(encoding="utf-8"))), encoding="utf-8")
    assert "not what was signed" in cli("triton", engine_bundle, "-o", tmp_path / "unsigned", *options, code=2).stderr
    assert not (tmp_path / "unsigned").exists()
    shutil.rmtree(engine_bundle / "engines")
    cli("triton", engine_bundle, "-o", tmp_path / "plain", "--require-signature", made["public"])


def test_help_loads_no_client():
    code = "from kdx.cli.app import app\ntry: app(['triton', '--help'])\nexcept SystemExit: pass\nimport sys"
    assert (
        python(f"{code}; print([m for m in ('tritonclient', 'grpc', 'onnx', 'openvino') if m in sys.modules])") == "[]"
    )
