"""One product in its own process: train, export, calibrate, evaluate, verify, publish.

A bundle under its own name is finished: trained, calibrated and verified. Until then it is
``staged/``.
"""

from __future__ import annotations

import contextlib
import shutil
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from kdx.archive.error_transport import remote_error
from kdx.bundle.manifest import INDEX
from kdx.bundle.open import open_bundle
from kdx.errors import CheckpointError, GateError, KdxError, OutputError
from kdx.folders.data_folder import FolderOptions, ImageFolder, require_good
from kdx.imaging.tiling import TileRequest
from kdx.imaging.value_range import NarrowRanges, counted
from kdx.progress import SILENT
from kdx.storage.cache import nothing_cached
from kdx.storage.files import new_folder, sha256_if_readable, write_atomic
from kdx.storage.json_records import RUN_INDEX, encode_record
from kdx.workflows.many.fingerprints import is_of_earlier_kdx, product_fingerprint
from kdx.workflows.many.product_records import ProductOrder, ProductResult, TeacherOrder, TeacherResult, read_kept

if TYPE_CHECKING:
    from kd_train.evaluation.evaluate import Evaluation
    from kd_train.training.students import TrainResult
    from kdx.bundle.bundle import Bundle


# Times taken beside other products' training say nothing, and must not be remembered.
@nothing_cached()
def make(order: ProductOrder) -> ProductResult:
    """Make a product's bundle unless nothing changed; a failure is part of the result."""
    started = time.perf_counter()
    try:
        folder = _open(order)
        fingerprint = product_fingerprint(order, folder)
        kept = kept_result(order)
        if kept is not None and kept.fingerprint != fingerprint and is_of_earlier_kdx(order, folder, kept):
            kept = msgspec.structs.replace(kept, fingerprint=fingerprint)
            keep(order, kept)
        same = kept is not None and kept.fingerprint == fingerprint
        if kept is not None and same and _is_finished(order, kept):
            return msgspec.structs.replace(kept, state="unchanged")
        stale = stale_run(order, kept, fingerprint)
        keep(order, msgspec.structs.replace(_result(order, "begun", fingerprint), replaces=stale))
        narrow = NarrowRanges()
        with counted(narrow):
            result = _make(order, folder, fingerprint, resume=same and not stale)
        result = msgspec.structs.replace(result, remarks=[*result.remarks, *narrow.remarks()])
    # One product's failure, whatever it is, does not stop the others.
    except Exception as error:
        result = failed(order, remote_error(error).record)
    result = msgspec.structs.replace(result, seconds=round(time.perf_counter() - started, 1))
    keep(order, result)
    return result


def kept_result(order: ProductOrder) -> ProductResult | None:
    """Return the result of an earlier call; None without one, or if it is not readable."""
    return read_kept(order.result, ProductResult)


def keep(order: ProductOrder | TeacherOrder, result: ProductResult | TeacherResult) -> None:
    """Keep what became of a product or of a teacher.

    A failure before anything was begun leaves the record of what is finished, which it still is.
    """
    kept = read_kept(order.result, type(result))
    if result.state == "failed" and kept is not None and kept.state == "trained":
        return
    order.result.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(order.result, encode_record(result))


def stale_run(order: ProductOrder | TeacherOrder, kept: ProductResult | TeacherResult | None, fingerprint: str) -> str:
    """Return the hash of a run that is in the way of another one; empty if there is none.

    A call that begins with other options or images records the hash of the run that it found, and
    that run stays until the new one exists. If the call dies before, the next one has the same
    fingerprint, and the hash says that the run is still the old one, which must not be continued.

    Args:
        order: The product or the teacher.
        kept: The result of the call before; None without one.
        fingerprint: The hash of everything that decides the product or the teacher now.
    """
    found = sha256_if_readable(order.run / RUN_INDEX) or ""
    if kept is not None and kept.fingerprint == fingerprint and kept.replaces != found:
        return ""
    return found


def failed(order: ProductOrder, error: dict[str, str]) -> ProductResult:
    """Return the result of a product that failed: what was begun is continued by the next call."""
    return msgspec.structs.replace(_result(order, "failed", ""), error=error, **begun_before(kept_result(order)))


def begun_before(kept: ProductResult | TeacherResult | None) -> dict[str, str]:
    """Return the fields of a kept result that say which run is continued; none without a result."""
    return {} if kept is None else {"fingerprint": kept.fingerprint, "replaces": kept.replaces}


def _open(order: ProductOrder) -> ImageFolder:
    from kd_train.datasets import open_data

    if order.bundle.exists() and not (order.bundle / INDEX).is_file():
        raise OutputError(f"'{order.bundle}' exists and is no bundle", fix="choose another `out`, or another name")
    product = order.product
    return open_data(Path(product.data), product.category, FolderOptions(product.subfolders, product.good_folders))


def _is_finished(order: ProductOrder, kept: ProductResult) -> bool:
    """Whether the bundle of a result exists; its threshold may be a later one."""
    if kept.state != "trained":
        return False
    try:
        return open_bundle(order.bundle).manifest.provenance.checkpoint_sha256 == kept.checkpoint_sha256
    except KdxError:
        return False


