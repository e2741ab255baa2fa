"""``kdx roi``."""

from __future__ import annotations

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
    from kdx.workflows.roi import Proposal, RegionOfBundle


def roi(
    bundle: Path = typer.Argument(help="Bundle whose region is shown or changed."),
    data: Path | None = typer.Option(
        None, "--from-images", help="Propose a region: leave out the background that never varies in these good images."
    ),
    category: str | None = typer.Option(None, help="Category of a data set that has several."),
    subfolders: bool = SUBFOLDERS_OPTION,
    good_folder: list[str] = GOOD_FOLDER_OPTION,
    varies: float | None = typer.Option(
        None, help="With --from-images: standard deviation in grey levels above which a pixel varies. Default: 4."
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
    from kdx.bundle.open import open_bundle
    from kdx.errors import OptionError
    from kdx.folders.data_folder import FolderOptions
    from kdx.workflows.roi import region_of, write_proposal

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
        _show(bundle, region_of(bundle, mask, remove=remove), json=json)
        return
    proposal = write_proposal(
        open_bundle(bundle),
        data,
        output or Path("roi.png"),
        category=category,
        options=FolderOptions(subfolders, tuple(good_folder)),
        varies=varies,
        max_bad_images=max_bad_images,
        force=force,
        progress=progress_for(json),
    )
    _show_proposal(bundle, proposal, json=json)


def _show_proposal(bundle: Path, found: Proposal, *, json: bool) -> None:
    if json:
        record = {"bundle": str(bundle), "proposal": str(found.path), "included": found.included}
        print_json({**record, "bad_images": found.bad, "remarks": found.remarks})
        return
    report_bad(found.bad)
    report_remarks(found.remarks)
    out.print(
        f"[bold]{shown(found.path)}[/]: {100 * found.included:.3g} % of the image varies and would count, white; look "
        "at it, then"
    )
    out.print(f"  kdx roi {typed(bundle)} --set {typed(found.path)}")


def _show(path: Path, found: RegionOfBundle, *, json: bool) -> None:
    if json:
        print_json(found.record())
        return
    shares = found.shares
    if shares is None:
        out.print(f"[bold]{shown(path)}[/]: no region of interest, whole images count")
    else:
        image, of_map = (f"{100 * shares[name]:.3g} %" for name in ("image", "map"))
        out.print(f"[bold]{shown(path)}[/]: {image} of the image and {of_map} of the map count")
    if found.why_stale:
        out.print(f"  [yellow]{found.why_stale}[/] {typed(path)} DATA")
    if found.signature_removed:
        out.print("  [yellow]the signature was removed:[/] sign again with kdx sign, after kdx calibrate")
