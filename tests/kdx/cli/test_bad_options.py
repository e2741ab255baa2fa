"""Arrays, names, options and weights that cannot serve."""

from __future__ import annotations

import os
import pickle
import re
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import kdx
from kdx.errors import InputError, OptionError
from kdx.imaging.images import InputSpec


@pytest.fixture(scope="module")
def detector(tiny_bundle):
    with kdx.load(tiny_bundle) as loaded:
        yield loaded


@pytest.fixture
def train(cli, tiny_options, dataset, tmp_path):
    return lambda *options, code=2: cli(
        "train", dataset, "--out", tmp_path / "out", "--epochs", 1, *tiny_options, *options, code=code
    )


def test_the_right_array_is_judged(detector, frame):
    assert detector(frame).score == detector(frame[..., 0]).score


@pytest.mark.parametrize(
    ("array", "message", "received"),
    [
        (np.zeros((64, 64, 1), np.float32), "is not uint8", "float32 (64, 64, 1)"),
        (np.zeros((64, 64, 1), np.uint16), "is not uint8", "uint16 (64, 64, 1)"),
        (np.zeros((64, 64, 3), np.uint8), "wrong channels", "uint8 (64, 64, 3)"),
        (np.zeros((1, 64, 64), np.uint8), "wrong channels", "uint8 (1, 64, 64)"),
        (np.zeros((48, 64, 1), np.uint8), "wrong size", "uint8 (48, 64, 1)"),
        ([[0]], "takes numpy arrays", "list"),
    ],
    ids=["float", "16-bit", "colour", "channels first", "size", "list"],
)
def test_a_wrong_array_is_refused(detector, array, message, received):
    with pytest.raises(InputError) as caught:
        detector(array)
    assert message in caught.value.message
    assert caught.value.expected == "uint8 (64, 64, 1), mono"
    assert caught.value.received == received
    with pytest.raises(InputError, match=message):
        detector.batch([array])


def arrays(images: object) -> object:
    return memoryview(np.ascontiguousarray(images))


@pytest.mark.parametrize(
    ("image", "fix"),
    [
        (None, "kdx.read_image(FILE, detector.input)"),
        (b"\x89PNG", "kdx.read_image(FILE, detector.input)"),
        (np.uint8(3), "kdx.read_image(FILE, detector.input)"),
        ([[0]], "numpy.array(image, dtype=numpy.uint8)"),
        (arrays(np.zeros((64, 64), np.uint8)), "pass numpy.asarray(image)"),
        (PIL.Image.new("L", (64, 64)), "pass numpy.asarray(image)"),
        (np.zeros((4, 64, 64, 1), np.uint8), "detector.batch(images)"),
        (np.zeros((4, 64, 64), np.uint8), "detector.batch(images)"),
        (np.zeros((1, 64, 64), np.uint8), "image.transpose(1, 2, 0)"),
        (np.zeros((64, 64, 3), np.uint8), "PIL.Image.fromarray(image).convert('L')"),
    ],
)
def test_the_fix_for_a_wrong_array_works(detector, image, fix):
    with pytest.raises(InputError) as caught:
        detector(image)
    assert fix in caught.value.fix
    code = re.search(r"(numpy\.[a-z]+\(.*\)|detector\.batch\(images\))$", caught.value.fix)
    if code:  # what can be run without a file
        names = {"numpy": np, "PIL": PIL, "image": image, "images": image, "detector": detector}
        found = eval(code.group(), names)
        if code.group().startswith("numpy") and not isinstance(image, list):
            detector(found)


def test_the_fix_for_an_array_of_a_colour_detector():
    spec = InputSpec(height=8, width=6, channels=3)
    for shape, code in {
        (3, 8, 6): "numpy.ascontiguousarray(image.transpose(1, 2, 0))",
        (8, 6, 4): "numpy.ascontiguousarray(image[..., :3])",
        (8, 6): "numpy.stack([image] * 3, axis=-1)",
    }.items():
        image = np.zeros(shape, np.uint8)
        with pytest.raises(InputError) as caught:
            spec.check(image)
        assert code in caught.value.fix
        spec.check(eval(code, {"numpy": np, "image": image}))


