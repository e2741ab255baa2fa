"""The content of ``bundle.json``, and the names of the files of a bundle."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated

import msgspec

from kdx.bundle.pair_spec import PairSpec, ScoreRule, decode_map_rule, decode_pair_spec
from kdx.bundle.stored_threshold import Threshold
from kdx.bundle.teacher_comparison import TeacherComparison, worse_teacher
from kdx.bundle.variants import OWN_THRESHOLD, Variant
from kdx.imaging.frame_faults import FrameLimits
from kdx.imaging.images import InputSpec
from kdx.imaging.tiling import Tiling
from kdx.remarks import Remark
from kdx.storage.json_records import BUNDLE_INDEX
from kdx.text import agreeing

SCHEMA = 2
# The schema of a bundle with INT8 students. A kdx that does not know it would compare them with
# FP32.
INT8_SCHEMA = 3
# The schema of a bundle whose threshold a person set. A kdx that does not know it would take the
# threshold for an edited one.
BY_HAND_SCHEMA = 4
# The schema of a bundle whose networks see a window of the frame, or whose frames are read in
# bands. A kdx that does not know it would take places in the map for others in the frame, or read
# frames whole.
CROP_SCHEMA = 4
NEWEST_SCHEMA = BY_HAND_SCHEMA
INDEX = BUNDLE_INDEX
SIGNATURE = "bundle.sig"
GRAPH = "model.onnx"
GOLDEN_MAPS = "golden/anomaly_map.npy"
GOLDEN_SCORES = "golden/anomaly_score.npy"
INT8_MAPS = "golden/int8/anomaly_map.npy"
INT8_SCORES = "golden/int8/anomaly_score.npy"
TRAINING_IMAGES = "training_images.json"
ROI = "roi.png"
LEVEL = "position_level.npy"

_Count = Annotated[int, msgspec.Meta(ge=1)]
_Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
_FileName = Annotated[str, msgspec.Meta(pattern=r"^[^/\\:\x00]+$")]
# The runtimes that may have measured a threshold of schema 1, which did not record its runtime.
# Only OpenVINO computes in BF16.
_SCHEMA_1_RUNTIMES = {"bf16": ("openvino",), "int8": ("onnxruntime", "openvino")}
_Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class Int8Students(msgspec.Struct, frozen=True, kw_only=True):
    """The origin of students that were trained as INT8 networks, from the quantised teacher.

    Attributes:
        checkpoint_sha256: The hash of the tensors of their checkpoint.
        teacher_sha256: The hash of the tensors of the teacher that was quantised.
        epoch: The number of epochs that they were trained for, after the training in FP32.
        headroom: At what multiple of their limit values are clipped. The limit is the largest
            activation on training images, or lower where a few are far larger than all others.
        residual_additions: The number of additions that are quantised; absent in bundles of earlier
            releases. It decides how far runtimes may be from the reference, see
            :mod:`kdx.verification.tolerances`.
    """

    checkpoint_sha256: str
    teacher_sha256: str
    epoch: int
    headroom: float
    residual_additions: int | msgspec.UnsetType = msgspec.UNSET


class Provenance(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The origin of a bundle.

    Attributes:
        created: The time of the export, UTC, ISO 8601.
        checkpoint_sha256: The hash of the checkpoint's tensors.
        epoch: The number of trained epochs at that checkpoint.
        backbone: timm's names of the teacher's networks.
        weights: The source of the teacher's weights.
        data_sha256: The hash over the training images.
        trained_with: The versions of the packages that trained.
        exported_with: The versions of the packages that exported.
        planned_epochs: The number of epochs that the training should have; None if it was finished.
        teacher_comparisons: What a compact teacher sees of defects, compared with each of its
            sources; empty for other teachers.
        int8: The origin of the students of the INT8 graph; None where that graph was made from the
            FP32 students.
        border_weights: The weights by which the graph multiplies each of its maps, by the distance
            from the border in pixels of the map, from the border inwards; an empty list for a map
            without them, and for no map with them. See :mod:`kd_export.graph.border`.
        earlier_images: The number of images among ``training_images.json`` that only earlier runs
            were trained on, with whose students this training started.
        cycles: The epochs of each cycle of the schedule; empty for a single one.
    """

    created: str
    checkpoint_sha256: str
    epoch: int
    backbone: str
    weights: str
    data_sha256: str
    trained_with: dict[str, str]
    exported_with: dict[str, str]
    planned_epochs: int | None = None
    teacher_comparisons: list[TeacherComparison] = []
    int8: Int8Students | None = None
    border_weights: list[tuple[float, ...]] = []
    earlier_images: int = 0
    cycles: list[int] = []

    @property
    def schema(self) -> int:
        """The schema of a bundle of this origin."""
        return SCHEMA if self.int8 is None else INT8_SCHEMA

    def remarks(self) -> list[Remark]:
        """Return remarks on a training that was not finished, and on a compact teacher."""
        found = worse_teacher(self.teacher_comparisons)
        if self.planned_epochs is None:
            return found
        fix = "finish the training with kdx train --resume, and export again"
        return [*unfinished(self.epoch, self.planned_epochs, fix), *found]


