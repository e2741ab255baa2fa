"""``kdx export``."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.markup import escape

from kdx.bundle.variants import OWN_THRESHOLD, PRECISIONS
from kdx.cli.output import out, print_json, progress_for, report_remarks, shown, typed
from kdx.cli.shared_options import FORCE_OPTION, JSON_OPTION, one_of, require_effect
from kdx.errors import OptionError
from kdx.imaging.field_of_view import parse_crop
from kdx.imaging.image_size import both_sides, parse_size
from kdx.imaging.tiling import TileRequest
from kdx.text import spelled
from kdx.workflows.export import export_run, first_rate, labelled_images, lost_with, seam_remarks, training_remarks


def export(
    run: Path = typer.Argument(help="Run folder of kdx train."),
    bundle: Path = typer.Option(..., "--out", "-o", help="Bundle to write, NAME.kdx."),
    checkpoint: str | None = typer.Option(None, help="last or best. Default: as the method's recipe says."),
    input_size: str | None = typer.Option(
        None, metavar="HxW", help="The camera's image size; the graph resizes. Default: that of the training images."
    ),
    crop: str | None = typer.Option(
        None,
        metavar="X,Y,WIDTH,HEIGHT",
        help="Window of the camera's frames that the networks see, in pixels. Default: that of the training.",
    ),
    channel_order: str = typer.Option(
        "rgb", help="Order of the channels in the camera's arrays: rgb or bgr; bgr is folded into the weights."
    ),
    max_batch: int | None = typer.Option(None, help="Largest batch; 1 makes the graph static. Default: 32."),
    frame: str | None = typer.Option(
        None,
        metavar="HxW",
        help="Size of large frames that are judged in tiles. Default: that of the images whose tiles were trained on.",
    ),
    tile: int | None = typer.Option(
        None,
        help="Side of a tile in the camera's pixels, a multiple of the networks' input. Default: that of the tiles "
        "trained on.",
    ),
    overlap: str = typer.Option(
        "auto", help="Least overlap of tiles in the camera's pixels; auto measures what these networks need."
    ),
    tile_batch: int | None = typer.Option(
        None, help="Tiles that go through the graph at once: what bounds the memory. Default: 8."
    ),
    bands: bool = typer.Option(
        False, "--bands", help="Read frames in bands of rows, from TIFF files: they need not fit into the memory."
    ),
    precision: str = typer.Option(
        "fp32",
        help="fp32, and what to add: fp16 for TensorRT and other GPU runtimes; bf16 for CPUs and int8 for both, where "
        "they pass their gate. int8 is of the students of kdx quantize, where the run has them.",
    ),
    calibration_data: Path | None = typer.Option(
        None,
        help="Where the training data are now: int8 finds its scales on images trained on, bf16 and int8 are judged on "
        "those held out. Default: where they were at training.",
    ),
    evaluation_data: Path | None = typer.Option(
        None,
        help="Labelled images on which the image AUROC of bf16 and int8 must be within 0.005 of fp32's; students that "
        "were trained in int8 must decide them as well as fp32.",
    ),
    category: str | None = typer.Option(None, help="Category of --evaluation-data, where it has several."),
    force: bool = FORCE_OPTION,
    json: bool = JSON_OPTION,
) -> None:
    """Write one ONNX graph, from uint8 image to anomaly map and score, as a bundle.

    Every backend installed here is compared with FP32 PyTorch on real images first; if FP32
    disagrees, nothing is written. A BF16 or INT8 graph that is refused is left out of the bundle.
    The exit status is 1 in both cases.
    """
    precisions = _precisions(precision)
    data_options = {
        "--calibration-data": calibration_data is not None,
        "--evaluation-data": evaluation_data is not None,
    }
    if not OWN_THRESHOLD.intersection(precisions):
        require_effect(data_options, "--precision fp32,bf16 or fp32,int8")
    if evaluation_data is None:
        require_effect({"--category": category is not None}, "--evaluation-data")
    lost = lost_with(bundle)
    result, certificate, refused = export_run(
        run,
        bundle,
        which=checkpoint,
        input_size=_size("--input-size", input_size),
        crop=None if crop is None else parse_crop(crop),
        channel_order=one_of("--channel-order", channel_order, ("rgb", "bgr")),  # type: ignore[arg-type]
        max_batch=max_batch,
        tiles=TileRequest(_size("--frame", frame), tile, _overlap(overlap), tile_batch, bands),
        precisions=precisions,
        calibration_data=calibration_data,
        evaluation_images=labelled_images(run, evaluation_data, category, progress_for(json)),
        force=force,
        progress=progress_for(json),
    )
    remarks = [*lost, *training_remarks(run, checkpoint, result), *seam_remarks(result.manifest, _overlap(overlap))]
    if json:
        record = {
            "bundle": str(bundle),
            "manifest": result.manifest,
            "certificate": certificate,
            "refused": refused,
            "remarks": remarks,
        }
        print_json(record)
        if refused:
            raise typer.Exit(1)
        return
    report_remarks(remarks)
    size_mb = result.graph.path.stat().st_size / 1e6
    out.print(f"[bold]{shown(bundle)}[/]: {size_mb:.1f} MB graph, takes {result.manifest.camera.describe()}")
    tiling = result.manifest.tiling
    if tiling is not None:
        out.print(f"  {tiling.describe(result.manifest.input.height)}")
    for comparison in certificate.comparisons:
        out.print(
            f"  {comparison.backend}, {comparison.precision}, batch {comparison.batch}: scores within "
            f"{comparison.score_max:.1e}, maps within {comparison.map_max:.1e} of "
            f"{certificate.reference_of(comparison.precision)}"
        )
    for name, variant in result.manifest.variants.items():
        made = "trained, " if result.manifest.is_own_reference(name) else "quantised after training, "
        out.print(f"  {name}: {made if name == 'int8' else ''}{variant.describe()}")
    for name, reason in refused.items():
        out.print(f"[bold red]no {name}:[/] {escape(spelled(reason))}")
    out.print(f"next: kdx calibrate {typed(bundle)} DATA --false-reject-rate {first_rate(run):g}")
    if refused:
        raise typer.Exit(1)


def _precisions(text: str) -> tuple[str, ...]:
    found = tuple(part.strip() for part in text.split(","))
    for part in found:
        one_of("--precision", part, PRECISIONS)
    return found


def _overlap(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdigit():
        raise OptionError("invalid --overlap", expected="auto, or pixels of the camera", received=text)
    return int(text)


def _size(option: str, text: str | None) -> tuple[int, int] | None:
    return None if text is None else both_sides(parse_size(option, text, squares=False))
