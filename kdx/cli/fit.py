"""``kdx fit``."""

from __future__ import annotations

from pathlib import Path

import typer

from kdx.cli.errors import Interrupted
from kdx.cli.options import GOOD_FOLDER_OPTION, JSON_OPTION, MAX_BAD_OPTION, SUBFOLDERS_OPTION, one_of
from kdx.cli.output import err, print_json, progress_for, say, say_nothing
from kdx.workflows.packages import needs


def fit(
    data: Path = typer.Argument(
        help="Folder of images: a published data set, the MVTec layout, or good images directly."
    ),
    budget_ms: float = typer.Option(..., help="Milliseconds that a verdict may take, from array to verdict."),
    percentile: float = typer.Option(99.0, help="Share of the calls, in percent, that must keep the budget."),
    folder: Path | None = typer.Option(
        None, "--out", "-o", help="Folder of runs, bundles and the report. Default: fit/DATA."
    ),
    methods: str = typer.Option("", help="Methods to try, separated by commas. Default: all of kdx methods."),
    sizes: str = typer.Option("128,160,224,256", help="Sides of the square at which the networks run, in pixels."),
    backbone: str | None = typer.Option(
        None, help="The teacher: any convolutional backbone of timm; two as A,B. Default: each method's paper's."
    ),
    weights: str = typer.Option("imagenet", help="The teacher's weights: imagenet, random, or a file."),
    taps: str | None = typer.Option(None, help="Where features are compared, as kdx train takes it."),
    precision: str | None = typer.Option(
        None,
        help="What to try beside fp32, which every bundle holds. Default: all that CPUs compute; fp16 needs a GPU and "
        "an engine (kdx build-engine) and is left out.",
    ),
    threads: int | None = typer.Option(
        None, min=1, max=1024, help="Threads of each backend. Default: this machine's cores."
    ),
    category: str | None = typer.Option(None, help="Category of a data set that has several."),
    subfolders: bool = SUBFOLDERS_OPTION,
    good_folder: list[str] = GOOD_FOLDER_OPTION,
    epochs: int | None = typer.Option(None, help="Passes over the training images. Default: each recipe's."),
    hours: float | None = typer.Option(
        None, help="Begin no training after so many hours; 0: screen, and report on what is trained. Default: no limit."
    ),
    false_reject_rate: float = typer.Option(0.01, help="Share of good parts that may be rejected."),
    validation_fraction: float | None = typer.Option(
        None, help="Share of the good images to hold out. Default: 0.2, or what the false-reject rate needs."
    ),
    group_by: str | None = typer.Option(
        None, metavar="REGEX", help="Images whose names have the same match show one part, as in kdx train."
    ),
    parts: Path | None = typer.Option(None, metavar="CSV", help="The same from a file: file name, part."),
    seed: int = typer.Option(0, min=0, max=2**32 - 1, help="Seed of everything random."),
    odd_images: str = typer.Option(
        "stop",
        help="What to do where most images agree in size, colour or bit depth and few do not: stop, skip those few, or "
        "keep them and accept what they make of the detector.",
    ),
    channels: str = typer.Option("auto", help="What the camera delivers: 3 (colour), 1 (mono), auto (as the images)."),
    sixteen_bit_range: str = typer.Option("0:65535", metavar="LOW:HIGH", help="As kdx train takes it."),
    max_bad_images: int = MAX_BAD_OPTION,
    workers: int = typer.Option(2, min=0, help="Processes that decode images."),
    memory_mib: int = typer.Option(4096, min=16, help="Memory for images, and again for the teacher's features."),
    device: str = typer.Option("auto", help="Where to train: auto, cpu, cuda or cuda:N. Latency is the CPU's."),
    force: bool = typer.Option(False, "--force", help="Discard what an earlier call left in the output folder."),
    json: bool = JSON_OPTION,
) -> None:
    """Find the most accurate detector that keeps a cycle time on this machine's CPU.

    First every method at every size is exported untrained and timed, in minutes: what cannot keep the budget is never
    trained. The others are trained, every method once at its largest size, the quickest first, then the best method's
    other sizes; exported through the gate, calibrated, evaluated and timed again. Where there are no defective test
    images, accuracy is that of synthetic defects, and every figure says so.

    The output folder gets fit.json, frontier.png and .svg, and best.kdx, ready for use. Call it again to go on where it
    stopped. Exit status 1 when nothing keeps the budget.
    """
    with needs("fit", "kdx fit"):
        import matplotlib  # noqa: F401  # missed now, and not after hours of training

        from kd_train.training.train import TrainOptions
        from kdx.workflows.fit.request import CPU_PRECISIONS, FitRequest
        from kdx.workflows.fit.search import fit as search
        from kdx.workflows.fit.show import show
    from kdx.cli.train import sixteen_bits
    from kdx.runtime.latency import usable_cores

    target = folder or Path("fit") / "-".join(filter(None, (data.resolve().name, category)))
    request = FitRequest(
        data=data,
        out=target,
        budget_ms=budget_ms,
        percentile=percentile,
        methods=_names(methods),
        sizes=_numbers(sizes),
        precisions=CPU_PRECISIONS if precision is None else _names(precision),
        threads=threads or usable_cores(),
        hours=hours,
        false_reject_rate=false_reject_rate,
        force=force,
        training=TrainOptions(
            category=category,
            subfolders=subfolders,
            good_folders=tuple(good_folder),
            backbone=backbone,
            weights=weights,
            taps=taps,
            epochs=epochs,
            seed=seed,
            validation_fraction=validation_fraction,
            group_by=group_by,
            parts=parts,
            odd_images=one_of("--odd-images", odd_images, ("stop", "skip", "keep")),  # type: ignore[arg-type]
            channels=one_of("--channels", channels, ("auto", "1", "3")),  # type: ignore[arg-type]
            sixteen_bit_range=sixteen_bits(sixteen_bit_range),
            max_bad_images=max_bad_images,
            workers=workers,
            memory_mib=memory_mib,
            device=device,
        ),
    )
    try:
        report = search(request, progress_for(json), say_nothing if json else say)
    except KeyboardInterrupt:
        raise Interrupted(
            f"what is finished is in '{target}': run the same command again to continue, or with --hours 0 to report "
            "on what is trained"
        ) from None
    if json:
        print_json(report)
    else:
        show(report)
        if report.rows:
            err.print(f"{target / 'fit.json'}, {target / 'frontier.png'}, {target / 'frontier.svg'}")
    only_screened = hours == 0 and not report.rows and any(one.outcome == "may keep" for one in report.screened)
    if report.best is None and not only_screened:
        raise typer.Exit(1)


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _numbers(text: str) -> tuple[int, ...]:
    from kdx.errors import OptionError

    try:
        return tuple(int(part) for part in _names(text))
    except ValueError as error:
        raise OptionError("--sizes is not a list of numbers", expected="e.g. 128,160,256", received=text) from error
