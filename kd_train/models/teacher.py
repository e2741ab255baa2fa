"""The teacher: one frozen network, or two that share the input, with taps in groups."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kd_train.models.backbones import Feature, TapNetwork, create_backbone, taps_at_strides
from kd_train.models.weights import load_weights
from kdx.errors import OptionError


@dataclass(frozen=True)
class TeacherOptions:
    """The teacher's networks and their taps.

    Attributes:
        backbones: The name of each group's network in timm.
        weights: The weights of each group's network: ``imagenet``, ``random`` or a file. None for
            networks whose weights come from a checkpoint.
        taps: The names of each group's taps; an empty group takes timm's features at ``strides``.
        strides: The strides of each group's default taps.
    """

    backbones: tuple[str, ...]
    weights: tuple[str, ...] | None
    taps: tuple[tuple[str, ...], ...]
    strides: tuple[tuple[int, ...], ...]


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

    def __init__(self, networks: list[TapNetwork], groups: list[tuple[int, tuple[str, ...]]]) -> None:
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
            assert isinstance(network, TapNetwork)
            found.append(dict(zip(network.taps, network(own), strict=True)))
        return [found[index][tap] for index, taps in self._groups for tap in taps]

    def levels(self, group: int) -> list[Feature]:
        """Return the levels of the group's network to its last tap, for students that mirror it."""
        index, taps = self._groups[group]
        network = self.networks[index]
        assert isinstance(network, TapNetwork)
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


def build_teacher(options: TeacherOptions, groups: int) -> tuple[Teacher, str]:
    """Build a method's teacher.

    Args:
        options: The teacher's options; a single backbone serves every group.
        groups: The number of groups of taps that the method has.

    Returns:
        The teacher, and a text that says where its weights came from.

    Raises:
        OptionError: The number of backbones or of groups of taps is not the method's, or a tap
            does not exist.
        WeightsError: No weights were found.
    """
    backbones = _per_group("`backbone`", options.backbones, groups)
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


def _per_group(option: str, values: tuple[str, ...], groups: int) -> tuple[str, ...]:
    if len(values) == 1:
        return values * groups
    if len(values) != groups:
        raise OptionError(
            f"{option} does not fit the method",
            expected=f"one, or {groups} separated by commas" if groups > 1 else "one",
            received=",".join(values),
        )
    return values
