"""Options that several commands have, and checks of what was given."""

from __future__ import annotations

from collections.abc import Mapping

import typer

from kdx.errors import OptionError

JSON_OPTION = typer.Option(False, "--json", help="Print the result as JSON on standard output, and nothing else there.")
FORCE_OPTION = typer.Option(False, "--force", help="Replace the output if it exists.")
THREADS_OPTION = typer.Option(
    None, "--threads", min=1, max=1024, help="Threads within an operation. Default: the backend's choice."
)
TRIGGER_TIMEOUT_OPTION = typer.Option(
    None, "--trigger-timeout", min=0.01, max=60, help="Seconds from a trigger to its frame. Default: 2."
)
SUBFOLDERS_OPTION = typer.Option(
    False, "--subfolders", help="Take images in subfolders too: of a folder of good images, all of them are good."
)
GOOD_FOLDER_OPTION = typer.Option(
    [],
    "--good-folder",
    metavar="NAME",
    help="A folder whose images are good, beside the usual names (good, ok, pass, normal and others, in any case); may "
    "be repeated.",
)
MAX_BAD_OPTION = typer.Option(0, "--max-bad-images", min=0, help="How many unreadable images to name and skip.")
REQUIRE_SIGNATURE_OPTION = typer.Option(
    [], "--require-signature", metavar="NAME.pub", help="Refuse bundles not signed by this key; may be repeated."
)
CSV_OPTION = typer.Option(False, "--csv", help="Write a table for spreadsheets: verdicts.csv, or one a day.")
SEMICOLONS_OPTION = typer.Option(
    False, "--semicolons", help="With --csv: semicolons and decimal commas, as spreadsheets in most of Europe expect."
)
MAPS_OPTION = typer.Option(
    None,
    "--maps",
    metavar="npy|tiff|png",
    help="Write each anomaly map: float32 values (npy, tiff), or 16 bits, scaled as a JSON file beside it says (png).",
)
MASKS_OPTION = typer.Option(
    False, "--masks", help="Write a mask of each image, of its size: 255 above the pixel threshold, 0 elsewhere."
)
COCO_OPTION = typer.Option(False, "--coco", help="Write regions with their boxes and outlines, in COCO's format.")
ADDRESS_OPTION = typer.Option(
    None,
    "--address",
    help="Address of a running Ray cluster, or auto. Default: one is started on this machine, for this call.",
)


def one_of(option: str, value: str, allowed: tuple[str, ...]) -> str:
    """Return an option's value if it is allowed; raise ``OptionError`` otherwise."""
    if value not in allowed:
        raise OptionError(f"invalid {option}", expected=", ".join(allowed), received=value)
    return value


def require_effect(given: Mapping[str, bool], needed: str) -> None:
    """Raise ``OptionError`` for options that would change nothing.

    Args:
        given: Whether each option was given, by its name.
        needed: What they need in order to have an effect.
    """
    without = [name for name, is_given in given.items() if is_given]
    if without:
        names = " and ".join(without)
        raise OptionError(f"{names} would change nothing without {needed}", fix=f"add {needed}, or leave out {names}")


def batch_sizes(text: str, largest: int) -> list[int]:
    """Return the batch sizes of ``--batch 1,8``; raise ``OptionError`` for invalid ones."""
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise OptionError("--batch is not a list of numbers", expected="e.g. 1,8", received=text) from error
    if any(not 1 <= size <= largest for size in sizes):
        raise OptionError("--batch is out of range", expected=f"1 to {largest} for this bundle", received=text)
    return sizes
