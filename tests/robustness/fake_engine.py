"""A TensorRT that records, put into a process of its own: see ``tools/setups.py``."""

from __future__ import annotations


def install() -> None:
    """Put a fake TensorRT and a GPU into this machine."""
    from kd_export.engine import build, flavours
    from kdx.runtime.gpu import Gpu
    from tests.kd_export.engine import fake_builder

    module = fake_builder.make("10.16.1")
    build.load_flavour = lambda name: flavours.Flavour(name, module)
    for where in (build, flavours):
        where.gpus = lambda: (Gpu("NVIDIA RTX A2000", "8.6", "13.0"),)
