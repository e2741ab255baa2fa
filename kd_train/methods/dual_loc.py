"""The localisation half of the dual model (Thomine, Snoussi, 2024, section 3.2).

It is the reduced student on layer1 and layer2 of ResNet-18, without the stem. The map is half the
squared distance of the normalised features (Eq. 1), summed over taps (Eq. 6) and blurred; the score
is its maximum. The paper normalises each image's map before the blur, for display. With a scale of
its own for each image, scores could not be compared, so the map is not normalised here.
"""

from __future__ import annotations

from kd_train.methods.reduced_student import build
from kd_train.models.pair import Method

METHOD = Method(name="dual-loc", paper="Thomine and Snoussi, Dual model (localisation), 2024", build=build)
