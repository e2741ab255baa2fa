"""The bundle that ``kdx fit`` leaves ready for use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from kdx.bundle.bundle import Bundle
from kdx.bundle.open import open_bundle
from kdx.bundle.store import write_manifest
from kdx.errors import BackendError, BundleError
from kdx.remarks import Remark
from kdx.storage.files import new_folder
from kdx.workflows.export import lost_with
from kdx.workflows.fit.advice import reason_of
from kdx.workflows.fit.cpu_timing import time_as_loaded
from kdx.workflows.fit.fit_folder import FitFolder, discard
from kdx.workflows.fit.frontier import ranked
from kdx.workflows.fit.request import FitRequest
from kdx.workflows.fit.trial_records import Best, FrontierRow


def keep_best(
    rows: Sequence[FrontierRow], request: FitRequest, folder: FitFolder
) -> tuple[Best | None, list[str], list[Remark]]:
    """Leave the best line's bundle, or none where none keeps the budget.

    Of many measured latencies the lowest were lucky as well as low. The best bundle is therefore
    measured once more, as ``kdx.load`` opens it; where it misses then, the next one is taken.

    Returns:
        The best; what could not be it, with the reason; and a remark on what users added to that of
        an earlier call, which is gone with it.
    """
    lost = [] if folder.best.is_symlink() else lost_with(folder.best, ())
    try:
        discard(folder.best)  # one of an earlier budget would be taken for this one's
    except OSError as error:  # another program uses it; the report is written all the same
        return None, [f"'{folder.best}' of an earlier call cannot be removed: {error.strerror}"], []
    unconfirmed: list[str] = []
    for row in ranked(rows):
        try:
            measured = folder.measured_bundle(row.candidate, row.bundle_sha256)
            bundle = copy_with(measured, row.timing.precision, folder.best)
            timing = time_as_loaded(
                bundle,
                bundle.golden().images,
                budget_ms=request.budget_ms,
                percentile=request.percentile,
                threads=request.threads,
            )
        except (BackendError, BundleError) as error:
            unconfirmed.append(f"{row.candidate} {row.timing.precision}: {reason_of(error)}")
            discard(folder.best)
            continue
        if timing.measured_ms is not None and timing.measured_ms <= request.budget_ms:
            return Best(bundle=str(folder.best), row=row, confirmed=timing), unconfirmed, lost
        unconfirmed.append(
            f"{row.candidate} {row.timing.precision}: {timing.measured_ms:.2f} ms when measured once more"
        )
        discard(folder.best)
    return None, unconfirmed, lost


def copy_with(bundle: Bundle, precision: str, target: Path) -> Bundle:
    """Copy a bundle with FP32 and the chosen precision, so that ``kdx.load`` takes that one.

    It takes the fastest precision in a bundle, whatever its accuracy; where FP32 was chosen, no
    other must be there.
    """
    manifest = bundle.manifest
    variants = {name: variant for name, variant in manifest.variants.items() if name == precision}
    needed = {bundle.graph.path.name, *(variant.file for variant in variants.values())}
    left_out = {variant.file for variant in manifest.variants.values()} - needed
    with new_folder(target, force=True) as folder:
        for name in manifest.files:
            if name not in left_out:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(bundle.read(name))
        own = {name: one for name, one in manifest.runtime_thresholds.items() if name == precision}
        write_manifest(folder, msgspec.structs.replace(manifest, variants=variants, runtime_thresholds=own))
    return open_bundle(target)
