"""DSKD: two students, the second the inverse of the first (Yao, 2024).

The student ``S_e`` has the teacher's network with random initial weights and takes the image. Its
features are L2-normalised (Eq. 3, read as division by the norm, not by its square), embedded
(section 3.2, Fig. 4) and decoded by ``S_d``, the inverted network. Each student is distilled by
itself: no gradient of ``S_d``'s loss reaches ``S_e`` ("separately and independently").

The distance at each position is ``lambda · ½‖t̂ − ŝ‖² + (1 − cos)`` (Eq. 4 to 6, lambda 0.1). For
unit vectors ``½‖t̂ − ŝ‖² = 1 − cos``, so ``1.1 · (1 − cos)`` is computed. The loss is the mean over
positions and taps (Eq. 7). The map is the sum of the upsampled distances between the teacher and
``S_d`` (Eq. 8), blurred with sigma 4 (Eq. 9), and the score is its maximum (Eq. 10). The
comparisons of ``S_e`` are only for training and not in the deployed graph.

The structures of Table 7: ``t-e`` has no decoder; ``t-d`` has no ``S_e``, and the teacher's own
features are embedded; ``e-d`` compares ``S_d`` with ``S_e``, which is distilled from the teacher,
because otherwise there would be nothing to learn. The paper does not give the size of the
embedding. With that of the reverse distillation that it cites (512 channels at stride 32) the
deployed graph has 6.16 G multiply-adds at 256 × 256, which agrees with the paper's "6.17 GFLOP".
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kd_export.graph import Combine, Distance, MapSpec, PairSpec, ScoreRule
from kd_export.graph.distance import unit_vectors
from kd_train.models.bottleneck import Decoder, Embedding
from kd_train.models.pair import Comparisons, Method, MethodOption, Pair, PairOptions, declare_map
from kd_train.models.teacher import Teacher, build_teacher, untrained_network
from kdx.errors import OptionError

_LAMBDA = 0.1
_EVERY = "all"


class DualStudentPair(Pair):
    """The teacher, and the students of the structure.

    Args:
        teacher: The teacher.
        encoder: The student ``S_e``, or None.
        structure: ``ds``, ``t-e``, ``t-d`` or ``e-d``.
        fuse: Whether the embedding takes every feature, not only the last one.
        mapped: The indices of the taps in the map.
        spec: The declaration of the map.
    """

    def __init__(
        self,
        teacher: Teacher,
        encoder: nn.Module | None,
        structure: str,
        fuse: bool,
        mapped: list[int],
        spec: PairSpec,
    ) -> None:
        features = teacher.features
        count = len(spec.loss_taps)
        channels = [features[i].channels for i in _in_order(mapped, len(features))]
        super().__init__(teacher, spec, tuple(channels * 2)[:count], sees_image=encoder is not None)
        self.structure = structure
        self.mapped = mapped
        self.encoder = encoder
        self.embedding = None if structure == "t-e" else Embedding(features, fuse=fuse)
        self.decoder = None if self.embedding is None else Decoder(self.embedding.channels, features)

    def compare(self, x: Tensor, teacher: list[Tensor]) -> Comparisons:
        """Return the two features that the structure compares at each tap of the map."""
        encoded = None if self.encoder is None else self.encoder(x)
        compared = self._compare_decoded(encoded, teacher, teacher)
        return [compared[index] for index in self.mapped]

    def compare_training(self, x: Tensor, teacher: list[Tensor]) -> Comparisons:
        """Return the two features at every tap, and teacher and ``S_e`` if both students exist."""
        return self._compare_trained(None if self.encoder is None else self.encoder(x), teacher, teacher)

    def compare_damaged(self, x: Tensor, teacher: list[Tensor]) -> Comparisons:
        """Return the same; without ``S_e`` the decoder takes the damaged images' features."""
        if self.encoder is not None:
            return self._compare_trained(self.encoder(x), teacher, teacher)
        with torch.no_grad():
            seen = self.teacher_features(x)
        return self._compare_trained(None, seen, teacher)

    def _compare_trained(
        self, encoded: list[Tensor] | None, teacher: list[Tensor], targets: list[Tensor]
    ) -> Comparisons:
        compared = self._compare_decoded(encoded, teacher, targets)
        order = _in_order(self.mapped, len(compared))
        comparisons = [compared[index] for index in order]
        if encoded is not None and self.decoder is not None:
            comparisons += [(targets[index], encoded[index]) for index in order]
        return comparisons

    def _compare_decoded(
        self, encoded: list[Tensor] | None, teacher: list[Tensor], targets: list[Tensor]
    ) -> Comparisons:
        """Return both features at every tap.

        Args:
            encoded: The features of ``S_e``, or None without it.
            teacher: The teacher's features, which are decoded without ``S_e``.
            targets: The teacher's features with which the students are compared.
        """
        if self.embedding is None or self.decoder is None:
            assert encoded is not None
            return list(zip(targets, encoded, strict=True))
        # Detached: the first student does not learn from the second one's loss.
        source = teacher if encoded is None else [feature.detach() for feature in encoded]
        decoded = self.decoder(self.embedding([unit_vectors(feature) for feature in source]), source)
        return list(zip(source if self.structure == "e-d" else targets, decoded, strict=True))


def build(options: PairOptions) -> tuple[Pair, str]:
    """Build the method's pair; see :class:`kd_train.models.pair.Method`."""
    teacher, source = build_teacher(options.teacher, groups=1)
    structure = options.choices["structure"]
    names = [feature.name for feature in teacher.features]
    mapped = _mapped(options.choices["maps"], len(names))

    def declare(chosen: list[str]) -> MapSpec:
        # Eq. 6 and 7; see the module's docstring.
        return declare_map(
            chosen,
            options,
            distance=Distance.COSINE,
            combine=Combine.SUM,
            weight=1 + _LAMBDA,
            loss_weight=(1 + _LAMBDA) / len(names),
        )

    in_order = [names[index] for index in _in_order(mapped, len(names))]
    trained = declare(in_order[len(mapped) :]).taps
    if structure in {"ds", "e-d"}:
        trained += declare([f"{name} S_e" for name in in_order]).taps
    spec = PairSpec((declare(in_order[: len(mapped)]),), score=options.score or ScoreRule.MAX, trained=trained)
    encoder = None if structure == "t-d" else untrained_network(options.teacher, tuple(names))
    return DualStudentPair(teacher, encoder, structure, options.choices["dfe"] == "yes", mapped, spec), source


def _mapped(choice: str, count: int) -> list[int]:
    if choice == _EVERY:
        return list(range(count))
    if int(choice) > count:
        raise OptionError("invalid `maps` for the method dskd", expected=f"{_EVERY}, or 1 to {count}", received=choice)
    return [int(choice) - 1]


def _in_order(mapped: list[int], count: int) -> list[int]:
    """Return all indices, those of the map's taps first."""
    return mapped + [index for index in range(count) if index not in mapped]


METHOD = Method(
    name="dskd",
    paper="Yao, Dual-Student Knowledge Distillation Networks for Unsupervised Anomaly Detection, 2024",
    build=build,
    options=(
        MethodOption("structure", ("ds", "t-e", "t-d", "e-d"), "the networks that are compared (DSKD Table 7)"),
        MethodOption(
            "dfe", ("yes", "no"), "whether the embedding fuses every feature or takes the last (DSKD Table 8)"
        ),
        MethodOption("maps", (_EVERY, "1", "2", "3"), "the taps whose maps are summed (DSKD Table 9)"),
    ),
)