def _make(order: ProductOrder, folder: ImageFolder, fingerprint: str, *, resume: bool) -> ProductResult:
    import torch

    from kd_train.training.freed_memory import keep_freed_memory
    from kd_train.training.run_folder import Run
    from kd_train.training.run_remarks import remarks_on
    from kdx.runtime.backend_table import require_backends
    from kdx.verification.certificate import verify
    from kdx.workflows.calibrate import CalibrationRequest, calibrate_each
    from kdx.workflows.export import export_run, lost_with, seam_remarks
    from kdx.workflows.many.product_remarks import remarks_on_product

    keep_freed_memory()
    torch.set_num_threads(order.threads)
    product = order.product
    trained = _train(order, resume=resume)
    run = Run(order.run)
    exported, _, refused = export_run(
        order.run,
        order.staged,
        progress=SILENT,
        which=product.checkpoint,
        input_size=product.input_size,
        channel_order=product.channel_order,
        max_batch=None if product.max_batch == 32 else product.max_batch,  # not given; tiles have a batch of their own
        tiles=TileRequest(product.frame, None, product.overlap, product.tile_batch),
        precisions=product.precisions,
        force=True,
    )
    request = CalibrationRequest(
        product.false_reject_rate,
        review_rate=product.review_rate,
        per_position=product.per_position,
        backend=product.backend,
        threads=order.threads,
        max_bad_images=product.max_bad_images,
    )
    calibrated = calibrate_each(exported, require_good(folder), request)
    bundle = open_bundle(order.staged)
    certificate = verify(bundle, require_backends(order.staged), threads=order.threads)
    if not certificate.passed:
        raise GateError(
            f"'{order.staged}' does not decide what was trained",
            fix=f"see kdx verify {order.staged}; it was left there",
        )
    found = _evaluate(order, bundle, folder)
    remarks = [*remarks_on(run, product.checkpoint), *seam_remarks(bundle.manifest, product.overlap)]
    remarks += lost_with(order.bundle, bundle.manifest.files)
    with new_folder(order.bundle, force=True) as target:
        shutil.copytree(bundle.path, target, dirs_exist_ok=True)
    shutil.rmtree(order.staged, ignore_errors=True)
    with contextlib.suppress(OSError):  # others are still in it
        order.staged.parent.rmdir()
    return msgspec.structs.replace(
        _result(order, "trained", fingerprint),
        backbone=run.config.backbone,
        epochs=run.checkpoint("last").epoch,
        train_images=len(run.config.train_images),
        held_out_images=len(run.config.validation_images),
        image_auroc=found.image_auroc if found else None,
        pixel_auroc=found.pixel_auroc if found and any(image.mask for image in folder.test) else None,
        false_reject_rate=found.false_reject_rate if found else None,
        detection_rate=found.detection_rate if found else None,
        threshold=calibrated.exact.threshold.score,
        refused={name: reason for name, reason in {**refused, **calibrated.refusals()}.items() if reason},
        remarks=remarks_on_product(trained, remarks, calibrated, found),
        checkpoint_sha256=bundle.manifest.provenance.checkpoint_sha256,
    )


def _train(order: ProductOrder, *, resume: bool) -> TrainResult:
    """Train, or continue a run of the same fingerprint; another run is replaced.

    A run that is finished is resumed too: that reads its images, which gives the remarks on them,
    and does what was not done after its last epoch.
    """
    from kd_train.training.train import train

    order.run.parent.mkdir(parents=True, exist_ok=True)
    options = order.product.train_options(resume=resume, force=not resume)
    try:
        return train(Path(order.product.data), order.run, options)
    except CheckpointError as error:
        if not resume or options.init or options.teacher_from:  # it may be about one of those runs
            raise
        # The run was begun by another release, or is damaged; a catalogue has no `force`.
        fix = f"delete '{order.run}' and run the same command again, which trains the product from the start"
        raise CheckpointError(error.message, expected=error.expected, received=error.received, fix=fix) from error


def _evaluate(order: ProductOrder, bundle: Bundle, folder: ImageFolder) -> Evaluation | None:
    """Measure on labelled test images, where there are good and defective ones."""
    from kd_train.data.annotations import MaskWarning
    from kd_train.evaluation.evaluate import evaluate
    from kdx.loading.bundle_detector import detector_of
    from kdx.workflows.evaluate import with_doubts

    if len({image.is_defective for image in folder.test}) < 2:
        return None
    product = order.product
    with (
        warnings.catch_warnings(),
        detector_of(bundle, product.backend, order.threads, "fp32") as detector,
    ):
        warnings.simplefilter("ignore", MaskWarning)  # said in the result
        found = evaluate(
            detector,
            folder.root,
            folder.test,
            max_bad_images=product.max_bad_images,
            unused_masks=folder.unused_masks,
        )
        return with_doubts(found, folder.test, bundle.path, detector.input)


def _result(order: ProductOrder, state: str, fingerprint: str) -> ProductResult:
    return ProductResult(
        name=order.name,
        method=order.product.method,
        state=state,  # type: ignore[arg-type]
        fingerprint=fingerprint,
        asked_false_reject_rate=order.product.false_reject_rate,
    )
