"""kdx: from a folder of good parts to a verdict on the line.

The names below are the public Python interface. They load lazily: ``import kdx`` imports no torch,
no ONNX Runtime and initialises no device.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kdx.bundle.bundle import Bundle
    from kdx.bundle.open import open_bundle
    from kdx.decision.verdict import Decision, Reason, Verdict
    from kdx.errors import KdxError
    from kdx.imaging.camera_frames import decode_frame
    from kdx.imaging.frame_faults import FrameFault
    from kdx.imaging.images import InputSpec, read_image, to_eight_bits
    from kdx.imaging.pixel_formats import decode_pixels
    from kdx.loading.group import DetectorGroup, load_many
    from kdx.loading.load import load
    from kdx.loading.served_answers import verdict_of_answer
    from kdx.runtime.detector import Detector

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
    "decode_frame",
    "decode_pixels",
    "load",
    "load_many",
    "open_bundle",
    "read_image",
    "to_eight_bits",
    "verdict_of_answer",
]

_HOME = {
    "Bundle": "kdx.bundle.bundle",
    "Decision": "kdx.decision.verdict",
    "Detector": "kdx.runtime.detector",
    "DetectorGroup": "kdx.loading.group",
    "FrameFault": "kdx.imaging.frame_faults",
    "InputSpec": "kdx.imaging.images",
    "KdxError": "kdx.errors",
    "Reason": "kdx.decision.verdict",
    "Verdict": "kdx.decision.verdict",
    "decode_frame": "kdx.imaging.camera_frames",
    "decode_pixels": "kdx.imaging.pixel_formats",
    "load": "kdx.loading.load",
    "load_many": "kdx.loading.group",
    "open_bundle": "kdx.bundle.open",
    "read_image": "kdx.imaging.images",
    "to_eight_bits": "kdx.imaging.images",
    "verdict_of_answer": "kdx.loading.served_answers",
}


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'kdx' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
