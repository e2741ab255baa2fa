"""``kdx drift``."""

from __future__ import annotations

from pathlib import Path

import typer

from kdx.cli.output import make_table, out, print_json
from kdx.cli.shared_options import JSON_OPTION
from kdx.text import percent


def drift(
    bundle: Path = typer.Argument(help="Calibrated bundle."),
    log: Path = typer.Argument(help="Log of verdicts: kdx.load(BUNDLE, log=PATH)."),
    window: int = typer.Option(500, help="How many of the latest verdicts are compared."),
    effect: float = typer.Option(0.25, help="Smallest difference of the two distributions that is an alarm, 0 to 1."),
    significance: float = typer.Option(0.001, help="Largest p-value of an alarm."),
    json: bool = JSON_OPTION,
) -> None:
    """Say whether parts still score as they did at calibration, and if not, since when.

    The effect is the share of parts that score where calibration's did not (Kolmogorov-Smirnov).
    Exit status 1 on alarm: then look at the lighting, the lens and the parts, and calibrate again
    once they are as they should be.
    """
    from kdx.bundle.open import open_bundle
    from kdx.monitoring.drift import find_drift
    from kdx.monitoring.verdict_log import read_log

    found = find_drift(
        open_bundle(bundle), read_log(log), window=window, effect_limit=effect, significance=significance
    )
    if json:
        print_json({"bundle": str(bundle), "log": str(log), **_as_dict(found)})
    else:
        table = make_table(
            f"{bundle}: {found.recent} recent scores against {found.calibrated} at calibration",
            "share of parts below", "calibration", "recent", "change",
        )  # fmt: skip
        for each in found.quantiles:
            change = f"{each.recent / each.calibration - 1:+.1%}" if each.calibration else "–"
            table.add_row(f"{each.share:.0%}", f"{each.calibration:.4g}", f"{each.recent:.4g}", change)
        out.print(table)
        out.print(
            f"effect {found.effect:.2f} (limit {found.effect_limit:g}), p {found.p_value:.2g}; scores are "
            f"{found.direction}; rejected {percent(found.rejected)} %, undecided {percent(found.undecided)} %, "
            f"not compared: {found.without_part} frames without a part, {found.other_region} of another region"
        )
        none = "no drift" if found.effect < found.effect_limit else "no drift shown: so few scores may differ by chance"
        out.print(f"[bold red]drift[/] since {found.since}" if found.alarm else f"[green]{none}[/]")
    if found.alarm:
        raise typer.Exit(1)


def _as_dict(found: object) -> dict[str, object]:
    import msgspec

    record: dict[str, object] = msgspec.to_builtins(found)
    return record