@pytest.mark.parametrize(
    ("arguments", "parameter", "received"),
    [
        ({"path": None}, "path", "NoneType"),
        ({"path": 3}, "path", "int"),
        ({"path": b"tile.kdx"}, "path", "b'tile.kdx'"),
        ({"path": ["tile.kdx"]}, "path", "list"),
        ({"path": ""}, "path", "''"),
        ({"log": 3}, "log", "int"),
        ({"threads": "2"}, "threads", "'2'"),
        ({"threads": 1.5}, "threads", "1.5"),
        ({"threads": True}, "threads", "True"),
        ({"require_signature": 3}, "require_signature", "int"),
        ({"require_signature": [None]}, "require_signature", "NoneType"),
    ],
)
def test_arguments_of_a_wrong_type_are_named(tiny_bundle, arguments, parameter, received):
    with pytest.raises(OptionError, match=f"^`{parameter}` is not a ") as caught:
        kdx.load(**{"path": tiny_bundle, **arguments})
    assert caught.value.received == received
    assert caught.value.expected
    assert caught.value.fix
    if parameter == "path":
        with pytest.raises(OptionError, match=r"^`bundles` is not a path"):
            kdx.load_many({"a": arguments["path"]})


def test_a_batch_of_wrong_arrays_is_refused(detector, frame):
    with pytest.raises(InputError, match="not uint8"):
        detector.batch(np.zeros((2, 64, 64, 1), np.float32))
    with pytest.raises(InputError, match="wrong size"):
        detector.batch([frame, frame[:32]])
    with pytest.raises(InputError, match="a batch is an array"):
        detector.batch(7)
    with pytest.raises(InputError, match="a batch is an array"):
        detector.batch(7, part_ids=[None])


def test_a_refused_array_does_not_spoil_the_next_call(detector, frame):
    before = detector(frame).score
    with pytest.raises(InputError):
        detector(frame.astype(np.float32))
    assert detector(frame).score == before


@pytest.mark.parametrize(
    ("option", "value"), [("--taps", ","), ("--taps", ""), ("--backbone", ""), ("--backbone", ",")]
)
def test_lists_without_a_name_are_refused(train, option, value):
    stderr = train(option, value).stderr
    assert f"{option} names nothing" in stderr
    assert f"received: {value!r}" in stderr


def test_weights_of_another_format_are_no_weights(train, tmp_path):
    (tmp_path / "weights.pth").write_text("hello\n", encoding="utf-8")
    stderr = train("--weights", tmp_path / "weights.pth").stderr
    assert "cannot be read as weights: KeyError(101)" in stderr
    assert "expected: a .safetensors file, or a PyTorch file" in stderr


@pytest.mark.parametrize("options", [(), ("--profile",), ("--budget-ms", 100)])
def test_no_runs_are_not_taken_for_the_default(cli, tiny_bundle, options):
    assert "too few" in cli("bench", tiny_bundle, "--runs", 0, *options, code=2).stderr


def test_a_precision_that_does_not_exist_is_not_proposed(cli, tiny_bundle, dataset):
    stderr = cli("evaluate", tiny_bundle, dataset, "--precision", "fp99", code=2).stderr
    assert "holds no fp99 graph" in stderr
    assert "fix: choose one of these" in stderr
    stderr = cli("evaluate", tiny_bundle, dataset, "--precision", "int8", code=2).stderr
    assert "kdx export RUN --precision fp32,int8" in stderr


def test_unknown_method_lists_the_near_ones(train):
    stderr = train("--method", "stmp").stderr
    assert "there is no method 'stmp'" in stderr
    assert "expected: stpm" in stderr


def test_unknown_backbone_lists_the_near_ones(train):
    stderr = train("--backbone", "resnet81").stderr
    assert "timm has no backbone 'resnet81'" in stderr
    assert "resnet18" in stderr


