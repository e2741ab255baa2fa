"""``kdx doctor``."""

from __future__ import annotations

import platform

from rich.markup import escape

from kdx.cli.output import make_table, out, print_json
from kdx.cli.shared_options import JSON_OPTION


def doctor(json: bool = JSON_OPTION) -> None:
    """Say what this machine can run, and what to install for the rest."""
    import kdx
    from kdx.runtime.machine import describe_machine, usable_cores
    from kdx.workflows.doctor import checks, packages

    parts, found = packages(), checks()
    machine = describe_machine(usable_cores(), {})
    if json:
        record = {"kdx": kdx.__version__, "machine": machine, "packages": parts, "checks": found}
        print_json(record)
        return
    out.print(
        f"kdx {kdx.__version__}, Python {platform.python_version()}, {machine.system}, {machine.cpu}, "
        f"{machine.cores} cores"
    )
    table = make_table("", "package", "version", "for", "pip install", left=("version", "for", "pip install"))
    for part in parts:
        missing = part["version"] is None
        shown = "[yellow]missing[/]" if missing else f"[green]{part['version']}[/]"
        table.add_row(part["package"], shown, part["for"], escape(str(part["install"])) if missing else "")
    out.print(table)
    for check in found:
        out.print(f"• {escape(check)}")
