"""Exports a fused detector as a bundle, which appears only after it was checked."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import onnx
import torch
from msgspec import UNSET
from numpy.typing import NDArray

from kd_export.graph import FusedDetector
from kd_export.onnx.onnx_export import export_onnx, metadata_of
from kd_export.precision.exact_answers import ExactAnswers
from kd_export.precision.precision_graphs import judge_bf16, write_half, write_int8, write_int8_students
from kdx import __version__
from kdx.bundle.bundle import Bundle, TrainingImages
from kdx.bundle.manifest import (
    CROP_SCHEMA,
    GOLDEN_MAPS,
    GOLDEN_SCORES,
    GRAPH,
    INDEX,
    INT8_MAPS,
    INT8_SCORES,
    SCHEMA,
    TRAINING_IMAGES,
    Manifest,
    Provenance,
)
from kdx.bundle.open import open_bundle
from kdx.bundle.pair_spec import encode_pair_spec
from kdx.bundle.store import write_files, write_manifest
from kdx.bundle.variants import COMPUTED, OWN_THRESHOLD, Variant
from kdx.errors import GateError, OptionError
from kdx.imaging.frame_faults import UNKNOWN, limits_of
from kdx.imaging.image_identity import Identity
from kdx.imaging.images import encode_png
from kdx.imaging.samples import are_frames, read_sample
from kdx.imaging.tiling import Tiling
from kdx.progress import SILENT, Progress
from kdx.runtime.backend import Outputs
from kdx.runtime.backend_table import require_backends
from kdx.storage.files import new_folder, refuse_existing
from kdx.storage.npy import encode_array
from kdx.verification.certificate import Certificate, verify, without
from kdx.verification.comparison import Comparison, describe_difference, describe_tolerances
from kdx.verification.held_out import HeldOut
from kdx.verification.judge import Evidence


def export_bundle(
    detector: FusedDetector,
    out: Path,
    *,
    method: str,
    golden_images: Sequence[Path],
    training_images: Sequence[Identity],
    provenance: Provenance,
    left_out: Sequence[Identity] = (),
    max_batch: int = 32,
    tiling: Tiling | None = None,
    precisions: Collection[str] = ("fp32",),
    calibration_images: Sequence[Path] = (),
    held_out: HeldOut | None = None,
    evaluation_images: Sequence[tuple[Path, bool]] = (),
    int8_students: FusedDetector | None = None,
    force: bool = False,
    progress: Progress = SILENT,
) -> tuple[Bundle, Certificate, dict[str, str]]:
    """Export a detector as a bundle, which appears after its graph was compared in every backend.

    Args:
        detector: The FP32 reference, on the CPU.
        out: The bundle's folder, ``NAME.kdx``.
        method: The method's name.
        golden_images: Real images to compare every backend on.
        training_images: Hashes of the images trained on.
        left_out: Hashes of good images that the training left out, and that no calibration uses.
        provenance: The origin of the detector, and of the INT8 students; its border weights are set
            to the detector's.
        max_batch: Largest batch of the graph.
        tiling: How larger frames are cut into tiles, or None.
        precisions: Precisions in which to write the graph; FP32 is always among them.
        calibration_images: Good images that were trained on, whose activations set the scales of
            INT8.
        held_out: Good images that were not trained on, and synthetic defects on them: BF16 and INT8
            must keep FP32's verdicts on them, and are refused without them.
        evaluation_images: Labelled images, and whether each is defective: BF16 and INT8 must
            separate them as FP32 does.
        int8_students: The detector whose students were trained as INT8 networks, with its
            quantizer; None to quantise the detector itself for INT8.
        force: Replace an existing bundle; nothing else is replaced.
        progress: Shows the steps.

    Returns:
        The bundle, its certificate, and why BF16 or INT8 is missing although it was asked for: the
        gate refused it, or the comparison in another backend or at another batch size did.

    Raises:
        ValueError: There are INT8 students without an origin, or the other way round.
        OptionError: Labelled images of whole frames, for a bundle of tiles.
        OutputError: ``out`` exists.
        BackendError: No backend is installed to check with.
        GateError: The graph breaks its contract, or FP32 or FP16 disagrees with the reference in a
            backend. Nothing is written.
    """
    if (int8_students is None) != (provenance.int8 is None):
        raise ValueError("`int8_students` and the origin in `provenance.int8` belong together")
    if tiling is not None and evaluation_images:
        raise OptionError(
            "the gate judges tiles, and labelled images are whole frames",
            fix="export without labelled images, then compare: kdx evaluate BUNDLE DATA --precision int8",
        )
    refuse_existing(out, force=force and (out / INDEX).is_file())
    backends = require_backends()  # an export is checked before it appears
    with progress.task("exporting", 3) as task, new_folder(out, force=force) as folder:
        images = _arrays(detector, golden_images)
        task.advance(1, "graph")
        metadata = metadata_of(
            detector, method=method, kdx_version=__version__, bundle_schema=SCHEMA, max_batch=max_batch
        )
        export_onnx(detector, folder / GRAPH, max_batch=max_batch, metadata=metadata)
        task.advance(1, "checking")
        variants: dict[str, Variant] = {}
        refused: dict[str, str] = {}
        exact = ExactAnswers(onnx.load(folder / GRAPH), _evidence(detector, images, evaluation_images, held_out))
        if "fp16" in precisions:
            variants["fp16"] = write_half(folder, detector.spec, images)
        if held_out is None:
            refused = dict.fromkeys(
                OWN_THRESHOLD.intersection(precisions), "there are no held-out images to judge it on"
            )
        if "bf16" in precisions and held_out is not None:
            judged, refused["bf16"] = judge_bf16(exact)
            variants |= {"bf16": judged} if judged else {}
        if "int8" in precisions and held_out is not None:
            if int8_students is not None:
                written, refused["int8"] = _write_students(folder, int8_students, max_batch, metadata, exact)
            else:
                calibrating = _calibrating(detector, calibration_images, tiling)
                written, refused["int8"] = write_int8(folder, exact, calibrating, progress)
            variants |= {"int8": written} if written else {}
        listed = TrainingImages(*(sorted(each, key=lambda image: image.file) for each in (training_images, left_out)))
        write_files(folder, _files(detector, golden_images, images, listed))
        provenance = msgspec.structs.replace(provenance, border_weights=list(detector.border_weights))
        if "int8" not in variants:
            provenance = _without_int8_students(provenance)
        in_bands = tiling is not None and tiling.bands is True
        bundle = write_manifest(
            folder,
            Manifest(
                schema=provenance.schema if detector.input_spec.crop is UNSET and not in_bands else CROP_SCHEMA,
                kdx_version=__version__,
                method=method,
                pair_spec=encode_pair_spec(detector.spec),
                input=detector.input_spec,
                map_size=detector.size,
                field_of_view=detector.field_of_view,
                max_batch=max_batch,
                golden=[path.name for path in golden_images],
                files={},
                provenance=provenance,
                variants=variants,
                frame_limits=limits_of(images) if are_frames(images, detector.input_spec, tiling) else UNKNOWN,
                tiling=tiling,
            ),
        )
        bundle, certificate, spoiled = _certified(bundle, verify(open_bundle(folder), backends))
        task.advance()
    reasons = {precision: reason for precision, reason in {**refused, **spoiled}.items() if reason}
    return Bundle(out, bundle.manifest), msgspec.structs.replace(certificate, bundle=out.name), reasons


def _arrays(detector: FusedDetector, paths: Sequence[Path]) -> NDArray[np.uint8]:
    """Read images, resized if the detector was exported for a different camera."""
    if not paths:
        raise GateError("there are no images to check the graph with", fix="train again")
    return np.stack([read_sample(path, detector.input_spec) for path in paths])


def _calibrating(detector: FusedDetector, paths: Sequence[Path], tiling: Tiling | None) -> NDArray[np.uint8]:
    """Read the images that set the scales of INT8: one tile of each frame, at changing places."""
    spec = detector.input_spec
    return np.stack([read_sample(path, spec, tiling, index / len(paths)) for index, path in enumerate(paths)])


class _Files:
    """Images that are read while they are iterated over, so that they need not fit into memory."""

    def __init__(self, detector: FusedDetector, paths: Sequence[Path]) -> None:
        self.detector, self.paths = detector, paths

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        for path in self.paths:
            yield _arrays(self.detector, [path])[0]


def _evidence(
    detector: FusedDetector,
    golden: NDArray[np.uint8],
    evaluated: Sequence[tuple[Path, bool]],
    held_out: HeldOut | None,
) -> Evidence:
    if not evaluated:
        return Evidence(golden, held_out=held_out)
    paths, labels = zip(*evaluated, strict=True)
    images = _Files(detector, paths)
    return Evidence(golden, images=images, is_defective=np.array(labels), held_out=held_out)


def _files(
    detector: FusedDetector, paths: Sequence[Path], images: NDArray[np.uint8], listed: TrainingImages
) -> dict[str, bytes]:
    step = -1 if detector.input_spec.channel_order == "bgr" and detector.input_spec.channels == 3 else 1
    return {
        **{
            f"golden/{path.name}": encode_png(np.ascontiguousarray(image[..., ::step]))
            for path, image in zip(paths, images, strict=True)
        },
        **_encoded(_answers(detector, images), GOLDEN_MAPS, GOLDEN_SCORES),
        TRAINING_IMAGES: msgspec.json.encode(listed),
    }


def _write_students(
    folder: Path, students: FusedDetector, max_batch: int, metadata: dict[str, str], exact: ExactAnswers
) -> tuple[Variant | None, str]:
    """Write the graph of INT8 students and what they answer in PyTorch, if it passes its gate."""
    reference = _answers(students, exact.evidence.golden)
    written, reason = write_int8_students(folder, students, max_batch, metadata, exact, reference)
    if written:
        write_files(folder, _encoded(reference, INT8_MAPS, INT8_SCORES))
    return written, reason


def _answers(detector: FusedDetector, images: NDArray[np.uint8]) -> Outputs:
    """Return what a detector answers in PyTorch, one image at a time."""
    with torch.inference_mode():
        maps, scores = zip(*(detector(torch.from_numpy(image[None])) for image in images), strict=True)
    return Outputs(torch.cat(maps).numpy(), torch.cat(scores).numpy())


def _encoded(answers: Outputs, maps: str, scores: str) -> dict[str, bytes]:
    return {maps: encode_array(answers.maps), scores: encode_array(answers.scores)}


def _without_int8_students(provenance: Provenance) -> Provenance:
    return msgspec.structs.replace(provenance, int8=None)


def _certified(bundle: Bundle, certificate: Certificate) -> tuple[Bundle, Certificate, dict[str, str]]:
    """Leave out variants that passed their gate but fail the certificate.

    Returns:
        The bundle and the certificate without them, and why they were left out.

    Raises:
        GateError: FP32 or FP16 fails, which is a fault and not a reason to leave it out.
    """
    failed = [comparison for comparison in certificate.comparisons if not comparison.passed]
    allowed = {name: describe_tolerances(each) for name, each in certificate.tolerances.items()}
    for comparison in failed:
        if comparison.precision not in OWN_THRESHOLD:
            raise GateError(
                f"the exported graph does not decide what was trained ({_where(comparison)})",
                expected=allowed[comparison.precision],
                received=describe_difference(comparison),
                fix="nothing was written; please report this",
            )
    if not failed:
        return bundle, certificate, {}
    reasons = {
        each.precision: f"{_where(each)}: {describe_difference(each)}; allowed: {allowed[each.precision]}"
        for each in reversed(failed)  # the first of each precision is named
    }
    manifest = bundle.manifest
    for precision in reasons.keys() - COMPUTED:
        bundle.graph_of(precision).path.unlink()
    variants = {name: variant for name, variant in manifest.variants.items() if name not in reasons}
    provenance = manifest.provenance
    if "int8" in reasons and provenance.int8 is not None:
        provenance = _without_int8_students(provenance)
        shutil.rmtree((bundle.path / INT8_MAPS).parent)
    kept = msgspec.structs.replace(manifest, provenance=provenance, variants=variants)
    kept = msgspec.structs.replace(kept, schema=kept.needed_schema)
    bundle = write_manifest(bundle.path, kept)
    return bundle, without(certificate, reasons), reasons


def _where(comparison: Comparison) -> str:
    return f"{comparison.backend}, {comparison.precision}, batch {comparison.batch}"
