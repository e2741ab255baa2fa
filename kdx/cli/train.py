"""``kdx train``."""

from __future__ import annotations

from pathlib import Path

import typer

from kdx.cli.common import (
    FORCE_OPTION,
    JSON_OPTION,
    MAX_BAD_OPTION,
    command,
    needs,
    one_of,
    out,
    print_json,
    progress_for,
    report_bad,
)


@command
def train(
    data: Path = typer.Argument(help="Folder with train/good (MVTec layout), or with good images directly."),
    run: Path = typer.Option(..., "--out", "-o", help="Run folder to write."),
    method: str = typer.Option("stpm", help="Method of the papers."),
    backbone: str = typer.Option("resnet18", help="The teacher: any convolutional backbone of timm, by its name."),
    weights: str = typer.Option(
        "imagenet", help="The teacher's weights: imagenet, random, or a .safetensors/.pth file."
    ),
    resume: bool = typer.Option(False, "--resume", help="Go on with an interrupted run."),
    force: bool = FORCE_OPTION,
    epochs: int | None = typer.Option(None, help="Passes over the training images. Default: the recipe's."),
    image_size: int | None = typer.Option(None, help="Side of the square at which the networks run, in pixels."),
    batch_size: int | None = typer.Option(None, help="Images a step."),
    learning_rate: float | None = typer.Option(None, help="Learning rate."),
    taps: str | None = typer.Option(None, help="Where features are compared, e.g. layer1,layer2 or blocks.2,blocks.4."),
    sigma: float | None = typer.Option(None, help="Gaussian blur of the anomaly map, in map pixels; 0 for none."),
    seed: int = typer.Option(0, min=0, help="Seed of everything random."),
    train_fraction: float = typer.Option(1.0, help="Share of the training images to use, e.g. 0.1."),
    validation_fraction: float | None = typer.Option(None, help="Share of the good images to hold out."),
    group_by: str | None = typer.Option(
        None,
        metavar="REGEX",
        help="Images whose names have the same match show one part and are held out together, e.g. 'part(\\d+)'.",
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
    what it has never seen. Some good images are held out for the threshold (kdx calibrate). Ctrl-C keeps the last
    complete epoch.
    """
    with needs("train,cpu", "training"):
        from kd_train.train import TrainOptions
        from kd_train.train import train as train_pair

    options = TrainOptions(
        method=method,
        backbone=backbone,
        weights=weights,
        resume=resume,
        force=force,
        seed=seed,
        epochs=epochs,
        image_size=image_size,
        batch_size=batch_size,
        learning_rate=learning_rate,
        taps=tuple(tap.strip() for tap in taps.split(",") if tap.strip()) if taps else None,
        blur_sigma=sigma,
        validation_fraction=validation_fraction,
        train_fraction=train_fraction,
        group_by=group_by,
        channels=one_of("--channels", channels, ("auto", "1", "3")),  # type: ignore[arg-type]
        sixteen_bit_range=_range(sixteen_bit_range),
        max_bad_images=max_bad_images,
        workers=workers,
        memory_mib=memory_mib,
        device=device,
    )
    result = train_pair(data, run, options, progress_for(json))
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
                "bad_images": result.bad_images,
            }
        )
        return
    report_bad(result.bad_images)
    taps_shown = ", ".join(tap.name for tap in config.pair_spec.taps)
    out.print(f"[bold]{run}[/]: {config.method}, {config.backbone} ({config.weights}), taps {taps_shown}")
    out.print(
        f"  {len(config.train_images)} images trained on, {len(config.validation_images)} held out, "
        f"at {config.recipe.image_size}²"
    )
    out.print(f"  epoch {last.epoch}: training loss {last.train_loss:.4f}, held-out loss {last.validation_loss:.4f}")
    out.print(f"next: kdx export {run} -o {run.name}.kdx")


def _range(text: str) -> tuple[int, int]:
    from kdx.errors import OptionError

    try:
        low, high = (int(part) for part in text.split(":"))
    except ValueError as error:
        raise OptionError(
            "--sixteen-bit-range is not a range", expected="LOW:HIGH, e.g. 0:4095", received=text
        ) from error
    return low, high
