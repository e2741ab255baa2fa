"""Every command and every Python program of the guides runs, in their order, on small images and
for one epoch."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image

import kdx
from tests.conftest import BACKBONE, SIZE, TINY_OPTIONS, write_dataset
from tests.kdx.station.camera.clips import write_clip
from tests.kdx.station.plc import modbus_server, opcua_server
from tests.once import made_once

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs/guides"
SERVED = "127.0.0.1:8080"
PLC, PLC_UA = "modbus://192.168.0.10/100", """'opc.tcp://192.168.0.10/?node=ns=3;s="kdx"'"""
GUIDES = sorted(path.stem for path in DOCS.glob("*.md") if path.stem != "index")
_PACKAGES = {"fit": "matplotlib", "rtx": "tensorrt_rtx", "serving": "tritonclient"}
# What trains, exports or measures gets options with which it is quick; the guides give the rest.
_QUICK = {
    "train": ("--epochs", "1", *TINY_OPTIONS),
    "export": ("--max-batch", "1"),
    "quantize": ("--epochs", "1", "--workers", "0", "--device", "cpu"),
    "fit": ("--epochs", "1", "--backbone", BACKBONE, "--weights", "random", "--threads", "1", "--device", "cpu",
            "--false-reject-rate", "0.2", "--validation-fraction", "0.5", "--workers", "0", "--precision", "fp32",
            "--budget-ms", "60000"),  # a loaded machine may take any time
    "bench": ("--runs", "20", "--warm-up", "1"),
    "bench --percentile": ("--runs", "100", "--warm-up", "1"),  # as many as the 99th needs
}  # fmt: skip
# The guides' sizes that are not squares, and what stands for them.
_SMALL_SIZES = {"256x1024": "32x128"}


def blocks(text: str) -> list[tuple[str, str]]:
    """Return the kind and the content of every fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def line_pc(tmp_path_factory, tiny_run, tiny_bundle, make_dataset) -> Path:
    """What the guides begin with: images, a run, a bundle, a line's log."""

    def made(folder: Path) -> None:
        write_dataset(folder / "parts")
        shutil.copytree(folder / "parts/test/good", folder / "fresh")
        for index, path in enumerate(sorted((folder / "parts/train/good").iterdir())):
            shutil.copy(path, folder / "fresh" / f"more-{index}.png")
        (folder / "repeats").mkdir()
        for index in range(10):  # one part, each time a little brighter
            Image.open(folder / "fresh/more-0.png").point([min(each + index, 255) for each in range(256)]).save(
                folder / f"repeats/{index}.png"
            )
        shutil.copytree(tiny_run, folder / "runs/tile")
        shutil.copytree(tiny_bundle, folder / "tile.kdx")
        shutil.copytree(tiny_bundle, folder / "other.kdx")
        write_clip(folder / "clip.mp4", [np.asarray(Image.open(path)) for path in sorted((folder / "fresh").iterdir())])
        with kdx.load(folder / "tile.kdx", "onnxruntime-cpu", 1, log=folder / "line.log") as detector:
            frame = kdx.read_image(folder / "parts/test/good/012.png", detector.input)
            for _ in range(60):  # as many as a comparison takes
                detector(frame)

    return made_once(tmp_path_factory, "line-pc", made)


@pytest.mark.slow
@pytest.mark.usefixtures("short_search")
@pytest.mark.parametrize("guide", GUIDES)
def test_every_command_of_a_guide_runs(guide, line_pc, tmp_path, monkeypatch, cli):
    # Compact teachers have their own tests; here they would double what kdx fit exports and trains.
    monkeypatch.setattr("kdx.workflows.fit.request.FitRequest.compact_and_source", None)
    monkeypatch.setattr("kd_train.training.quantization._EPOCHS", 1)  # of kdx train --precision int8
    for calls in ("_ROUND_RUNS", "_FINAL_RUNS"):
        monkeypatch.setattr(f"kdx.workflows.fit.cpu_timing.{calls}", 20)
    folder = Path(shutil.copytree(line_pc, tmp_path / "work"))
    monkeypatch.chdir(folder)
    namespace, served = {"__name__": "__main__"}, SERVED
    with ExitStack() as running:
        for kind, body in blocks((DOCS / f"{guide}.md").read_text(encoding="utf-8")):
            if kind == "python":
                exec(compile(body.replace(SERVED, served), f"{guide}.md", "exec"), namespace)
            elif kind == "":
                for line in body.splitlines():
                    with_plc = running.enter_context(at_plc(line)) if PLC in line or PLC_UA in line else line
                    if line.startswith("kdx serve"):
                        served = running.enter_context(serving(with_plc))
                    else:
                        run(with_plc, cli)


@contextmanager
def serving(line: str) -> Iterator[str]:
    """Run the server of a guide on a free port, and return its address, until the guide's end."""
    for package in ("starlette", "uvicorn"):
        pytest.importorskip(package, reason="the extra serve is not installed")
    options = ("--port", "0", "--json", "--backend", "onnxruntime-cpu")
    command = [sys.executable, "-m", *shlex.split(line), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8") as process:
        try:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["url"]
            urlopen(f"{url}/health").close()  # from now on, it ends in order
            yield url.removeprefix("http://")
        finally:
            process.terminate()
    assert process.returncode in {0, 1}  # Windows ends it at once


@contextmanager
def at_plc(line: str) -> Iterator[str]:
    """Run the server of a PLC on a free port, and return the line with its URL."""
    for package in ("asyncua", "pymodbus"):
        pytest.importorskip(package, reason="the extra plc is not installed")
    if PLC in line:
        with modbus_server.Server(modbus_server.Plc()) as server:
            yield line.replace(PLC, server.url)
    else:
        with opcua_server.Server() as variables:
            yield line.replace(PLC_UA, shlex.quote(variables.url()))


def run(line: str, cli) -> None:
    """Run a line of a guide; a command that exists already replaces what an earlier one made."""
    text, _, comment = line.partition("    # ")
    program, command, *arguments = shlex.split(text)
    assert program == "kdx"
    needed = re.search(r"needs the extra (\w+)", comment)
    if needed and find_spec(_PACKAGES[needed[1]]) is None:
        warnings.warn(f"not run, {_PACKAGES[needed[1]]} is not installed: {text}", stacklevel=1)
        return
    kind = f"{command} --percentile" if "--percentile" in arguments else command
    quick = [part for part in _QUICK.get(kind, ()) if part]
    if size := next((part for part in arguments if re.fullmatch(r"\d+x\d+", part)), ""):
        quick = [_SMALL_SIZES.get(size, size) if part == str(SIZE) else part for part in quick]
    arguments = [*_without(arguments, quick), *quick]
    made = [after for before, after in pairwise(arguments) if before in {"-o", "--out"}]
    if command in {"train", "export"} and Path(made[0]).exists():
        arguments.append("--force")
    allowed = {0, 1} if "exit status 1" in comment else {0}
    done = cli(command, *arguments, code=None)
    assert done.exit_code in allowed, f"{line}\n{done.stdout}\n{done.stderr}"


def _without(arguments: list[str], quick: list[str]) -> list[str]:
    """Leave out options that are given again."""
    kept, skip = [], False
    for part in arguments:
        if skip:
            skip = False
        elif part.startswith("--") and part in quick:
            skip = True
        else:
            kept.append(part)
    return kept


def test_the_index_lists_every_guide():
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"\]\((.+)\.md\)", index)) == GUIDES
