"""The kernels against their references without a GPU: Triton interprets them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_kernels_compute_what_the_graph_does() -> None:
    pytest.importorskip("triton", reason="triton is not installed: pip install triton")
    # Triton reads the variable when it is imported, and would then interpret for every other test
    # of this process.
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    tests = Path(__file__).with_name("interpreted.py")
    # Without the fixtures of every test, which import the exporter.
    options = ("-n", "0", "-q", "-p", "no:cacheprovider", "--noconftest")
    command = [sys.executable, "-m", "pytest", *options, str(tests)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert " skipped" not in done.stdout, done.stdout
