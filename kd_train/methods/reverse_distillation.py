"""Reverse distillation (Deng, Li: Anomaly Detection via Reverse Distillation from One-Class Embedding, CVPR 2022).

The student never sees the image: the teacher's features at layer1 to layer3 are fused and embedded (its MFF and OCE
blocks, section 3.3), and a decoder, the teacher's network inverted, gives them back. Loss and map are ``1 - cos`` at
each position (Eq. 1), averaged over positions and summed over taps; the map is the sum of the upsampled ones, blurred
with sigma 4, and the score its maximum. Since the frozen teacher's features can be kept, training needs the image once.
"""

from __future__ import annotations

from torch import Tensor

from kd_export.graph import Combine, Distance, PairSpec, ScoreRule
from kd_train.models.bottleneck import Decoder, Embedding
from kd_train.models.pair import Comparisons, Method, Pair, PairOptions, declare_map
from kd_train.models.teacher import Teacher, build_teacher


class ReversePair(Pair):
    """Teacher, embedding, decoder."""

    def __init__(self, teacher: Teacher, spec: PairSpec) -> None:
        features = teacher.features
        super().__init__(teacher, spec, tuple(feature.channels for feature in features), sees_image=False)
        self.embedding = Embedding(features)
        self.decoder = Decoder(self.embedding.channels, features)

    def compare(self, x: Tensor, teacher: list[Tensor]) -> Comparisons:
        """Compare the teacher's features with their reconstructions."""
        return list(zip(teacher, self.decoder(self.embedding(teacher), teacher), strict=True))


def build(options: PairOptions) -> tuple[Pair, str]:
    """Build the pair."""
    teacher, source = build_teacher(options.teacher, groups=1)
    names = [feature.name for feature in teacher.features]
    maps = declare_map(names, options, distance=Distance.COSINE, combine=Combine.SUM)
    return ReversePair(teacher, PairSpec((maps,), score=options.score or ScoreRule.MAX)), source


METHOD = Method(
    name="reverse-distillation",
    paper="Deng and Li, Anomaly Detection via Reverse Distillation, CVPR 2022",
    build=build,
)
