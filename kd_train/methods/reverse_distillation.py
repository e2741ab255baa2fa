"""Reverse distillation (Deng, Li: Reverse Distillation from One-Class Embedding, CVPR 2022).

The student does not take the image. The teacher's features at layer1 to layer3 are fused and
embedded (the paper's MFF and OCE blocks, section 3.3), and a decoder, the teacher's network
inverted, reconstructs them. The distance at each position is ``1 - cos`` (Eq. 1). The loss is its
mean over positions, summed over taps; the map is the sum of the upsampled distances, blurred with
sigma 4, and the score is its maximum. The features of the frozen teacher can be cached, so training
needs each image only once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kd_export.graph import Combine, Distance, PairSpec, ScoreRule
from kd_train.models.bottleneck import Decoder, Embedding
from kd_train.models.pair import Comparisons, Method, Pair, PairOptions, declare_map
from kd_train.models.teacher import Teacher, build_teacher


class ReversePair(Pair):
    """The teacher, the embedding and the decoder."""

    def __init__(self, teacher: Teacher, spec: PairSpec) -> None:
        features = teacher.features
        super().__init__(teacher, spec, tuple(feature.channels for feature in features), sees_image=False)
        self.embedding = Embedding(features)
        self.decoder = Decoder(self.embedding.channels, features)

    def compare(self, x: Tensor, teacher: list[Tensor]) -> Comparisons:
        """Return the teacher's features with their reconstructions."""
        return list(zip(teacher, self.decoder(self.embedding(teacher), teacher), strict=True))

    def compare_damaged(self, x: Tensor, teacher: list[Tensor]) -> Comparisons:
        """Return the undamaged images' features with reconstructions from the damaged ones'."""
        with torch.no_grad():
            seen = self.teacher_features(x)
        return list(zip(teacher, self.decoder(self.embedding(seen), teacher), strict=True))


def build(options: PairOptions) -> tuple[Pair, str]:
    """Build the method's pair; see :class:`kd_train.models.pair.Method`."""
    teacher, source = build_teacher(options.teacher, groups=1)
    names = [feature.name for feature in teacher.features]
    maps = declare_map(names, options, distance=Distance.COSINE, combine=Combine.SUM)
    return ReversePair(teacher, PairSpec((maps,), score=options.score or ScoreRule.MAX)), source


METHOD = Method(
    name="reverse-distillation",
    paper="Deng and Li, Anomaly Detection via Reverse Distillation, CVPR 2022",
    build=build,
)
