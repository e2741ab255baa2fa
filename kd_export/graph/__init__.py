"""The fused detector: uint8 image in, anomaly map and score out, as one module."""

from kd_export.graph.detector import FusedDetector
from kd_export.graph.spec import Combine, Distance, PairSpec, ScoreRule

__all__ = ["Combine", "Distance", "FusedDetector", "PairSpec", "ScoreRule"]
