"""Whether a network exists, before anything is built of it."""

from __future__ import annotations

import difflib
import re

from kd_train.models import squeezenet
from kd_train.models.torch_vision import import_timm
from kdx.errors import OptionError

_TRANSFORMERS = re.compile(r"(^|[/:_.-])(vit|deit|swin|beit|dino|clip|siglip|eva|mae|sam)", re.IGNORECASE)
CHOOSE_CONVOLUTIONAL = (
    "choose a convolutional backbone, e.g. resnet18, wide_resnet50_2, convnext_tiny or tf_efficientnet_lite0: this is "
    "a transformer, whose features are tokens, and students imitate feature maps"
)


def require_network(name: str, otherwise: str = "") -> None:
    """Check that a network exists.

    Args:
        name: The name of a network.
        otherwise: What else the name could stand for, and does not, for the message.

    Raises:
        OptionError: timm has no such model; the message lists similar names.
    """
    timm = import_timm()
    if name in squeezenet.SQUEEZENETS or timm.is_model(name):
        return
    near = difflib.get_close_matches(name, [*timm.list_models(), *squeezenet.SQUEEZENETS], n=5, cutoff=0.5)
    raise OptionError(
        f"timm has no backbone '{name}'{otherwise}",
        expected=f"for example {', '.join(near or ['resnet18', 'tf_efficientnet_lite0', 'wide_resnet50_2'])}",
        fix=_fix_for_unknown(name),
    )


def _fix_for_unknown(name: str) -> str:
    """Return the fix for a name that timm does not know, or an empty text."""
    if _TRANSFORMERS.search(name):
        return CHOOSE_CONVOLUTIONAL
    if "/" in name or ":" in name:
        return "give the network's name in timm alone, and its file of weights: `weights=FILE`"
    return ""
