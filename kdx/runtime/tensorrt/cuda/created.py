"""Errors for objects that TensorRT fails to create; its bindings give no reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kdx.errors import BackendError

# The message of pybind11 if a class's factory returns nothing.
_NOTHING = "factory function returned nullptr"


def created(what: str, make: Callable[[], Any], explain: Callable[[], str] = lambda: "") -> Any:
    """Return an object that TensorRT creates.

    Args:
        what: The object's name for messages, with its article.
        make: Creates it. If TensorRT fails, for example because CUDA does not start, constructors
            of the bindings raise ``TypeError``, and methods return None.
        explain: Returns what TensorRT logged.

    Raises:
        BackendError: TensorRT did not create it.
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
            received=explain() or "nothing, without a reason in its log",
            fix="CUDA may not start here: see what nvidia-smi lists, whether its driver is new enough for this "
            "TensorRT, and kdx doctor; or another process may hold the GPU's memory",
        )
    return made
