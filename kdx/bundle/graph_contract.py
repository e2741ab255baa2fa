"""The contract of the exported graph: its tensors' names, and the prefixes of its nodes' names.

``kd_export`` writes graphs that keep it, and every runtime and precision pass relies on it. The
input is uint8 ``(N, H, W, C)``; both outputs are float32.
"""

from __future__ import annotations

INPUT = "image"
MAP = "anomaly_map"
SCORE = "anomaly_score"
OUTPUTS = (MAP, SCORE)

# A node is named after the module of the fused detector that it comes from:
# ``pair.student.layer1.0.conv1/Conv``.
PREPROCESS = "preprocess"
PAIR = "pair"
TAIL = "tail"
MODULES = (PREPROCESS, PAIR, TAIL)
TEACHER = f"{PAIR}.teacher"


def distance_prefix(map_index: int, tap_index: int) -> str:
    """Return the prefix of the names of the nodes of one distance.

    Args:
        map_index: The position of the map in the pair's declaration, from 0.
        tap_index: The position of the tap in that map, from 0.
    """
    return f"{TAIL}.maps.{map_index}.distances.{tap_index}/"
