"""The memory that a frame of 2 GB takes which is read in bands.

    python -m benchmarks bands RUN --work DIR

RUN was trained on tiles. A striped TIFF of 65536 × 32768 pixels is filled with one of its golden
images, and judged by a process of its own. Writes ``results/bands.json``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from benchmarks.commands import kdx as command
from benchmarks.commands import parser_of
from benchmarks.results import Result, machine_of

HEIGHT, WIDTH, ROWS = 65536, 32768, 256
_JUDGE = """
import json, resource, sys, kdx
with kdx.load(sys.argv[1], threads=int(sys.argv[3])) as detector:
    score = detector.judge_file(sys.argv[2]).verdict.score
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"score": score, "peak_memory_mib": peak}))
"""


def main() -> None:
    """Measure and write the result."""
    parser = parser_of(__doc__, "run", threads=2)
    parser.add_argument("--work", type=Path, required=True)
    arguments = parser.parse_args()
    bundle, frame = arguments.work.resolve() / "bands.kdx", arguments.work.resolve() / "frame.tif"
    command("export", arguments.run, "-o", bundle, "--frame", f"{HEIGHT}x{WIDTH}", "--bands", "--force")
    if not frame.is_file():
        image = np.asarray(Image.open(next((bundle / "golden").glob("*.png"))).convert("L"))
        strip = np.tile(image, (-(-ROWS // len(image)), -(-WIDTH // image.shape[1])))[:ROWS, :WIDTH]
        strips = (strip for _ in range(HEIGHT // ROWS))
        tifffile.imwrite(frame, strips, shape=(HEIGHT, WIDTH), dtype=np.uint8, rowsperstrip=ROWS)
    call = [sys.executable, "-c", _JUDGE, str(bundle), str(frame), str(arguments.threads)]
    found = json.loads(subprocess.run(call, check=True, capture_output=True, encoding="utf-8").stdout)
    identity = {"machine": machine_of(arguments.threads, ("kdx", "numpy", "tifffile")), "settings": {"rows": ROWS}}
    Result.resume("bands", identity, {"frames": 1}).put(**found, bytes=frame.stat().st_size)
    print(found)
