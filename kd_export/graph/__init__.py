"""The fused detector: uint8 image in, anomaly map and score out, as one module."""

from kd_export.graph.fused_detector import FusedDetector
from kdx.bundle.pair_spec import Combine, Distance, Join, MapSpec, PairSpec, ScoreRule, Tap

__all__ = ["Combine", "Distance", "FusedDetector", "Join", "MapSpec", "PairSpec", "ScoreRule", "Tap"]