def test_unknown_pretrained_tag_is_a_user_error(train):
    assert "resnet18.nope" in train("--backbone", "resnet18.nope").stderr


def test_unknown_tap_lists_the_possible_ones(train):
    stderr = train("--taps", "layer1,layer7").stderr
    assert "there is no tap 'layer7'" in stderr
    assert "layer1, " in stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--epochs", 0), "--epochs is out of range"),
        (("--batch-size", 1), "--batch-size is out of range"),
        (("--image-size", 8), "--image-size is out of range"),
        (("--learning-rate", 0), "--learning-rate is out of range"),
        (("--learning-rate", "nan"), "--learning-rate is out of range"),
        (("--validation-fraction", 1), "--validation-fraction is out of range"),
        (("--sigma", -1), "--sigma is out of range"),
        (("--train-fraction", 0), "--train-fraction is out of range"),
        (("--channels", 2), "invalid --channels"),
        (("--device", "warp"), "device 'warp' cannot be used"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_impossible_option(train, tmp_path, options, message):
    assert message in train(*options).stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("size", ["64", "64x", "4x64", "axb", "64x64x1"])
def test_impossible_input_size(cli, tiny_run, tmp_path, size):
    assert "--input-size" in cli("export", tiny_run, "-o", tmp_path / "b.kdx", "--input-size", size, code=2).stderr


@pytest.mark.parametrize("batch", [0, 4096])
def test_impossible_max_batch(cli, tiny_run, tmp_path, batch):
    assert "--max-batch" in cli("export", tiny_run, "-o", tmp_path / "b.kdx", "--max-batch", batch, code=2).stderr
    assert not list(tmp_path.iterdir())


def test_unknown_checkpoint_name(cli, tiny_run, tmp_path):
    stderr = cli("export", tiny_run, "-o", tmp_path / "b.kdx", "--checkpoint", "first", code=2).stderr
    assert "last or best" in stderr


def test_unknown_backend_lists_the_known_ones(cli, tiny_bundle, dataset):
    stderr = cli("predict", tiny_bundle, dataset / "test/good", "--backend", "openvno", code=2).stderr
    assert "there is no backend 'openvno'" in stderr
    assert "onnxruntime-cpu" in stderr


def test_a_run_runs_in_torch_alone(cli, tiny_run, dataset):
    stderr = cli("predict", tiny_run, dataset / "test/good", "--backend", "onnxruntime-cpu", code=2).stderr
    assert "kdx export" in stderr


@pytest.mark.parametrize("batch", ["0", "1,x", "64", ""])
def test_impossible_bench_batch(cli, tiny_bundle, batch):
    assert "--batch" in cli("bench", tiny_bundle, "--batch", batch, code=2).stderr


def test_bench_needs_enough_runs(cli, tiny_bundle):
    assert "at least 20" in cli("bench", tiny_bundle, "--runs", 3, code=2).stderr


class _Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_a_pickle_with_code_is_refused_and_not_run(train, tmp_path):
    marker, weights = tmp_path / "executed", tmp_path / "weights.pth"
    weights.write_bytes(pickle.dumps({"conv1.weight": _Malicious(marker)}, protocol=2))
    stderr = train("--weights", weights).stderr
    assert "cannot be read as weights" in stderr
    assert "never unpickles code" in stderr
    assert not marker.exists()
    pickle.loads(weights.read_bytes())  # the trap works: plain unpickling falls into it
    assert marker.exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("weights.pth", b""),
        ("weights.pth", b"rubbish" * 50),
        ("weights.safetensors", b""),
        ("weights.safetensors", b"rubbish" * 50),
    ],
)
def test_unreadable_weights(train, tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    stderr = train("--weights", tmp_path / name).stderr
    assert name in stderr
    assert "cannot be read as weights" in stderr


@pytest.mark.parametrize("value", [-1, 2**32, 2**63, 2**64, 10**30, "1.5", "1e3"])
@pytest.mark.parametrize("command", ["train", "fit", "demo"])
def test_a_seed_out_of_range_is_no_bug(cli, dataset, tmp_path, command, value):
    arguments = {
        "train": ("train", dataset, "-o", tmp_path / "out"),
        "fit": ("fit", dataset, "-o", tmp_path / "out", "--budget-ms", 10),
        "demo": ("demo", tmp_path / "out"),
    }[command]
    stderr = cli(*arguments, "--seed", value, code=2).stderr
    assert "--seed" in stderr
    assert "bug" not in stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("threads", [0, -1, 1025, 2**31, 2**64])
def test_threads_out_of_range_are_refused(cli, tiny_bundle, tiny_run, dataset, threads):
    from kdx.errors import OptionError

    for path in (tiny_bundle, tiny_run):
        with pytest.raises(OptionError, match="`threads` is out of range"):
            kdx.load(path, threads=threads)
    with pytest.raises(OptionError, match="`threads` is out of range"):
        kdx.load_many([tiny_bundle], threads=threads)
    for command in (("evaluate", tiny_bundle, dataset), ("bench", tiny_bundle), ("fit", dataset, "--budget-ms", 9)):
        assert "bug" not in cli(*command, "--threads", threads, code=2).stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--tile", 0), "--tile is out of range"),
        (("--tile", 2**40), "--tile is out of range"),
        (("--tile-batch", 0), "--tile-batch is out of range"),
        (("--tile-batch", 2**40), "--tile-batch is out of range"),
        (("--tile-batch", 8), "--tile-batch has no effect without tiles"),
        (("--max-batch", 0), "--max-batch is out of range"),
    ],
)
def test_sizes_of_an_export_that_cannot_be_or_change_nothing(cli, tiny_run, tmp_path, options, said):
    assert said in cli("export", tiny_run, "-o", tmp_path / "b.kdx", *options, code=2).stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", -1),
        ("seed", 2**32),
        ("seed", 10**30),
        ("workers", -1),
        ("workers", 2**31),
        ("memory_mib", -1),
        ("memory_mib", 2**63),
        ("max_bad_images", -1),
        ("tile", 0),
        ("tile", 2**40),
        ("image_size", 0),
        ("image_size", 2**40),
        ("epochs", 0),
        ("batch_size", 2**40),
    ],
)
def test_integers_out_of_range_are_refused_from_python_too(dataset, tmp_path, name, value):
    from kd_train.training.options import TrainOptions
    from kd_train.training.train import train
    from kdx.errors import OptionError

    options = TrainOptions(**{"backbone": "test_resnet", "weights": "random", name: value})
    with pytest.raises(OptionError, match=f"{name}`? is out of range") as caught:
        train(dataset, tmp_path / "out", options)
    assert " to " in caught.value.expected
    assert not (tmp_path / "out").exists()


