"""Verdicts on the answers of a server that runs only a bundle's graph.

``kdx triton`` writes the decision rule into the parameters of the model; :func:`verdict_of_answer`
reads it there, and decides with the code of :class:`kdx.Detector`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from kdx.bundle.graph_contract import MAP, SCORE
from kdx.bundle.manifest import Manifest
from kdx.bundle.stored_threshold import Threshold
from kdx.calibration.validity import CalibrationWarning
from kdx.decision.answers import AnswerLimits, answer_limits
from kdx.decision.good_scores import GoodScores
from kdx.decision.rule import DecisionRule
from kdx.decision.verdict import Verdict
from kdx.errors import InputError
from kdx.imaging.frame_faults import FrameLimits
from kdx.imaging.images import InputSpec

_VERSION = 1
_PREFIX = "kdx."
# Characters of a parameter in a message: a thousand scores are no message.
_SHOWN = 300
_WRITE_AGAIN = "write the model again, with the same kdx as the client's: kdx triton BUNDLE -o REPOSITORY --force"


class _Rules(msgspec.Struct, frozen=True, kw_only=True, rename=lambda name: _PREFIX + name):
    """The decision rule as parameters: each by its name after ``kdx.``, as JSON.

    Attributes:
        rules: Version of these parameters.
        input: What the graph accepts.
        map_size: Height and width of the anomaly map.
        frame_limits: What frames of real parts look like.
        answer_limits: What holds of every answer that the method can give.
        threshold: The calibrated score, or None.
        review_threshold: The score at which the review band begins, or None.
        pixel_threshold: The calibrated map value, or None.
        doubt: What is not known of the thresholds, in words, or None.
        scores: The scores of the good images of the calibration that the bundle keeps, for
            p-values, or None.
        images: The number of those images, or None.
    """

    rules: int = _VERSION
    input: InputSpec
    map_size: tuple[int, int]
    frame_limits: FrameLimits
    answer_limits: AnswerLimits
    threshold: float | None = None
    review_threshold: float | None = None
    pixel_threshold: float | None = None
    doubt: str | None = None
    scores: list[float] | None = None
    images: int | None = None

    def __post_init__(self) -> None:
        """Refuse scores that p-values cannot stand on."""
        if any(not low <= high for low, high in pairwise(self.scores or ())):
            raise ValueError(f"the numbers of {_PREFIX}scores do not rise")

    @property
    def rule(self) -> DecisionRule:
        """The rule that turns the server's answer into a verdict."""
        return DecisionRule(
            threshold=self.threshold,
            review_threshold=self.review_threshold,
            pixel_threshold=self.pixel_threshold,
            good_scores=GoodScores.of_kept(self.scores or (), self.images or 0),
            frame_limits=self.frame_limits,
            answer_limits=self.answer_limits,
        )


_NAMES = tuple(field.encode_name for field in msgspec.structs.fields(_Rules))
_REQUIRED = (_NAMES[0], *(field.encode_name for field in msgspec.structs.fields(_Rules) if field.required))


def parameters_of(manifest: Manifest, threshold: Threshold | None, doubt: str | None = None) -> dict[str, str]:
    """Return the parameters from which :func:`verdict_of_answer` decides.

    Args:
        manifest: The manifest of a bundle without tiles, region of interest and level map, which
            change a graph's map.
        threshold: The threshold of the precision and the runtime that are served; None leaves
            everything undecided.
        doubt: What is not known of that threshold, of which clients are warned, see
            :class:`kdx.calibration.validity.CalibrationValidity`.
    """
    rules = _Rules(
        input=manifest.input,
        map_size=manifest.map_size,
        frame_limits=manifest.frame_limits,
        answer_limits=answer_limits(manifest.pair, manifest.map_size),
        doubt=doubt,
    )
    if threshold is not None:
        review = threshold.review.score if threshold.review else None
        rules = msgspec.structs.replace(
            rules,
            threshold=threshold.score,
            review_threshold=review,
            pixel_threshold=threshold.pixel,
            scores=threshold.scores or None,
            images=threshold.images if threshold.scores else None,
        )
    values = msgspec.to_builtins(rules)
    return {name: msgspec.json.encode(value).decode() for name, value in values.items() if value is not None}


def verdict_of_answer(
    anomaly_map: NDArray[np.float32],
    anomaly_score: NDArray[np.float32],
    frame: NDArray[np.uint8],
    parameters: Mapping[str, Any],
) -> Verdict:
    """Return the verdict on the answer of a server of ``kdx triton`` for one frame.

    Args:
        anomaly_map: The output of this name: float32 ``(h, w)`` or ``(1, h, w)``.
        anomaly_score: The output of this name: float32 of one value.
        frame: The frame that was sent: uint8 ``(H, W, C)``, or ``(H, W)`` for mono models. It is
            checked for faults.
        parameters: The parameters of the model's configuration, as ``tritonclient`` returns them
            over gRPC or HTTP.

    Raises:
        InputError: The frame does not fit the model; an output is missing or of another model; or
            the parameters do not hold the whole decision rule, for example those of an older kdx.

    Warns:
        CalibrationWarning: Something is not known of the thresholds.
    """
    rules = _rules_of(parameters)
    if rules.doubt is not None:
        warnings.warn(rules.doubt, CalibrationWarning, stacklevel=2)
    image = np.ascontiguousarray(rules.input.check(frame))
    found = _output(MAP, anomaly_map, rules.map_size)
    return rules.rule.verdict(found, _output(SCORE, anomaly_score, (1,)), image)


def _rules_of(parameters: Mapping[str, Any]) -> _Rules:
    texts = {name: _text_of(parameters[name]) for name in _NAMES if name in parameters}
    try:
        values = {name: msgspec.json.decode(text) for name, text in texts.items()}
        if values.get(f"{_PREFIX}rules", 0) == _VERSION:
            return msgspec.convert(values, _Rules)
        problem = "they are those of another version of kdx"
    except (msgspec.MsgspecError, InputError) as error:
        problem = str(error)
    raise InputError(
        f"the model's parameters do not hold the decision rule: {problem}",
        expected=f"{', '.join(_REQUIRED)}, the first of them {_VERSION}, and the thresholds as finite numbers",
        received=", ".join(f"{name} = {_shortened(text)}" for name, text in texts.items()) or "none of them",
        fix=_WRITE_AGAIN,
    )


def _text_of(value: Any) -> str:
    """Return the text of a parameter, which may be a string, JSON or a message of Triton."""
    text = value.get("string_value") if isinstance(value, Mapping) else getattr(value, "string_value", value)
    return str(text)


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _output(name: str, values: Any, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return an output for one image in its shape, with or without the batch before it."""
    is_array = isinstance(values, np.ndarray) and values.dtype == np.float32
    if not is_array or values.shape not in {shape, (1, *shape)}:
        raise InputError(
            f"'{name}' is not the answer for one frame",
            expected=f"float32 {shape} or {(1, *shape)}",
            received=f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__,
            fix="ask for both outputs, and pass on one frame's part of a batch: maps[i], scores[i]",
        )
    found: NDArray[np.float32] = values.reshape(shape)
    return found
