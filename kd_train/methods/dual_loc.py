"""The localisation half of the dual model (Thomine, Snoussi: Dual model knowledge distillation, 2024, section 3.2).

The reduced student on ResNet-18's layer1 and layer2, without the stem. Half the squared distance of the normalised
features (Eq. 1), summed over taps (Eq. 6), blurred; the score is the map's maximum. The paper normalises the map before
the blur, for display: both are linear up to an image's own scale, and a scale of its own would make its score
meaningless, so the map stays raw.
"""

from __future__ import annotations

from kd_train.methods.reduced_student import build
from kd_train.models.pair import Method

METHOD = Method(name="dual-loc", paper="Thomine and Snoussi, Dual model (localisation), 2024", build=build)
