"""``kdx fit``."""

from __future__ import annotations

from pathlib import Path

import typer

from kd_train.training.options import TrainOptions
from kdx.cli.error_output import Interrupted
from kdx.cli.output import err, print_json, progress_for, say, say_nothing, shown
from kdx.cli.shared_options import JSON_OPTION
from kdx.cli.train_options import DATA_ARGUMENT, TRAIN_OPTIONS, with_train_options
from kdx.imaging.image_size import parse_size
from kdx.workflows.packages import needs


@with_train_options("fit")
def fit(
    data: Path = DATA_ARGUMENT,
    budget_ms: float = typer.Option(..., help="Milliseconds that a verdict may take, from array to verdict."),
    percentile: float = typer.Option(99.0, help="Share of the calls, in percent, that must keep the budget."),
    folder: Path | None = typer.Option(
        None, "--out", "-o", help="Folder of runs, bundles and the report. Default: fit/DATA, or fit/DATA-CATEGORY."
    ),
    methods: str = typer.Option("", help="Methods to try, separated by commas. Default: all of kdx methods."),
    sizes: str = typer.Option(
        "128,160,224,256", help="Sizes at which the networks run: sides of squares, or HEIGHTxWIDTH."
    ),
    precision: str | None = typer.Option(
        None,
        help="What to try beside fp32, which every bundle holds. Default: all that CPUs compute; fp16 needs a GPU and "
        "an engine (kdx build-engine) and is left out.",
    ),
    threads: int | None = typer.Option(
        None, min=1, max=1024, help="Threads of each backend. Default: this machine's cores."
    ),
    hours: float | None = typer.Option(
        None,
        help="Stop what would not end in so many hours; 0: train nothing; time the candidates and report on what is "
        "already trained. Default: no limit.",
    ),
    false_reject_rate: float = typer.Option(0.01, help="Share of good parts that may be rejected."),
    training: TrainOptions = TRAIN_OPTIONS,
    force: bool = typer.Option(False, "--force", help="Discard what an earlier call left in the output folder."),
    json: bool = JSON_OPTION,
) -> None:
    """Find the most accurate detector that keeps a cycle time on this machine's CPU.

    First every method at every size is exported untrained and timed, in minutes: what cannot keep
    the budget is never trained. The others are trained: every method once, the quickest first, at
    its largest size, or with --hours at its smallest; then the best method's other sizes. They are
    exported through the gate, calibrated, evaluated and timed again. STPM is also tried with a
    compact teacher and with the network from which that one learns. Where there are no defective
    test images, accuracy is that of synthetic defects, and every figure says so.

    The output folder gets fit.json, frontier.png and .svg, and best.kdx, ready for use. Run the
    same command again to continue where it stopped. Exit status 1 when nothing keeps the budget.
    """
    with needs("fit", "kdx fit"):
        import matplotlib  # noqa: F401  # missed now, and not after hours of training

        from kdx.cli.fit_table import show_report
        from kdx.workflows.fit.request import CPU_PRECISIONS, FitRequest
        from kdx.workflows.fit.search import fit as search
    from kdx.runtime.machine import usable_cores

    target = folder or Path("fit") / "-".join(filter(None, (data.resolve().name, training.category)))
    request = FitRequest(
        data=data,
        out=target,
        budget_ms=budget_ms,
        percentile=percentile,
        methods=_names(methods),
        sizes=tuple(parse_size("`sizes`", size) for size in _names(sizes)),
        precisions=CPU_PRECISIONS if precision is None else _names(precision),
        threads=threads or usable_cores(),
        hours=hours,
        false_reject_rate=false_reject_rate,
        force=force,
        training=training,
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
        show_report(report)
        if report.rows:
            err.print(", ".join(shown(target / name) for name in ("fit.json", "frontier.png", "frontier.svg")))
    only_screened = hours == 0 and not report.rows and any(one.outcome == "may keep" for one in report.screened)
    if report.best is None and not only_screened:
        raise typer.Exit(1)


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())
