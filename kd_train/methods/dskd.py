"""DSKD: two students, one the other's inverse (Yao: Dual-Student Knowledge Distillation Networks).

``S_e`` has the teacher's network, random at first, and sees the image; its features are L2-normalised (Eq. 3, read as
division by the norm, not by its square), embedded (section 3.2, Fig. 4) and decoded by ``S_d``, the inverted network.
Each student is distilled by itself: no gradient of ``S_d``'s loss reaches ``S_e`` ("separately and independently").

At each position ``lambda · ½‖t̂ − ŝ‖² + (1 − cos)`` (Eq. 4 to 6, lambda 0.1). On unit vectors ``½‖t̂ − ŝ‖² = 1 − cos``,
so this is ``1.1 · (1 − cos)``, and that is what is computed. The loss is the mean over positions and taps (Eq. 7), the
map the sum of the upsampled distances between the teacher and ``S_d`` (Eq. 8), blurred with sigma 4 (Eq. 9); the score
its maximum (Eq. 10). ``S_e``'s own comparisons are trained, and are not in the deployed graph.

Structures of Table 7: ``t-e`` has no decoder; ``t-d`` has no ``S_e``, the teacher's own features are embedded; ``e-d``
holds ``S_d`` against ``S_e``, which is distilled from the teacher, for else there would be nothing to learn. The size
of the embedding is not given; with the one of the reverse distillation that is cited (512 channels at stride 32) the
deployed graph has 6.16 G multiply-adds at 256 × 256, the paper's "6.17 GFLOP", so that is the embedding here.
"""

from __future__ import annotations

from torch import Tensor, nn

from kd_export.graph import Combine, Distance, MapSpec, PairSpec, ScoreRule
from kd_export.graph.distance import unit_vectors
from kd_train.models.backbones import TapNetwork, create_backbone
from kd_train.models.bottleneck import Decoder, Embedding
from kd_train.models.pair import Comparisons, Method, MethodOption, Pair, PairOptions, declare_map
from kd_train.models.teacher import Teacher, build_teacher
from kdx.errors import OptionError

_LAMBDA = 0.1
_EVERY = "all"


class DualStudentPair(Pair):
    """The teacher, and as many students as the structure has.

    Args:
        teacher: The teacher.
        encoder: ``S_e``, or None.
        structure: ``ds``, ``t-e``, ``t-d`` or ``e-d``.
        fuse: Whether the embedding takes every feature.
        mapped: Indices of the taps in the map.
        spec: The declaration.
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
        """Compare what the structure compares, at the taps of the map."""
        encoded = None if self.encoder is None else self.encoder(x)
        compared = self._compare_decoded(encoded, teacher)
        return [compared[index] for index in self.mapped]

    def compare_training(self, x: Tensor, teacher: list[Tensor]) -> Comparisons:
        """Compare at every tap, and the teacher with ``S_e`` where that is trained beside it."""
        encoded = None if self.encoder is None else self.encoder(x)
        compared = self._compare_decoded(encoded, teacher)
        order = _in_order(self.mapped, len(compared))
        found = [compared[index] for index in order]
        if encoded is not None and self.decoder is not None:
            found += [(teacher[index], encoded[index]) for index in order]
        return found

    def _compare_decoded(self, encoded: list[Tensor] | None, teacher: list[Tensor]) -> Comparisons:
        if self.embedding is None or self.decoder is None:
            assert encoded is not None
            return list(zip(teacher, encoded, strict=True))
        # Detached: the first student does not learn from the second's mistakes.
        source = teacher if encoded is None else [feature.detach() for feature in encoded]
        decoded = self.decoder(self.embedding([unit_vectors(feature) for feature in source]), source)
        return list(zip(source if self.structure == "e-d" else teacher, decoded, strict=True))


def build(options: PairOptions) -> tuple[Pair, str]:
    """Build the pair."""
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
    encoder = None if structure == "t-d" else TapNetwork(create_backbone(options.teacher.backbones[0]), tuple(names))
    return DualStudentPair(teacher, encoder, structure, options.choices["dfe"] == "yes", mapped, spec), source


def _mapped(choice: str, count: int) -> list[int]:
    if choice == _EVERY:
        return list(range(count))
    if int(choice) > count:
        raise OptionError(f"--maps {choice} does not exist", expected=f"{_EVERY}, or 1 to {count}")
    return [int(choice) - 1]


def _in_order(mapped: list[int], count: int) -> list[int]:
    """Return every index, those of the map first."""
    return mapped + [index for index in range(count) if index not in mapped]


METHOD = Method(
    name="dskd",
    paper="Yao, Dual-Student Knowledge Distillation Networks for Unsupervised Anomaly Detection, 2024",
    build=build,
    options=(
        MethodOption("structure", ("ds", "t-e", "t-d", "e-d"), "which networks are compared (DSKD Table 7)"),
        MethodOption("dfe", ("yes", "no"), "fuse every feature for the embedding, or take the last (DSKD Table 8)"),
        MethodOption("maps", (_EVERY, "1", "2", "3"), "which taps' maps are summed (DSKD Table 9)"),
    ),
)
