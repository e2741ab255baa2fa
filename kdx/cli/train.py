"""``kdx train``."""

from __future__ import annotations

import difflib
from pathlib import Path

import typer

from kdx.cli.errors import Interrupted
from kdx.cli.options import FORCE_OPTION, GOOD_FOLDER_OPTION, JSON_OPTION, MAX_BAD_OPTION, SUBFOLDERS_OPTION, one_of
from kdx.cli.output import out, print_json, progress_for, report_bad, report_remarks
from kdx.storage.json_records import RUN_INDEX
from kdx.workflows.packages import needs

# A method's own options (--part of dual-det, --structure of dskd) are read from what the command line does not know.
CONTEXT = {"allow_extra_args": True, "ignore_unknown_options": True}


def train(
    context: typer.Context,
    data: Path = typer.Argument(
        help="Folder of images: a published data set, the MVTec layout, or good images directly."
    ),
    run: Path = typer.Option(..., "--out", "-o", help="Run folder to write."),
    method: str = typer.Option("stpm", help="Method: see kdx methods, which lists each one's own options too."),
    category: str | None = typer.Option(None, help="Category of a data set that has several."),
    subfolders: bool = SUBFOLDERS_OPTION,
    good_folder: list[str] = GOOD_FOLDER_OPTION,
    backbone: str | None = typer.Option(
        None, help="The teacher: any convolutional backbone of timm, by its name; two as A,B. Default: the paper's."
    ),
    weights: str = typer.Option(
        "imagenet", help="The teacher's weights: imagenet, random, or a .safetensors/.pth file; for two teachers A,B."
    ),
    resume: bool = typer.Option(False, "--resume", help="Go on with an interrupted run."),
    force: bool = FORCE_OPTION,
    epochs: int | None = typer.Option(None, help="Passes over the training images. Default: the recipe's."),
    image_size: int | None = typer.Option(None, help="Side of the square at which the networks run, in pixels."),
    crop_from: int | None = typer.Option(
        None, help="Side to which images are brought before --image-size is cut from their centre; 0 for no crop."
    ),
    tile: int | None = typer.Option(
        None,
        help="Train on squares of this side that are cut from large images. --image-size, if not given, is the same.",
    ),
    batch_size: int | None = typer.Option(None, help="Images a step."),
    learning_rate: float | None = typer.Option(None, help="Learning rate."),
    taps: str | None = typer.Option(
        None, help="Where features are compared, e.g. layer1,layer2; for two teachers layer1,layer2/blocks.4,blocks.6."
    ),
    combine: str | None = typer.Option(None, help="How the taps' maps become one: sum or product."),
    score: str | None = typer.Option(None, help="How the map becomes a score: max or sum."),
    sigma: float | None = typer.Option(None, help="Gaussian blur of the anomaly map, in map pixels; 0 for none."),
    seed: int = typer.Option(0, min=0, max=2**32 - 1, help="Seed of everything random."),
    train_fraction: float = typer.Option(1.0, help="Share of the training images to use, e.g. 0.1."),
    validation_fraction: float | None = typer.Option(None, help="Share of the good images to hold out."),
    group_by: str | None = typer.Option(
        None,
        metavar="REGEX",
        help="Images whose names have the same match show one part and are held out together, e.g. 'part(\\d+)'.",
    ),
    parts: Path | None = typer.Option(
        None,
        metavar="CSV",
        help="The same from a CSV file of two columns, file name or path, and part. Published data sets know theirs.",
    ),
    odd_images: str = typer.Option(
        "stop",
        help="What to do where most images agree in size, colour or bit depth and few do not: stop, skip those few, or "
        "keep them and accept what they make of the detector.",
    ),
    channels: str = typer.Option("auto", help="What the camera delivers: 3 (colour), 1 (mono), auto (as the images)."),
    sixteen_bit_range: str = typer.Option(
        "0:65535",
        metavar="LOW:HIGH",
        help="The 16-bit grey values that become black and white (12-bit camera: 0:4095).",
    ),
    max_bad_images: int = MAX_BAD_OPTION,
    workers: int = typer.Option(2, min=0, help="Processes that decode images."),
    memory_mib: int = typer.Option(
        4096, min=16, help="Memory for images, and again for the teacher's cached features."
    ),
    device: str = typer.Option("auto", help="auto, cpu, cuda or cuda:N."),
    json: bool = JSON_OPTION,
) -> None:
    """Learn what good parts look like.

    The teacher is a network that knows ImageNet; the student learns to imitate it on good parts only, and fails on
    what it has never seen. Some good images are held out for the threshold (kdx calibrate). Ctrl-C and SIGTERM keep
    every complete epoch. A kill costs up to ten minutes of training, and the epoch that was running.
    """
    with needs("train,cpu", "training"):
        from kd_train.training.train import TrainOptions
        from kd_train.training.train import train as train_pair

    options = TrainOptions(
        method=method,
        category=category,
        subfolders=subfolders,
        good_folders=tuple(good_folder),
        method_options=method_options(context, method),
        crop_from=crop_from,
        tile=tile,
        combine=one_of("--combine", combine, ("sum", "product")) if combine else None,
        score=one_of("--score", score, ("max", "sum")) if score else None,
        backbone=backbone,
        weights=weights,
        resume=resume,
        force=force,
        seed=seed,
        epochs=epochs,
        image_size=image_size,
        batch_size=batch_size,
        learning_rate=learning_rate,
        taps=taps,
        blur_sigma=sigma,
        validation_fraction=validation_fraction,
        train_fraction=train_fraction,
        group_by=group_by,
        parts=parts,
        odd_images=one_of("--odd-images", odd_images, ("stop", "skip", "keep")),  # type: ignore[arg-type]
        channels=one_of("--channels", channels, ("auto", "1", "3")),  # type: ignore[arg-type]
        sixteen_bit_range=sixteen_bits(sixteen_bit_range),
        max_bad_images=max_bad_images,
        workers=workers,
        memory_mib=memory_mib,
        device=device,
    )
    try:
        result = train_pair(data, run, options, progress_for(json))
    except KeyboardInterrupt:
        if (run / RUN_INDEX).exists():
            raise Interrupted("continue with --resume") from None
        raise
    config, last = result.run.config, result.history[-1]
    if json:
        print_json(
            {
                "run": str(run),
                "epochs": last.epoch,
                "train_loss": last.train_loss,
                "validation_loss": last.validation_loss,
                "train_images": len(config.train_images),
                "held_out_images": len(config.validation_images),
                "seconds": sum(record.seconds for record in result.history),
                "resumed_after": result.resumed_after,
                "trained_again": result.trained_again,
                "bad_images": result.bad_images,
                "remarks": result.remarks,
            }
        )
        return
    report_bad(result.bad_images)
    report_remarks(result.remarks)
    out.print(f"[bold]{run}[/]: {config.method}, {config.backbone} ({config.weights})")
    out.print(f"  {config.pair_spec.describe()}")
    if result.resumed_after or result.trained_again:
        again = result.trained_again
        out.print(
            f"  resumed after epoch {result.resumed_after}" + (f", training {again} epochs again" if again else "")
        )
    out.print(
        f"  {len(config.train_images)} images trained on, {len(config.validation_images)} held out, "
        f"at {config.recipe.image_size}²"
    )
    out.print(f"  epoch {last.epoch}: training loss {last.train_loss:.4f}, held-out loss {last.validation_loss:.4f}")
    out.print(f"next: kdx export {run} -o {run.name}.kdx")


