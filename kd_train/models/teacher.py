"""The teacher: one frozen network, or two that share the input, with taps in groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kd_train.models import compact
from kd_train.models.backbones import Feature, FeatureNetwork, TapNetwork, create_backbone, taps_at_strides
from kd_train.models.compact import CompactNetwork, Head
from kd_train.models.weights import load_weights
from kdx.errors import OptionError


@dataclass(frozen=True)
class TeacherOptions:
    """The teacher's networks and their taps.

    Attributes:
        backbones: The name of each group's network: timm's, or that of a compact network.
        weights: The weights of each group's network: ``imagenet``, ``random`` or a file. None for
            networks whose weights come from a checkpoint. A compact network has none of its own.
        taps: The names of each group's taps; an empty group takes timm's features at ``strides``.
        strides: The strides of each group's default taps.
        heads: The features of the source that compact networks reproduce, for each group; empty for
            networks of timm.
    """

    backbones: tuple[str, ...]
    weights: tuple[str, ...] | None
    taps: tuple[tuple[str, ...], ...]
    strides: tuple[tuple[int, ...], ...]
    heads: tuple[tuple[Head, ...], ...] = ()


class Teacher(nn.Module):
    """Networks with taps in groups; groups with the same network share one forward pass.

    Args:
        networks: The networks, each cut after its last tap.
        groups: For each group, the index of its network and the names of its taps.

    Attributes:
        groups: The features of each group, in order.
        features: The features of all groups in one list, in the order of :meth:`forward`.
        mean: The mean of each RGB channel by which the input is normalised: the first network's.
        std: The standard deviation of each RGB channel by which the input is normalised.
    """

    def __init__(self, networks: Sequence[FeatureNetwork], groups: list[tuple[int, tuple[str, ...]]]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self._groups = groups
        self.groups = [[networks[index].feature(tap) for tap in taps] for index, taps in groups]
        self.features = [feature for group in self.groups for feature in group]
        self.mean, self.std = networks[0].mean, networks[0].std
        # The image is normalised once; networks with other statistics renormalise the result.
        self.adapt = nn.ModuleDict(
            {
                str(index): Renormalise((self.mean, self.std), (network.mean, network.std))
                for index, network in enumerate(networks)
                if (network.mean, network.std) != (self.mean, self.std)
            }
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return every group's features of normalised images ``(N, 3, H, W)``."""
        found: list[dict[str, Tensor]] = []
        for index, network in enumerate(self.networks):
            own = self.adapt[str(index)](x) if str(index) in self.adapt else x
            assert isinstance(network, FeatureNetwork)
            found.append(dict(zip(network.taps, network(own), strict=True)))
        return [found[index][tap] for index, taps in self._groups for tap in taps]

    def levels(self, group: int) -> list[Feature]:
        """Return the levels of the group's network to its last tap, for students that mirror it."""
        index, taps = self._groups[group]
        network = self.networks[index]
        assert isinstance(network, FeatureNetwork)
        return network.levels_to(taps)


