"""What a station is asked for."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from kdx.errors import OptionError
from kdx.station.broker import Broker, parse_brokers
from kdx.station.bundles import LoadOptions, bundle_paths
from kdx.station.camera.address import CameraAddress, parse_camera, require_triggered
from kdx.station.camera.spool import FOLDER as CAMERA_FOLDER
from kdx.station.names import NamePattern, name_pattern
from kdx.station.plc.address import PlcAddress, parse_plc
from kdx.station.retention import Keep, parse_keep
from kdx.storage.spreadsheet import CsvStyle, csv_style


@dataclass(frozen=True, kw_only=True)
class WatchOptions:
    """What a station is asked for.

    Attributes:
        folder: The folder that is watched, or in which the frames of a camera wait.
        out: The output folder.
        bundles: The bundle of each product, or the only bundle, of the product None.
        load: How bundles are loaded.
        files: What is done with judged files.
        heat_maps: Whether a heat map of each image is written.
        csv: The style of the tables of verdicts; None for no tables.
        settle: How many seconds a file must be at rest.
        scan_every: After how many seconds the folder is listed again.
        pattern: What the names of files say.
        part_timeout: After how many seconds a part is undecided whose views are not complete.
        keep: What is kept for how long; None keeps everything.
        backlog: When more files than this wait, the user is told.
        command: A command that is run for each verdict, or None.
        broker: An MQTT broker to which each verdict is published, or None.
        plc: A PLC to which each verdict and a heartbeat are written, or None.
        once: Whether to end when every file is judged.
        camera: The camera whose frames are judged; None for files.
        queue: How many frames may wait for their verdict.
        trigger: An MQTT broker and a topic, each of whose messages asks for a frame; None judges
            every frame that the camera sends.
        trigger_timeout: The seconds within which a trigger must have its frame.
    """

    folder: Path
    out: Path
    bundles: Mapping[str | None, Path]
    load: LoadOptions = field(default_factory=LoadOptions)
    files: Literal["stay", "move", "link", "remove"] = "stay"
    heat_maps: bool = False
    csv: CsvStyle | None = None
    settle: float = 2.0
    scan_every: float = 10.0
    pattern: NamePattern = field(default_factory=NamePattern)
    part_timeout: float = 10.0
    keep: Keep | None = None
    backlog: int = 100
    command: tuple[str, ...] | None = None
    broker: Broker | None = None
    plc: PlcAddress | None = None
    once: bool = False
    camera: CameraAddress | None = None
    queue: int = 100
    trigger: Broker | None = None
    trigger_timeout: float = 2.0


def watch_options(
    folder: Path | None,
    out: Path,
    bundle: Sequence[str],
    *,
    camera: str | None,
    queue: int | None,
    trigger: str | None,
    trigger_timeout: float | None,
    move: bool,
    link: bool,
    heat_maps: bool,
    csv: bool,
    semicolons: bool,
    command: str | None,
    mqtt: str | None,
    plc: str | None,
    part_id: str | None,
    product: str | None,
    part_of: str | None,
    views: str | None,
    part_timeout: float | None,
    keep: str | None,
    settle: float | None,
    scan_every: float | None,
    backlog: int,
    backend: str,
    precision: str | None,
    threads: int | None,
    require_signature: Sequence[Path],
    once: bool,
) -> WatchOptions:
    """Return the options as users give them.

    Raises:
        OptionError: One is invalid, or contradicts another.
    """
    if move and link:
        raise OptionError("files are either moved or linked", received="`move` and `link`", fix="leave out one of them")
    if semicolons and not csv:
        raise OptionError("`semicolons` would change nothing without `csv`", fix="add `csv`, or leave out `semicolons`")
    address = None if camera is None else parse_camera(camera)
    if (folder is None) == (address is None):
        raise OptionError(
            "either a `folder` is watched, or the frames of a `camera` are judged",
            received="neither of them" if folder is None else "both",
            fix="name one of them",
        )
    of_files = {"link": link, "part_of": part_of, "settle": settle, "scan_every": scan_every}
    of_cameras = {"queue": queue, "trigger": trigger}
    _require_effect(of_files if address else of_cameras, "a `folder`" if address else "`camera`")
    if trigger is None:
        _require_effect({"trigger_timeout": trigger_timeout}, "`trigger`")
    elif address is not None:
        require_triggered(address)
        if part_id is not None:
            raise OptionError(
                "`part_id` would change nothing with `trigger`: the message of a trigger names the part",
                fix="leave out `part_id`, and send the part's identifier, or an object with part_id and product",
            )
    if address is not None and address.is_live and once:
        raise OptionError(
            "`once` would change nothing: a camera does not end", fix="leave out `once`, and end with Ctrl-C"
        )
    if part_timeout is not None and part_of is None:
        raise OptionError(
            "`part_timeout` would change nothing without `part_of`", fix="add `part_of`, or leave out `part_timeout`"
        )
    plc_address = None if plc is None else parse_plc(plc)
    if once and plc_address is not None and plc_address.max_age is not None:
        raise OptionError(
            "with `once`, `plc` would get nothing: how old files are that were there before is not known",
            fix="leave out `once`, or max_age of `plc`",
        )
    brokers = parse_brokers(mqtt=mqtt, trigger=trigger)
    bundles = bundle_paths(bundle)
    names = [] if views is None else [name.strip() for name in views.split(",") if name.strip()]
    return WatchOptions(
        folder=out / CAMERA_FOLDER if folder is None else folder,
        out=out,
        bundles=bundles,
        load=LoadOptions(backend, threads, precision, tuple(require_signature), heat_maps),
        files="move" if move else "link" if link else "stay" if address is None else "remove",
        heat_maps=heat_maps,
        csv=csv_style(semicolons=semicolons) if csv else None,
        settle=WatchOptions.settle if settle is None else settle,
        scan_every=WatchOptions.scan_every if scan_every is None else scan_every,
        pattern=name_pattern(
            part_id, part_of, names, product=product, has_products=None not in bundles and trigger is None
        ),
        part_timeout=WatchOptions.part_timeout if part_timeout is None else part_timeout,
        keep=None if keep is None else parse_keep(keep),
        backlog=backlog,
        command=None if command is None else _words(command),
        broker=brokers["mqtt"],
        plc=plc_address,
        once=once,
        camera=address,
        queue=WatchOptions.queue if queue is None else queue,
        trigger=brokers["trigger"],
        trigger_timeout=WatchOptions.trigger_timeout if trigger_timeout is None else trigger_timeout,
    )


def _require_effect(given: Mapping[str, object], needed: str) -> None:
    for name, value in given.items():
        if value is not None and value is not False:  # 0 was given too
            raise OptionError(f"`{name}` would change nothing without {needed}", fix=f"leave out `{name}`")


def _words(command: str) -> tuple[str, ...]:
    try:
        words = tuple(shlex.split(command))
    except ValueError as error:
        raise OptionError(f"the command cannot be split into words: {error}", received=command) from error
    if not words:
        raise OptionError("`command` names no program", fix="`command='program argument'`")
    if shutil.which(words[0]) is None:
        raise OptionError(
            "`command` names a program that is not there or cannot be executed",
            received=words[0],
            fix="name it with its folder, or install it",
        )
    return words
