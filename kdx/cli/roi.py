"""``kdx roi``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from kdx.cli.output import out, print_json, progress_for, report_bad, report_remarks, shown, typed
from kdx.cli.shared_options import (
    FORCE_OPTION,
    GOOD_FOLDER_OPTION,
    JSON_OPTION,
    MAX_BAD_OPTION,
    SUBFOLDERS_OPTION,
    require_effect,
)

if TYPE_CHECKING:
    from kdx.bundle.bundle import Bundle
    from kdx.decision.roi import Roi
    from kdx.remarks import Remark


_VARIES = 4.0  # grey levels


def roi(
    bundle: Path = typer.Argument(help="Bundle whose region is shown or changed."),
    data: Path | None = typer.Option(
        None, "--from-images", help="Propose a region: leave out the background that never varies in these good images."
    ),
    category: str | None = typer.Option(None, help="Category of a data set that has several."),
    subfolders: bool = SUBFOLDERS_OPTION,
    good_folder: list[str] = GOOD_FOLDER_OPTION,
    varies: float | None = typer.Option(
        None, help="With --from-images: grey levels from which on a pixel varies (deviation). Default: 4."
    ),
    output: Path | None = typer.Option(
        None, "-o", "--output", help="With --from-images: where to write it. Default: roi.png."
    ),
    mask: Path | None = typer.Option(
        None, "--set", help="Grey image of the camera's size: 255 for pixels that count, 0 for others."
    ),
    remove: bool = typer.Option(False, "--remove", help="Let whole images count again."),
    max_bad_images: int = MAX_BAD_OPTION,
    force: bool = FORCE_OPTION,
    json: bool = JSON_OPTION,
) -> None:
    """Show, propose, set or remove the region of interest; pixels outside it never count.

    A proposal is written to a file, to be looked at and then set. A threshold holds for the region
    that it was calibrated in: after a change every verdict is undecided until kdx calibrate. A
    signature is removed. The blur leaks heat across the border of the region: leave a margin.
    """
    from kdx.bundle.manifest import SIGNATURE
    from kdx.bundle.open import open_bundle
    from kdx.decision.roi import RoiFrame, read_roi, roi_of, set_roi
    from kdx.errors import OptionError
    from kdx.folders.data_folder import FolderOptions
    from kdx.storage.files import refuse_existing, require_writable

    if sum([data is not None, mask is not None, remove]) > 1:
        raise OptionError("--from-images, --set and --remove exclude each other", fix="call once for each")
    if data is None:
        given = {
            "--category": category is not None,
            "--subfolders": subfolders,
            "--good-folder": bool(good_folder),
            "--varies": varies is not None,
            "--output": output is not None,
            "--max-bad-images": max_bad_images > 0,
            "--force": force,
        }
        require_effect(given, "--from-images")
    opened = open_bundle(bundle)
    if data is not None:
        output = output or Path("roi.png")
        varies = _VARIES if varies is None else varies
        from kd_train.datasets import open_data
        from kdx.workflows.roi import propose, write_proposal

        refuse_existing(output, force=force)
        progress = progress_for(json)
        folder = open_data(data, category, FolderOptions(subfolders, tuple(good_folder)), progress=progress)
        bad: dict[str, str] = {}
        proposed = RoiFrame.of(opened.manifest).roi(propose(opened, folder, varies, bad, max_bad_images, progress))
        write_proposal(output, proposed)
        _show_proposal(bundle, output, proposed, bad, folder.remarks, json=json)
        return
    was_signed = (bundle / SIGNATURE).is_file()
    current = roi_of(opened)
    mask_given = None if mask is None else read_roi(mask, RoiFrame.of(opened.manifest))
    wanted = None if remove else mask_given or current
    is_changed = (wanted is None) != (current is None) or (wanted is not None and not wanted.is_same(current))
    if is_changed:
        require_writable(bundle.resolve().parent)
        opened = set_roi(opened, wanted)
    _show(bundle, opened, wanted, is_changed=is_changed, signature_removed=was_signed and is_changed, json=json)


def _show_proposal(
    bundle: Path, output: Path, roi: Roi, bad: dict[str, str], remarks: Sequence[Remark], *, json: bool
) -> None:
    share = float(roi.included.mean())
    if json:
        print_json(
            {"bundle": str(bundle), "proposal": str(output), "included": share, "bad_images": bad, "remarks": remarks}
        )
        return
    report_bad(bad)
    report_remarks(remarks)
    out.print(
        f"[bold]{shown(output)}[/]: {100 * share:.3g} % of the image varies and would count, white; look at it, then"
    )
    out.print(f"  kdx roi {typed(bundle)} --set {typed(output)}")


def _show(
    path: Path, bundle: Bundle, roi: Roi | None, *, is_changed: bool, signature_removed: bool, json: bool
) -> None:
    from kdx.decision.roi import why_stale

    manifest = bundle.manifest
    shares = None if roi is None else {"image": float(roi.included.mean()), "map": float(roi.counted.mean())}
    if json:
        print_json(
            {
                "bundle": str(path),
                "included": shares,
                "roi_sha256": manifest.roi_sha256,
                "changed": is_changed,
                "changed_after_calibration": manifest.changed_since() is not None,
                "signature_removed": signature_removed,
            }
        )
        return
    if shares is None:
        out.print(f"[bold]{shown(path)}[/]: no region of interest, whole images count")
    else:
        image, of_map = (f"{100 * shares[name]:.3g} %" for name in ("image", "map"))
        out.print(f"[bold]{shown(path)}[/]: {image} of the image and {of_map} of the map count")
    stale = why_stale(manifest)
    if stale:
        out.print(f"  [yellow]{stale}[/] {typed(path)} DATA")
    if signature_removed:
        out.print("  [yellow]the signature was removed:[/] sign again with kdx sign, after kdx calibrate")
