"""A pair that computes what its INT8 graph computes, and whose students learn that way."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from kd_export.graph import FusedDetector
from kd_export.graph.fake_quantizer import FakeQuantizer
from kd_export.graph.int8 import Int8Plan
from kd_train.data.on_device import on_device
from kd_train.models.pair import Comparisons, Pair
from kdx.errors import GateError
from kdx.imaging.images import InputSpec


class QuantizedPair(Pair):
    """A pair with fake quantisation, whose networks are those of the exported graph.

    Batch normalisation and the camera's input are folded, so the parameters are the graph's own.
    It takes the same normalised images as the pair that it was made from, and has the same
    submodules: its teacher's features, quantised, are what its students learn.

    Args:
        detector: The fused detector of the pair, in FP32, for the camera of the training. Its
            networks become this pair's.
        plan: Which operations are quantised, and by which steps.

    Raises:
        GateError: An operation of the plan is not found in the networks, or teacher and students
            cannot be computed one after the other.
    """

    def __init__(self, detector: FusedDetector, plan: Int8Plan) -> None:
        pair = detector.pair
        assert isinstance(pair, Pair)
        super().__init__(pair.teacher, pair.spec, pair.channels, sees_image=pair.sees_image)
        self.mean, self.std = pair.mean, pair.std
        self.plan = plan
        # No submodules of this one: they share their networks with it.
        self._folded = (detector, pair)
        self._quantizer = FakeQuantizer(pair, plan)
        self._parameters, self._buffers, self._modules = pair._parameters, pair._buffers, pair._modules
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(not name.startswith("teacher."))
        self._require_computable(detector.size)

    def detector(self, input_spec: InputSpec) -> FusedDetector:
        """Return the fused detector for a camera, in FP32: its graph and the plan make INT8."""
        return copy.deepcopy(self._folded[0]).cpu().for_input(input_spec)

    def teacher_features(self, x: Tensor) -> list[Tensor]:
        """Return the quantised teacher's features of ``(N, 3, H, W)`` images."""
        with self._quantizer:
            return self._folded[1].teacher_features(self._as_folded(x))

    def compare(self, x: Tensor, teacher: list[Tensor]) -> Comparisons:
        """Return the features of ``spec.taps``, see :meth:`Pair.compare`."""
        with self._quantizer:
            return self._folded[1].compare(self._as_folded(x), teacher)

    def compare_training(self, x: Tensor, teacher: list[Tensor]) -> Comparisons:
        """Return the features of ``spec.loss_taps``, see :meth:`Pair.compare_training`."""
        with self._quantizer:
            return self._folded[1].compare_training(self._as_folded(x), teacher)

    def compare_damaged(self, x: Tensor, teacher: list[Tensor]) -> Comparisons:
        """Return the features of ``spec.loss_taps``, see :meth:`Pair.compare_damaged`."""
        with self._quantizer:
            return self._folded[1].compare_damaged(self._as_folded(x), teacher)

    def _as_folded(self, x: Tensor) -> Tensor:
        """Return normalised images as the folded networks take them: without scale, mono if so."""
        preprocess = self._folded[0].preprocess
        if preprocess.scale is not None or not x.numel():  # no image where cached features are enough
            return x
        channels = preprocess.mean.shape[1]
        scale = on_device(255.0 * torch.tensor(self.std[:channels], dtype=x.dtype), x.device)
        return x[:, :channels] * scale.view(1, channels, 1, 1)

    @torch.no_grad()
    def _require_computable(self, size: tuple[int, int]) -> None:
        x = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
        self._quantizer.met.clear()
        with self._quantizer:
            together = self._folded[1](self._as_folded(x))
        self._quantizer.require_all_met()
        same = [
            torch.equal(ours, theirs)
            for both, others in zip(together, self(x), strict=True)
            for ours, theirs in zip(both, others, strict=True)
        ]
        if not all(same):
            raise GateError(
                "the teacher's and the students' operations cannot be quantised apart from each other",
                expected="a method whose students call no module of the teacher",
                fix="please report this method",
            )