def unfinished(epochs: int, planned: int, fix: str) -> list[Remark]:
    """Return a remark on a training with fewer epochs than planned."""
    text = f"of {planned} {agreeing(planned, '[epoch|epochs]')} trained: the training was not finished; {fix}"
    return [Remark(kind="unfinished_training", text=text, count=epochs, first=())]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The content of ``bundle.json``.

    Attributes:
        schema: The version of this layout, see :attr:`needed_schema`; a newer one is refused.
        kdx_version: The version of kdx that wrote the bundle.
        method: The name of the method.
        pair_spec: The pair's declaration as JSON: taps, distances, combine and score rules; see
            :attr:`pair`.
        input: The input that the graph accepts; in a bundle for large frames, that of a tile.
        map_size: The height and width of the anomaly map.
        field_of_view: The share of each side of the image, centred, that the map covers; below 1
            for methods that crop.
        max_batch: The largest batch that the graph was exported for.
        golden: The names of the golden images, in the order of the reference maps and scores.
        files: The SHA-256 of every other file in the bundle, by relative POSIX path.
        provenance: The origin of the bundle.
        threshold: The calibrated threshold of FP32 and FP16 in every runtime, or None.
        variants: The graphs in other precisions than FP32, by precision.
        runtime_thresholds: The thresholds of BF16 and INT8, by precision and by the runtime that
            measured them: their scores differ between runtimes by more than the uncertainty of a
            threshold.
        thresholds: The thresholds of BF16 and INT8 in bundles of schema 1, by precision; see
            :meth:`own_thresholds`.
        frame_limits: The limits by which frames without a part are detected, from the golden images
            and, after the calibration, from good images.
        tiling: How frames larger than the graph's input are cut into tiles, or None.
        calibration_images: The keys of the images that chose the thresholds, good and defective,
            of those that the level map was fitted on, and of good images that show no part, see
            :attr:`kdx.imaging.image_identity.Identity.key`; absent without a calibration, or with
            one of an earlier release.
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
    calibration_images: list[_Sha256] | msgspec.UnsetType = msgspec.UNSET

    @property
    def needed_schema(self) -> int:
        """The oldest schema that holds everything in this manifest."""
        is_by_hand = self.threshold is not None and self.threshold.by_hand is not msgspec.UNSET
        is_in_bands = self.tiling is not None and self.tiling.bands is True
        if is_by_hand or is_in_bands or self.input.crop is not msgspec.UNSET:
            return BY_HAND_SCHEMA
        return self.provenance.schema

    @property
    def pair(self) -> PairSpec | None:
        """The pair's declaration, typed; None if it is not one that this kdx knows."""
        return decode_pair_spec(self.pair_spec)

    @property
    def map_rule(self) -> ScoreRule | None:
        """How the returned map becomes the score; None if the score needs more than that map."""
        return decode_map_rule(self.pair_spec)

    @property
    def camera(self) -> InputSpec:
        """The input of the detector: that of the graph, or the frames that are cut into tiles."""
        if self.tiling is None:
            return self.input
        height, width = self.tiling.frame
        bands = self.tiling.bands
        return msgspec.structs.replace(self.input, height=height, width=width, fixed_size=True, bands=bands)

    @property
    def camera_map_size(self) -> tuple[int, int]:
        """The height and width of the map that the detector returns."""
        if self.tiling is None:
            return self.map_size
        height, width = self.tiling.frame
        return height * self.map_size[0] // self.input.height, width * self.map_size[1] // self.input.width

    def threshold_of(self, precision: str, runtime: str | None = None) -> Threshold | None:
        """Return the threshold of a precision in a runtime, or None if there is no valid one.

        A threshold that was calibrated with another region of interest or level map is not valid.

        Args:
            precision: The precision of the graph.
            runtime: The runtime that computes the scores, see
                :func:`kdx.runtime.backend_table.runtime_of`. FP32 and FP16 have one threshold for
                all runtimes, and need none.
        """
        return None if self.changed_since(precision, runtime) else self.stored_threshold(precision, runtime)

    def stored_threshold(self, precision: str, runtime: str | None = None) -> Threshold | None:
        """Return the latest threshold, even if region of interest or level map changed since."""
        if precision not in OWN_THRESHOLD:
            return self.threshold
        if runtime is None:
            raise ValueError(f"{precision} has one threshold for each runtime: name the runtime")
        return self.own_thresholds(precision).get(runtime)

    def own_thresholds(self, precision: str) -> Mapping[str, Threshold]:
        """Return the stored thresholds of BF16 or INT8 by runtime.

        Schema 1 had one threshold for all runtimes, and did not record the runtime that measured
        it. It is returned for each runtime that may have; :meth:`is_runtime_known` tells whether
        only one may have.
        """
        if precision in self.runtime_thresholds or precision not in self.thresholds:
            return self.runtime_thresholds.get(precision, {})
        return dict.fromkeys(_SCHEMA_1_RUNTIMES.get(precision, ()), self.thresholds[precision])

    def is_runtime_known(self, precision: str) -> bool:
        """Whether the runtime that measured a precision's threshold is recorded, or certain."""
        is_recorded = precision in self.runtime_thresholds or precision not in self.thresholds
        return is_recorded or len(_SCHEMA_1_RUNTIMES.get(precision, ())) == 1

    def decides_alike(self, precision: str, runtime: str) -> bool:
        """Whether a precision has a threshold in a runtime, if FP32 has one."""
        return self.threshold_of("fp32") is None or self.threshold_of(precision, runtime) is not None

    def changed_since(self, precision: str = "fp32", runtime: str | None = None) -> str | None:
        """Return in words what was changed since the calibration and makes it invalid, or None."""
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
        images: Collection[str] | None = None,
    ) -> Manifest:
        """Return a manifest of the present schema with a new calibration.

        Args:
            threshold: The threshold of FP32.
            own: All thresholds of BF16 and INT8, by precision and runtime; others are removed. None
                keeps the stored ones.
            frame_limits: The limits by which frames without a part are detected; None keeps the
                stored ones.
            images: The keys of the images of this calibration; None if they are not known.
        """
        limits = frame_limits or self.frame_limits
        keys = msgspec.UNSET if images is None else sorted(images)
        changed = msgspec.structs.replace(self, threshold=threshold, frame_limits=limits, calibration_images=keys)
        changed = msgspec.structs.replace(changed, schema=changed.needed_schema)
        if own is None:
            return changed
        kept = {precision: dict(by_runtime) for precision, by_runtime in own.items() if by_runtime}
        return msgspec.structs.replace(changed, runtime_thresholds=kept, thresholds={})

    @property
    def roi_sha256(self) -> str | None:
        """The hash of the region of interest, or None."""
        return self.files.get(ROI)

    @property
    def level_sha256(self) -> str | None:
        """The hash of the level map, or None."""
        return self.files.get(LEVEL)

    def is_own_reference(self, precision: str) -> bool:
        """Whether a precision is compared with the fake-quantised module and not with FP32.

        That module, in PyTorch, is what INT8 students were trained as.
        """
        return precision == "int8" and self.provenance.int8 is not None

    def reference_files(self, precision: str) -> tuple[str, str]:
        """Return the files with the maps and the scores that a precision is compared with."""
        return (INT8_MAPS, INT8_SCORES) if self.is_own_reference(precision) else (GOLDEN_MAPS, GOLDEN_SCORES)

    @property
    def precisions(self) -> list[str]:
        """The precisions of the bundle's graphs."""
        return ["fp32", *self.variants]