def test_missing_weights_file(train, tmp_path):
    stderr = train("--weights", tmp_path / "none.pth").stderr
    assert "there is no weights file" in stderr
    assert "imagenet, random or a file" in stderr


def test_weights_of_another_shape_name_the_first_tensor(train, tmp_path):
    import torch

    from kd_train.models.backbones import create_backbone

    state = create_backbone("test_resnet").state_dict()
    name = next(iter(state))
    state[name] = torch.zeros(1, 2, 3)
    torch.save(state, tmp_path / "wrong.pth")
    stderr = train("--weights", tmp_path / "wrong.pth").stderr
    assert "do not fit this backbone: 0 tensors missing, 1 of another shape" in stderr
    assert f"'{name}' of shape" in stderr
    assert "shape (1, 2, 3)" in stderr


def test_weights_without_some_tensors_name_the_first(train, tmp_path):
    import torch

    torch.save({"other": torch.zeros(1)}, tmp_path / "wrong.pth")
    stderr = train("--weights", tmp_path / "wrong.pth").stderr
    assert "do not fit this backbone" in stderr
    assert "it is absent" in stderr


def test_weights_that_are_no_state_dict(train, tmp_path):
    import torch

    torch.save([1, 2], tmp_path / "list.pth")
    assert "does not hold a state dict" in train("--weights", tmp_path / "list.pth").stderr


