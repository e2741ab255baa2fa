"""The documentation's client of Triton, run as it stands there against a client that answers as the
server would."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
import onnxruntime as ort
import pytest

import kdx
from kdx.bundle.open import open_bundle
from kdx.bundle.stored_threshold import ReviewBand

pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed: pip install 'kdx[serving]'")

from google.protobuf import json_format, text_format
from tritonclient.grpc import service_pb2
from tritonclient.grpc.model_config_pb2 import ModelConfig

from kd_export.serving.repository import ServingRequest, write_repository
from kdx.errors import InputError

PAGE = (Path(__file__).parents[3] / "docs/deployment/triton.md").read_text(encoding="utf-8")
(CLIENT,) = re.findall(r"```python\n(import kdx\nimport tritonclient.*?)```", PAGE, re.DOTALL)


def set_thresholds(bundle: Path, low: float, high: float) -> None:
    """Let parts be good up to ``low``, to be reviewed up to ``high``, and defective above."""
    opened = open_bundle(bundle)
    band = ReviewBand(score=low, false_reject_rate=0.5, interval=(None, None))
    opened.with_thresholds(msgspec.structs.replace(opened.manifest.threshold, score=high, review=band, scores=[]))


@pytest.fixture
def banded(tiny_bundle, tmp_path, frame) -> Path:
    """A bundle named as in the page, by which ``frame`` is good, to be reviewed or defective: see
    ``shades``."""
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "tile.kdx"))
    with kdx.load(bundle, "onnxruntime-cpu") as detector:
        scores = sorted(detector(image).score for image in shades(frame))
    set_thresholds(bundle, (scores[0] + scores[1]) / 2, (scores[1] + scores[2]) / 2)
    return bundle


def shades(frame: np.ndarray) -> list[np.ndarray]:
    """Three frames that score differently."""
    return [frame, 255 - frame, np.roll(frame, 7, axis=0) // 2]


class InferInput:
    """An input as tritonclient has it."""

    def __init__(self, name: str, shape: list[int], datatype: str) -> None:
        assert (name, datatype) == ("image", "UINT8")
        self.shape = tuple(shape)

    def set_data_from_numpy(self, values: np.ndarray) -> None:
        assert values.dtype == np.uint8
        assert values.shape == self.shape
        self.values = values


class Server:
    """Answers from a repository's folder; ``spoil`` changes what it answers."""

    def __init__(self, repository: Path, spoil=lambda outputs: outputs) -> None:
        self.repository, self.spoil = repository, spoil

    def client(self, address: str) -> Server:
        assert address == "localhost:8001"
        return self

    def get_model_config(self, name: str, *, as_json: bool) -> dict:
        assert as_json
        text = (self.repository / name / "config.pbtxt").read_text(encoding="utf-8")
        response = service_pb2.ModelConfigResponse(config=text_format.Parse(text, ModelConfig()))
        return json_format.MessageToDict(response, preserving_proto_field_name=True)

    def infer(self, name: str, inputs: list[InferInput]) -> Answer:
        graph = self.repository / name / "1/model.onnx"
        session = ort.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
        names = ["anomaly_map", "anomaly_score"]
        return Answer(self.spoil(dict(zip(names, session.run(names, {"image": inputs[0].values}), strict=True))))


class Answer:
    def __init__(self, outputs: dict[str, np.ndarray]) -> None:
        self.outputs = outputs

    def as_numpy(self, name: str) -> np.ndarray | None:
        return self.outputs.get(name)


@pytest.fixture
def ask(monkeypatch):
    """Run the page's client on a frame and return what it decided."""

    def run(server: Server, frame: np.ndarray) -> kdx.Verdict:
        fake = ModuleType("tritonclient.grpc")
        fake.InferenceServerClient, fake.InferInput = server.client, InferInput
        monkeypatch.setitem(sys.modules, "tritonclient.grpc", fake)
        monkeypatch.setattr(sys.modules["tritonclient"], "grpc", fake)
        namespace = {"frame": frame}
        exec(CLIENT, namespace)  # the page's own text
        verdict = namespace["verdict"]
        assert namespace["may_pass"] == (verdict.decision is kdx.Decision.GOOD)
        return verdict

    return run


def serve(bundle: Path, spoil=lambda outputs: outputs) -> Server:
    repository = bundle.parent / "repo"
    write_repository(open_bundle(bundle), ServingRequest(), repository, force=True)
    return Server(repository, spoil)


def test_a_clients_verdict_is_that_of_kdx(ask, banded, frame):
    server = serve(banded)
    black, burnt_out, dim = np.zeros_like(frame), np.full_like(frame, 255), np.full_like(frame, 16)
    decided = []
    with kdx.load(banded, "onnxruntime-cpu") as detector:
        for image in (*shades(frame), black, burnt_out, dim):
            ours, expected = ask(server, image), detector(image)
            assert ours.score == pytest.approx(expected.score, rel=1e-5)
            np.testing.assert_allclose(ours.anomaly_map, expected.anomaly_map, rtol=1e-4, atol=1e-6)
            same = {"score": ours.score, "anomaly_map": ours.anomaly_map}
            assert vars(ours) == {**vars(expected), **same}
            decided.append(ours.decision.value)
    assert set(decided[:3]) == {"good", "review", "defective"}
    assert not {"good", "review"} & set(decided[3:])


def no_numbers(outputs):
    return {name: np.full_like(values, np.nan) for name, values in outputs.items()}


def a_maximum_over_nan(outputs):
    """What OpenVINO answers for a map of NaN: its largest value of none is finite."""
    return {**no_numbers(outputs), "anomaly_score": np.full((1, 1), -3.4e38, np.float32)}


def below_any_distance(outputs):
    return {name: np.full_like(values, -1.0) for name, values in outputs.items()}


def an_infinite_score(outputs):
    return {**outputs, "anomaly_score": np.full((1, 1), -np.inf, np.float32)}


@pytest.mark.parametrize("spoil", [no_numbers, a_maximum_over_nan, below_any_distance, an_infinite_score])
def test_an_answer_that_is_none_never_passes(ask, banded, frame, spoil):
    assert ask(serve(banded, spoil), frame).decision is kdx.Decision.UNDECIDED


def test_a_model_of_an_older_kdx_is_refused(ask, banded, frame):
    server = serve(banded)
    file = server.repository / "tile/config.pbtxt"
    config = text_format.Parse(file.read_text(encoding="utf-8"), ModelConfig())
    for name in ("kdx.rules", "kdx.review_threshold", "kdx.frame_limits", "kdx.input", "kdx.map_size"):
        del config.parameters[name]
    file.write_text(text_format.MessageToString(config), encoding="utf-8")
    with pytest.raises(InputError, match="do not hold the decision rule"):
        ask(server, frame)


def test_without_calibration_nothing_passes(ask, raw_bundle, tmp_path, frame):
    bundle = Path(shutil.copytree(raw_bundle, tmp_path / "tile.kdx"))
    assert ask(serve(bundle), frame).decision is kdx.Decision.UNDECIDED
