"""A training that frees and allocates the same memory gets no new pages from the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kd_train.training.freed_memory import keep_freed_memory

if not keep_freed_memory():
    pytest.skip("only glibc has these settings", allow_module_level=True)

FAULTS = """
import resource, sys
import numpy as np
from kd_train.training.freed_memory import keep_freed_memory
assert sys.argv[1] == "as it is" or keep_freed_memory()
def touch():
    several = [np.full(2**20, 1.0) for _ in range(3)]  # 8 MiB each
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_memory_is_used_again():
    faults = {
        how: int(subprocess.run([sys.executable, "-c", FAULTS, how], check=True, capture_output=True).stdout)
        for how in ("as it is", "kept")
    }
    # 60 arrays of 2,048 pages of 4 KiB. Huge pages, where the system gives them, are fewer.
    assert faults["kept"] < 100
    assert faults["as it is"] > 10 * max(1, faults["kept"])
