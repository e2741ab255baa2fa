"""``kdx watch``."""

from __future__ import annotations

from pathlib import Path

import typer

from kdx.cli.error_output import LinesCommand
from kdx.cli.output import out, print_json_line, say
from kdx.cli.shared_options import (
    CSV_OPTION,
    REQUIRE_SIGNATURE_OPTION,
    SEMICOLONS_OPTION,
    THREADS_OPTION,
    TRIGGER_TIMEOUT_OPTION,
)
from kdx.workflows.packages import needs

COMMAND = LinesCommand


def watch(
    folder: Path | None = typer.Argument(None, help="Folder in which images arrive, in subfolders too."),
    bundle: list[str] = typer.Option(..., "--bundle", "-b", help="Bundle that judges; of several, PRODUCT=BUNDLE."),
    output: Path = typer.Option(..., "--out", "-o", help="Folder of records and sorted files; a later call continues."),
    camera: str | None = typer.Option(None, help="Judge frames of genicam:PRODUCER, rtsp://..., /dev/video0, a video."),
    queue: int | None = typer.Option(None, min=1, help="With --camera: frames that may wait. Default: 100."),
    trigger: str | None = typer.Option(None, help="With --camera: a frame for each message of mqtt://HOST/TOPIC."),
    trigger_timeout: float | None = TRIGGER_TIMEOUT_OPTION,
    move: bool = typer.Option(False, "--move", help="Move files to good/, review/, defective/ and so on in --out."),
    link: bool = typer.Option(False, "--link", help="Link files there, and leave them where they are."),
    heat_maps: bool = typer.Option(False, "--heat-maps", help="Write a heat map of each image (PNG)."),
    csv: bool = CSV_OPTION,
    semicolons: bool = SEMICOLONS_OPTION,
    command: str | None = typer.Option(None, "--exec", help="Run for each verdict, its record on standard input."),
    mqtt: str | None = typer.Option(None, help="Publish each verdict: mqtt://HOST/TOPIC, or mqtts:// with TLS."),
    plc: str | None = typer.Option(None, help="Write verdicts to a PLC: modbus://HOST/REGISTER or opc.tcp://HOST."),
    part_id: str | None = typer.Option(None, help="Regular expression: `(?P<part>...)` or `(?P<product>...)` or both."),
    product: str | None = typer.Option(None, help="Regular expression, `(?P<product>...)`, searched in the part."),
    part_of: str | None = typer.Option(None, help="Joins views of a part: regex, `(?P<part>...)` and `(?P<view>...)`."),
    views: str | None = typer.Option(None, help="With --part-of: the views that make a part, such as left,right."),
    part_timeout: float | None = typer.Option(None, min=0, help="Seconds in which a part's views arrive. Default: 10."),
    keep: str | None = typer.Option(None, help="What is kept: good=7d,defective=1y,total=200GB. Default: everything."),
    settle: float | None = typer.Option(None, min=0, help="Seconds without change: a file is complete. Default: 2."),
    scan_every: float | None = typer.Option(None, min=0.1, help="Seconds between listings of FOLDER. Default: 10."),
    backlog: int = typer.Option(100, min=1, help="How many files may wait before that is said."),
    backend: str = typer.Option("auto", help="Backend to run on."),
    precision: str | None = typer.Option(None, help="Graph of the bundle. Default: the fastest that passes."),
    threads: int | None = THREADS_OPTION,
    require_signature: list[Path] = REQUIRE_SIGNATURE_OPTION,
    once: bool = typer.Option(False, "--once", help="End when every file is judged."),
    json: bool = typer.Option(False, "--json", help="Print JSON Lines: one object per verdict."),
) -> None:
    """Judge files as they arrive in a folder, each once, also after a kill or a power cut.

    Every verdict is a line of JSON in OUT/verdicts, in one file a day. What was not judged is never
    good. Ctrl-C and SIGTERM end after the file in hand, with exit status 0.
    """
    from kdx.station.options import watch_options

    options = watch_options(
        folder, output, bundle, camera=camera, queue=queue, trigger=trigger, trigger_timeout=trigger_timeout,
        move=move, link=link, heat_maps=heat_maps, csv=csv, semicolons=semicolons, command=command, mqtt=mqtt,
        plc=plc, part_id=part_id, product=product, part_of=part_of, views=views, part_timeout=part_timeout, keep=keep,
        settle=settle, scan_every=scan_every, backlog=backlog, backend=backend, precision=precision, threads=threads,
        require_signature=require_signature, once=once,
    )  # fmt: skip
    extras = ("camera" if camera else "watch") + ",mqtt" * bool(mqtt or trigger) + ",plc" * bool(plc)
    with needs(extras, "kdx watch"):
        from kdx.station.watching import describe, judge_arrivals

        each = print_json_line if json else lambda record: out.print(describe(record), markup=False)
        say(judge_arrivals(options, each=each, say=say).describe())
