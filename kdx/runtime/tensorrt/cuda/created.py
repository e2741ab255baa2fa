"""What TensorRT creates, or a proper error: its Python bindings refuse in two ways, neither of which says why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kdx.errors import BackendError

# What pybind11 says where a class's factory gave nothing.
_NOTHING = "factory function returned nullptr"


def created(what: str, make: Callable[[], Any], explain: Callable[[], str] = lambda: "") -> Any:
    """Return what TensorRT makes.

    Args:
        what: In words, with its article.
        make: Makes it. Constructors of the bindings raise ``TypeError`` where TensorRT makes nothing, for example
            where CUDA cannot start; methods return None.
        explain: Returns what TensorRT logged.

    Raises:
        BackendError: It makes nothing.
    """
    try:
        made = make()
    except TypeError as error:
        if _NOTHING not in str(error):
            raise
        made = None
    if made is None:
        raise BackendError(
            f"TensorRT cannot create {what}",
            received=explain() or "nothing, and no reason in its log",
            fix="CUDA may not start here: see what nvidia-smi lists, whether its driver is new enough for this "
            "TensorRT, and kdx doctor; or another process may hold the GPU's memory",
        )
    return made
