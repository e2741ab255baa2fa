"""What is timed, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from kdx.errors import OptionError
from kdx.progress import SILENT
from kdx.workflows.bench import measure_latency


def test_the_eager_baseline_knows_no_tiles(tmp_path):
    bundle = SimpleNamespace(manifest=SimpleNamespace(tiling=object()))
    with pytest.raises(OptionError, match="knows no tiles") as caught:
        measure_latency(bundle, 1, baseline=tmp_path, batches=(1,), runs=1, warm_up=0, progress=SILENT)
    assert caught.value.fix == "leave out `baseline`"
