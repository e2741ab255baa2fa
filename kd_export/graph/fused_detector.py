"""The fused detector: the one module that is evaluated, calibrated and exported."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kd_export.graph.fake_quantizer import FakeQuantizer
from kd_export.graph.fold import fold_batch_norm, fold_input
from kd_export.graph.int8 import Int8Plan
from kd_export.graph.preprocess import Preprocess, input_mixing
from kd_export.graph.tail import Tail
from kdx.bundle.pair_spec import PairSpec
from kdx.errors import GateError, OptionError
from kdx.imaging.images import InputSpec


class FusedDetector(nn.Module):
    """Computes anomaly map and score of a uint8 image, from preprocessing to score.

    Args:
        pair: A module that takes the normalised image ``(N, 3, h, w)`` and returns the (teacher,
            student) features of each of ``spec.taps``. It is copied; the copy's batch normalisation
            is folded, and so is what mixes its input's channels, which may leave one for a mono
            camera.
        spec: The pair's declaration.
        input_spec: What comes from the camera.
        size: Height and width at which the networks run, and of the map.
        mean: The teacher's input mean per RGB channel, of values in [0, 1].
        std: The teacher's input standard deviation per RGB channel, of values in [0, 1].
        resize_to: Height and width to which the image is brought before ``size`` is cut from its
            centre; None: no crop.
        border_weights: As for :class:`.Tail`.

    Attributes:
        field_of_view: Share of each side of the image, centred, that the networks see and the map
            covers.
        strides: The stride of each tap, in pixels of the map.
        quantizer: The context in which the networks are computed as in INT8; None for FP32. A graph
            is exported of FP32, and then quantised.
    """

    def __init__(
        self,
        pair: nn.Module,
        spec: PairSpec,
        input_spec: InputSpec,
        size: tuple[int, int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        resize_to: tuple[int, int] | None = None,
        border_weights: Sequence[tuple[float, ...]] = (),
    ) -> None:
        super().__init__()
        self.spec = spec
        self.input_spec = input_spec
        self.size = size
        self.statistics = mean, std
        self.resize_to = resize_to
        self.border_weights = tuple(border_weights)
        self.quantizer: FakeQuantizer | None = None
        self.field_of_view = size[0] / resize_to[0] if resize_to else 1.0
        self.pair = copy.deepcopy(pair).cpu().eval().requires_grad_(False)
        mixing = input_mixing(input_spec, mean, std)
        with torch.no_grad():
            # Noise of the normalised image's statistics: it reaches every unit, where zeros would
            # hide a fault.
            generator = torch.Generator().manual_seed(0)
            example = torch.randn(1, 3, *size, generator=generator)
            features = fold_batch_norm(self.pair, self._flat_features, example)
            unmixed = torch.randn(1, mixing.shape[1], *size, generator=generator) / mixing.max()
            folded = fold_input(self.pair, self._flat_features, unmixed, mixing)
        compared = list(zip(features[::2], features[1::2], strict=True))
        _require_equal_shapes(spec, compared)
        tap_shapes = [(t.shape[1], t.shape[2], t.shape[3]) for t, _ in compared]
        self.preprocess = Preprocess(input_spec, size, mean, std, scale_is_folded=folded, resize_to=resize_to)
        self.strides = [round(size[0] / shape[1]) for shape in tap_shapes]
        self.tail = Tail(spec, tap_shapes, size, border_weights)
        self.requires_grad_(False).eval()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Judge a batch.

        Args:
            image: uint8 ``(N, H, W, C)`` as declared by ``input_spec``.

        Returns:
            ``anomaly_map`` float32 ``(N, h, w)`` and ``anomaly_score`` float32 ``(N, 1)``; raw, no
            threshold.
        """
        outputs: tuple[Tensor, Tensor] = self.tail(self._compared(image))
        return outputs

    def unweighted_maps(self, image: Tensor) -> list[Tensor]:
        """Return the maps before their border weights, ``(N, h, w)`` each, of images as above."""
        return self.tail.unweighted(self._compared(image))

    def _compared(self, image: Tensor) -> list[tuple[Tensor, Tensor]]:
        x = self.preprocess(image)
        with self.quantizer or contextlib.nullcontext():
            compared: list[tuple[Tensor, Tensor]] = self.pair(x)
        return compared

    def without_border_weights(self) -> FusedDetector:
        """Return a copy for tiles, whose borders lie inside of the frame."""
        copied = copy.deepcopy(self)
        copied.border_weights, copied.tail.border = (), nn.ModuleList().eval()
        return copied

    def quantized(self, plan: Int8Plan) -> FusedDetector:
        """Return a copy that computes what the INT8 graph of a plan computes."""
        copied = copy.deepcopy(self)
        copied.quantizer = FakeQuantizer(copied.pair, plan)
        return copied

    @torch.no_grad()
    def for_input(self, input_spec: InputSpec) -> FusedDetector:
        """Return a copy for a camera of another size, or with another order of channels.

        Raises:
            GateError: The networks do not take the channels in the other order.
        """
        copied = copy.deepcopy(self)
        is_folded = self.preprocess.scale is None
        if is_folded and input_spec.channel_order != self.input_spec.channel_order and input_spec.channels == 3:
            example = torch.randn(1, 3, *self.size, generator=torch.Generator().manual_seed(0))
            if not fold_input(copied.pair, copied._flat_features, example, torch.eye(3).flip(0)):
                raise GateError(
                    f"the order of channels '{input_spec.channel_order}' cannot be folded into the weights",
                    fix="deliver images in the order of the training, and please report this backbone",
                )
        copied.input_spec = input_spec
        copied.preprocess = Preprocess(
            input_spec, self.size, *self.statistics, scale_is_folded=is_folded, resize_to=self.resize_to
        )
        return copied.requires_grad_(False).eval()

    def _flat_features(self, x: Tensor) -> list[Tensor]:
        return [feature for pair in self.pair(x) for feature in pair]


def _require_equal_shapes(spec: PairSpec, compared: list[tuple[Tensor, Tensor]]) -> None:
    """Check that a student's features have the size of the teacher's.

    A student that mirrors its teacher differs if its convolutions do not pad.
    """
    for tap, (teacher, student) in zip(spec.taps, compared, strict=True):
        if teacher.shape != student.shape:
            raise OptionError(
                f"the student's feature at '{tap.name}' does not fit the teacher's",
                expected=" × ".join(map(str, teacher.shape[1:])),
                received=" × ".join(map(str, student.shape[1:])),
                fix="choose a backbone whose convolutions pad, as all of timm's do, or kdx train DATA --method stpm",
            )
