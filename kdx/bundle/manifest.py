"""What a bundle says of itself: the content of ``bundle.json``, and the names of the files that it always holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec

from kdx.bundle.pair_spec import PairSpec, ScoreRule, decode_pair_spec
from kdx.bundle.variants import OWN_THRESHOLD, Variant
from kdx.imaging.frame_faults import FrameLimits
from kdx.imaging.images import InputSpec
from kdx.imaging.tiling import Tiling

SCHEMA = 2
INDEX = "bundle.json"
SIGNATURE = "bundle.sig"
GRAPH = "model.onnx"
GOLDEN_MAPS = "golden/anomaly_map.npy"
GOLDEN_SCORES = "golden/anomaly_score.npy"
TRAINING_IMAGES = "training_images.json"
ROI = "roi.png"
LEVEL = "position_level.npy"

_Count = Annotated[int, msgspec.Meta(ge=1)]
_Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
_FileName = Annotated[str, msgspec.Meta(pattern=r"^[^/\\:\x00]+$")]
# Which runtimes may have measured a threshold of schema 1, which did not record it: only OpenVINO computes in BF16.
_SCHEMA_1_RUNTIMES = {"bf16": ("openvino",), "int8": ("onnxruntime", "openvino")}
_Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class ReviewBand(msgspec.Struct, frozen=True, kw_only=True):
    """Scores that somebody should look at: above ``score``, up to the threshold. Fewer good parts are thrown away.

    Attributes:
        score: Where the band begins, in the graph's raw score.
        false_reject_rate: The rate of good images above it that was asked for.
        interval: Confidence interval of the score at that rate; an end that so few images cannot bound is None.
    """

    score: float
    false_reject_rate: float
    interval: tuple[float | None, float | None]


class DefectChoice(msgspec.Struct, frozen=True, kw_only=True):
    """What a threshold was chosen on that was chosen on defective images too.

    See ``kdx.calibration.rates.best_split``.

    Attributes:
        images: Number of defective images.
        misses: Of those, at or below the threshold.
        false_rejects: Good images above it.
        data_sha256: Hash over the defective images.
    """

    images: int
    misses: int
    false_rejects: int
    data_sha256: str


class LevelFit(msgspec.Struct, frozen=True, kw_only=True):
    """The level map of a threshold that was chosen with normalisation per position, see :mod:`kdx.decision.level_map`.

    Attributes:
        sha256: Hash of the level map.
        images: Number of good images that it was fitted on; none of them chose the threshold.
        data_sha256: Hash over those images.
    """

    sha256: str
    images: int
    data_sha256: str


class Threshold(msgspec.Struct, frozen=True, kw_only=True):
    """A calibrated decision: an image is defective when its score exceeds ``score``.

    Attributes:
        score: The threshold, in the detector's score: the graph's own but for level map and region of interest.
        false_reject_rate: The rate of rejected good images that was asked for; where defects chose the threshold, the
            share of these good images.
        interval: Confidence interval of the score at that rate; an end that so few images cannot bound is None, and
            both of a threshold that was chosen on defects.
        confidence: The interval's coverage, as a fraction.
        images: Number of held-out good images.
        data_sha256: Hash over those images.
        graph_sha256: Hash of the graph whose scores were used.
        created: UTC time, ISO 8601.
        pixel: The map value that the hottest pixel of a good image exceeds at that rate: the score itself where it is
            the map's maximum, and the scale of heat maps everywhere.
        scores: Of those images, ascending; of very many, as many quantiles. What ``kdx drift`` compares with.
        review: The band below the threshold, or None.
        roi_sha256: Hash of the region of interest in which those images were scored; None for whole images.
        level: The level map by which their maps were divided, or None.
        defects: What it was chosen on beside good images, where that was asked for; else None.
    """

    score: float
    false_reject_rate: float
    interval: tuple[float | None, float | None]
    confidence: float
    images: int
    data_sha256: str
    graph_sha256: str
    created: str
    pixel: float | None = None
    scores: list[float] = []
    review: ReviewBand | None = None
    roi_sha256: str | None = None
    level: LevelFit | None = None
    defects: DefectChoice | None = None


class Provenance(msgspec.Struct, frozen=True, kw_only=True):
    """Where a bundle comes from.

    Attributes:
        created: UTC time of the export, ISO 8601.
        checkpoint_sha256: Hash of the checkpoint's tensors.
        epoch: Epochs trained at that checkpoint.
        backbone: timm's names of the teacher's networks.
        weights: Where the teacher's weights came from.
        data_sha256: Hash over the training images.
        trained_with: Versions of the packages that trained.
        exported_with: Versions of the packages that exported.
    """

    created: str
    checkpoint_sha256: str
    epoch: int
    backbone: str
    weights: str
    data_sha256: str
    trained_with: dict[str, str]
    exported_with: dict[str, str]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The content of ``bundle.json``.

    Attributes:
        schema: Version of this layout; a newer one is refused.
        kdx_version: The kdx that wrote it.
        method: The method's name.
        pair_spec: The pair's declaration as JSON: taps, distances, combine and score rules; see :attr:`pair`.
        input: What the graph accepts; of a bundle for large frames, a tile.
        map_size: Height and width of the anomaly map.
        field_of_view: Share of each side of the image, centred, that the map covers; below 1 for methods that crop.
        max_batch: Largest batch the graph was declared for.
        golden: Names of the golden images, in the order of the reference maps and scores.
        files: SHA-256 of every other file in the bundle, by relative POSIX path.
        provenance: Where it comes from.
        threshold: The calibrated decision, or None. FP16 shares it, in every runtime.
        variants: The graphs in other precisions than FP32, by precision.
        runtime_thresholds: Those of BF16 and INT8, by precision and by the runtime that measured it: their scores
            differ from runtime to runtime by more than a threshold's own uncertainty.
        thresholds: Those of BF16 and INT8 in bundles of schema 1, by precision; see :meth:`own_thresholds`.
        frame_limits: What golden images and, once it is calibrated, good images look like: frames that show no part
            look otherwise.
        tiling: How frames larger than the graph's input are cut, or None.
    """

    schema: int
    kdx_version: str
    method: str
    pair_spec: dict[str, object]
    input: InputSpec
    map_size: tuple[_Count, _Count]
    max_batch: _Count
    golden: list[_FileName]
    files: dict[str, _Sha256]
    provenance: Provenance
    field_of_view: _Share = 1.0
    threshold: Threshold | None = None
    variants: dict[str, Variant] = msgspec.field(default_factory=dict)
    runtime_thresholds: dict[str, dict[str, Threshold]] = msgspec.field(default_factory=dict)
    thresholds: dict[str, Threshold] = msgspec.field(default_factory=dict)
    frame_limits: FrameLimits = FrameLimits()
    tiling: Tiling | None = None

    @property
    def pair(self) -> PairSpec | None:
        """The pair's declaration, typed; None if it is not one that this kdx knows."""
        return decode_pair_spec(self.pair_spec)

    @property
    def map_rule(self) -> ScoreRule | None:
        """How the returned map becomes the score; None where the score does not come from that map alone."""
        return None if self.pair is None else self.pair.map_rule

    @property
    def camera(self) -> InputSpec:
        """What the detector accepts: what the graph does, or the frames from which its tiles are cut."""
        if self.tiling is None:
            return self.input
        height, width = self.tiling.frame
        return msgspec.structs.replace(self.input, height=height, width=width, fixed_size=True)

    @property
    def camera_map_size(self) -> tuple[int, int]:
        """Height and width of the map that the detector returns."""
        if self.tiling is None:
            return self.map_size
        height, width = self.tiling.frame
        return height * self.map_size[0] // self.input.height, width * self.map_size[1] // self.input.width

    def threshold_of(self, precision: str, runtime: str | None = None) -> Threshold | None:
        """Return the threshold at which a precision's scores are decided in a runtime, or None without one.

        One that was calibrated in another region of interest, or with another level map, decides nothing.

        Args:
            precision: Of the graph.
            runtime: What computes the scores, see :func:`kdx.runtime.backend_table.runtime_of`. FP32 and FP16 have one
                threshold for all, and need none.
        """
        return None if self.changed_since(precision, runtime) else self.stored_threshold(precision, runtime)

    def stored_threshold(self, precision: str, runtime: str | None = None) -> Threshold | None:
        """Return the latest calibration, whatever region of interest and level map it was made with."""
        if precision not in OWN_THRESHOLD:
            return self.threshold
        if runtime is None:
            raise ValueError(f"{precision} has a threshold for each runtime: name one")
        return self.own_thresholds(precision).get(runtime)

    def own_thresholds(self, precision: str) -> Mapping[str, Threshold]:
        """Return the stored thresholds of BF16 or INT8 by runtime.

        Schema 1 had one for all, measured by a runtime that it did not record. It counts for those that may have
        measured it, and :meth:`is_runtime_known` says where that is a guess.
        """
        if precision in self.runtime_thresholds or precision not in self.thresholds:
            return self.runtime_thresholds.get(precision, {})
        return dict.fromkeys(_SCHEMA_1_RUNTIMES.get(precision, ()), self.thresholds[precision])

    def is_runtime_known(self, precision: str) -> bool:
        """Whether it is recorded, or certain, which runtime measured a precision's threshold."""
        is_recorded = precision in self.runtime_thresholds or precision not in self.thresholds
        return is_recorded or len(_SCHEMA_1_RUNTIMES.get(precision, ())) == 1

    def decides_alike(self, precision: str, runtime: str) -> bool:
        """Whether a precision has a threshold in a runtime wherever FP32 has one; else it could only be undecided."""
        return self.threshold_of("fp32") is None or self.threshold_of(precision, runtime) is not None

    def changed_since(self, precision: str = "fp32", runtime: str | None = None) -> str | None:
        """Say in words what was changed after a calibration, which does not hold since; None: nothing."""
        stored = self.stored_threshold(precision, runtime)
        if stored is None:
            return None
        if stored.roi_sha256 != self.roi_sha256:
            return "the region of interest"
        return "the level map" if (stored.level and stored.level.sha256) != self.level_sha256 else None

    def with_thresholds(
        self,
        threshold: Threshold,
        own: Mapping[str, Mapping[str, Threshold]] | None = None,
        frame_limits: FrameLimits | None = None,
    ) -> Manifest:
        """Return this, in the present schema, with a new calibration.

        Args:
            threshold: FP32's.
            own: All of BF16 and INT8 by precision and runtime; others are removed. None leaves them as they are.
            frame_limits: What frames of real parts look like; None leaves the limits as they are.
        """
        limits = frame_limits or self.frame_limits
        changed = msgspec.structs.replace(self, schema=SCHEMA, threshold=threshold, frame_limits=limits)
        if own is None:
            return changed
        kept = {precision: dict(by_runtime) for precision, by_runtime in own.items() if by_runtime}
        return msgspec.structs.replace(changed, runtime_thresholds=kept, thresholds={})

    @property
    def roi_sha256(self) -> str | None:
        """Hash of the region of interest, or None."""
        return self.files.get(ROI)

    @property
    def level_sha256(self) -> str | None:
        """Hash of the level map, or None."""
        return self.files.get(LEVEL)

    @property
    def precisions(self) -> list[str]:
        """The precisions in which the bundle holds a graph."""
        return ["fp32", *self.variants]