class Renormalise(nn.Module):
    """Converts an image normalised for one network to the statistics of another."""

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        of: tuple[tuple[float, ...], tuple[float, ...]],
        to: tuple[tuple[float, ...], tuple[float, ...]],
    ) -> None:
        super().__init__()
        (mean, std), (new_mean, new_std) = ((torch.tensor(a), torch.tensor(b)) for a, b in (of, to))
        self.register_buffer("scale", (std / new_std).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", ((mean - new_mean) / new_std).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the renormalised image; input and output are ``(N, 3, H, W)``."""
        return x * self.scale + self.shift


def build_teacher(options: TeacherOptions, groups: int, option: str = "`backbone`") -> tuple[Teacher, str]:
    """Build a method's teacher.

    Args:
        options: The teacher's options; a single backbone serves every group.
        groups: The number of groups of taps that the method has.
        option: The option that names the networks, for messages.

    Returns:
        The teacher, and a text that says where its weights came from.

    Raises:
        OptionError: The number of backbones or of groups of taps is not the method's, or a tap
            does not exist.
        WeightsError: No weights were found.
    """
    if is_compact(options.backbones):
        return _compact_teacher(options, groups), "distilled"
    backbones = _per_group(option, options.backbones, groups)
    weights = None if options.weights is None else _per_group("`weights`", options.weights, groups)
    wanted = [(name, weights[index] if weights else None) for index, name in enumerate(backbones)]
    distinct = list(dict.fromkeys(wanted))
    models = [create_backbone(name) for name, _ in distinct]
    sources = [
        "checkpoint" if source is None else load_weights(model, name, source)
        for model, (name, source) in zip(models, distinct, strict=True)
    ]
    given = options.taps or ((),) * groups
    if len(given) != groups or len(options.strides or given) != groups:
        raise OptionError(
            "`taps` does not fit the method",
            expected=f"{groups} groups of taps, separated by '/'" if groups > 1 else "one list of taps",
            received="/".join(",".join(group) for group in given),
        )
    indices = [distinct.index(want) for want in wanted]
    taps = [
        given[group] or taps_at_strides(models[index], options.strides[group]) for group, index in enumerate(indices)
    ]
    networks = [
        TapNetwork(model, tuple(tap for group, of in zip(taps, indices, strict=True) if of == number for tap in group))
        for number, model in enumerate(models)
    ]
    placed = [
        (index, tuple(sorted(set(group), key=networks[index].taps.index)))
        for group, index in zip(taps, indices, strict=True)
    ]
    return Teacher(networks, placed), " and ".join(dict.fromkeys(sources))


def is_compact(backbones: Sequence[str]) -> bool:
    """Whether the networks are compact ones.

    Raises:
        OptionError: Some are compact and some are timm's, or there is no such compact network.
    """
    unknown = [name for name in backbones if name.startswith("compact-") and name not in compact.NAMES]
    if unknown:
        raise OptionError(f"there is no compact network '{unknown[0]}'", expected=", ".join(compact.NAMES))
    found = [name in compact.NAMES for name in backbones]
    if any(found) and not all(found):
        raise OptionError(
            "a compact network and another one cannot be teachers together",
            expected="compact networks alone, or none",
            received=", ".join(backbones),
            fix="give each teacher a compact network and its source: `teacher_from`",
        )
    return any(found)


def untrained_network(options: TeacherOptions, taps: tuple[str, ...]) -> FeatureNetwork:
    """Return the network of the first group with random weights: the student that mirrors it.

    Args:
        options: The teacher's options.
        taps: The names of the group's taps.
    """
    name = options.backbones[0]
    if is_compact(options.backbones):
        return CompactNetwork(name, options.heads[0])
    return TapNetwork(create_backbone(name), taps)


def _compact_teacher(options: TeacherOptions, groups: int) -> Teacher:
    """Return untrained compact networks: one for each group, or one with all heads."""
    if len(options.heads) != groups:
        raise OptionError(
            "the sources of the compact teacher do not fit the method",
            expected=f"taps in {groups} groups" if groups > 1 else "one list of taps",
            received=f"{len(options.heads)} groups",
        )
    names, own = options.backbones, options.heads
    if len(names) == 1:
        # Groups may have a tap of one source in common; of two sources, open_source refuses that.
        networks = [CompactNetwork(names[0], list(dict.fromkeys(head for group in own for head in group)))]
        indices = [0] * groups
    else:
        networks = [
            CompactNetwork(name, group)
            for name, group in zip(_per_group("`backbone`", names, groups), own, strict=True)
        ]
        indices = list(range(groups))
    # In the order of the source, whose features are compared with these one by one: the network
    # itself orders them by stride.
    placed = [(index, tuple(head.tap for head in group)) for index, group in zip(indices, own, strict=True)]
    return Teacher(networks, placed)


def _per_group(option: str, values: tuple[str, ...], groups: int) -> tuple[str, ...]:
    if len(values) == 1:
        return values * groups
    if len(values) != groups:
        raise OptionError(
            f"{option} does not fit the method",
            expected=f"one, or {groups} separated by commas" if groups > 1 else "one, for the method has one teacher",
            received=",".join(values),
        )
    return values
