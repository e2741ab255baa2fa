"""kdx: from a folder of good parts to a verdict on the line.

The names below are the public Python interface. They load lazily: ``import kdx`` imports no torch, no ONNX Runtime
and initialises no device.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kdx.bundle import Bundle, open_bundle
    from kdx.errors import KdxError
    from kdx.frames import FrameFault
    from kdx.group import DetectorGroup, load_many
    from kdx.images import InputSpec, read_image, to_eight_bits
    from kdx.loading import load
    from kdx.runtime.detector import Detector
    from kdx.served import verdict_of_answer
    from kdx.verdict import Decision, Reason, Verdict

__version__ = "0.1.0"

__all__ = [
    "Bundle",
    "Decision",
    "Detector",
    "DetectorGroup",
    "FrameFault",
    "InputSpec",
    "KdxError",
    "Reason",
    "Verdict",
    "__version__",
    "load",
    "load_many",
    "open_bundle",
    "read_image",
    "to_eight_bits",
    "verdict_of_answer",
]

_HOME = {
    "Bundle": "kdx.bundle",
    "Decision": "kdx.verdict",
    "Detector": "kdx.runtime.detector",
    "DetectorGroup": "kdx.group",
    "FrameFault": "kdx.frames",
    "InputSpec": "kdx.images",
    "KdxError": "kdx.errors",
    "Reason": "kdx.verdict",
    "Verdict": "kdx.verdict",
    "load": "kdx.loading",
    "load_many": "kdx.group",
    "open_bundle": "kdx.bundle",
    "read_image": "kdx.images",
    "to_eight_bits": "kdx.images",
    "verdict_of_answer": "kdx.served",
}


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'kdx' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