def test_imagenet_offline_names_three_ways(train, monkeypatch, tmp_path):
    constants = pytest.importorskip("huggingface_hub.constants", reason="comes with timm")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    stderr = train("--backbone", "resnet18", "--weights", "imagenet").stderr
    assert "no ImageNet weights for 'resnet18' were found" in stderr
    for way in ("(1) --weights FILE", "weights are a package: tf_efficientnet_lite0", "(3) connect"):
        assert way in stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("export", "RUN", "-o", "NEW", "--calibration-data", "DATA"), "--calibration-data would change nothing"),
        (("export", "RUN", "-o", "NEW", "--evaluation-data", "DATA"), "--evaluation-data would change nothing"),
        (("export", "RUN", "-o", "NEW", "--precision", "fp32,fp16", "--evaluation-data", "DATA"), "fp32,int8"),
        (("export", "RUN", "-o", "NEW", "--category", "x"), "without --evaluation-data"),
        (("export", "RUN", "-o", "NEW", "--channel-order", "bgr"), "the run is mono"),
        (("roi", "BUNDLE", "--varies", 3), "--varies would change nothing without --from-images"),
        (("roi", "BUNDLE", "--set", "MASK", "--varies", 9, "-o", "NEW"), "--varies and --output would change nothing"),
        (("roi", "BUNDLE", "--remove", "--force", "--subfolders"), "--subfolders and --force would change nothing"),
        (("bench", "BUNDLE", "--percentile", 99), "--percentile would change nothing without --budget-ms"),
        (("bench", "BUNDLE", "--backend", "onnxruntime-cpu"), "--backend would change nothing without --budget-ms"),
        (("bench", "BUNDLE", "--budget-ms", 9, "--profile"), "--budget-ms and --profile exclude each other"),
        (("bench", "BUNDLE", "--profile", "--baseline", "RUN"), "--profile and --baseline exclude each other"),
        (("bench", "BUNDLE", "--profile", "--batch", 1), "--batch and --profile exclude each other"),
        (("bench", "BUNDLE", "--force"), "--force would change nothing without --output"),
        (("verify", "BUNDLE", "--force"), "--force would change nothing without --output"),
        (("evaluate", "BUNDLE", "DATA", "--force"), "--force would change nothing without --output"),
        (
            ("train-many", "NEW", "-o", "NEW", "--address", "auto"),
            "--address would change nothing without --engine ray",
        ),
        (("train-many", "NEW", "-o", "NEW", "--gpus-per-product", 1), "without --engine ray"),
        (
            ("triton", "BUNDLE", "-o", "NEW", "--engine", "x"),
            "--engine would change nothing without --backend tensorrt",
        ),
        (("triton", "BUNDLE", "-o", "NEW", "--gpu", "--threads", 2), "--threads would change nothing without --cpu"),
    ],
)
def test_an_option_without_effect_is_refused(cli, tiny_run, tiny_bundle, dataset, tmp_path, options, said):
    places = {"RUN": tiny_run, "BUNDLE": tiny_bundle, "DATA": dataset, "NEW": tmp_path / "new", "MASK": "mask.png"}
    assert said in cli(*(places.get(option, option) for option in options), code=2).stderr
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--json", "--bogus"], "No such option: --bogus"),
        (["--json", "--threads", "many"], "Invalid value for '--threads'"),
        (["--json", "--threads", "99999999"], "Invalid value for '--threads'"),
    ],
)
def test_a_usage_error_is_a_record_where_json_is_asked_for(cli, words, said):
    result = cli("predict", "a.kdx", "images", *words, code=2)
    (record,) = result.lines
    assert (record["error"]["type"], record["error"]["message"][: len(said)]) == ("UsageError", said)
    assert not result.stderr


def test_a_usage_error_names_the_missing_argument_as_a_record(cli):
    assert cli("train", "--json", code=2).json["error"]["type"] == "UsageError"
    assert "Missing argument" in cli("train", code=2).stderr
    assert not cli("predict", "a.kdx", "--", "--json", code=2).stdout