def method_options(context: typer.Context, method: str) -> dict[str, str]:
    """Read a method's own options from what the command line left over.

    Raises:
        OptionError: What is left over is no option of the method.
    """
    from kd_train.methods import find_method
    from kdx.errors import OptionError
    from kdx.workflows.many.catalog import REMOVED

    own = {option.name for option in find_method(method).options}
    found: dict[str, str] = {}
    rest = list(context.args)
    while rest:
        word = rest.pop(0)
        name, has_value, value = word.partition("=")
        if not name.startswith("--"):
            raise OptionError(f"'{word}' was not expected", fix="see kdx train --help")
        if name[2:] in REMOVED:
            raise OptionError(f"{name} is no longer an option", fix=REMOVED[name[2:]])
        if name[2:] not in own:
            known = [option for parameter in context.command.params for option in parameter.opts]
            near = difflib.get_close_matches(name, [*known, *(f"--{other}" for other in own)], n=2)
            raise OptionError(
                f"{method} has no option {name}",
                expected=" or ".join(near or sorted(f"--{other}" for other in own)) or "none of its own",
                fix="see kdx train --help, and kdx methods for what each method adds",
            )
        if not has_value:
            if not rest:
                raise OptionError(f"{name} needs a value")
            value = rest.pop(0)
        found[name[2:]] = value
    return found


def sixteen_bits(text: str) -> tuple[int, int]:
    """Read ``--sixteen-bit-range LOW:HIGH``; raise ``OptionError`` when it is none."""
    from kdx.errors import OptionError

    try:
        low, high = (int(part) for part in text.split(":"))
    except ValueError as error:
        raise OptionError(
            "--sixteen-bit-range is not a range", expected="LOW:HIGH, e.g. 0:4095", received=text
        ) from error
    return low, high
