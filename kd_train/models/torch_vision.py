"""Importing timm beside a torch that torchvision was not built for.

torchvision's wheels on PyPI are built for CUDA torch. Beside a CPU-only torch their compiled operators do not load, and
``import torchvision`` (which timm does) fails while it registers shape functions for them. kdx uses none of those
operators, so the registration is left out and everything else imports; a call to such an operator still fails loudly.
"""

from __future__ import annotations

import importlib
import sys
import types
from types import ModuleType

_REGISTRATIONS = "torchvision._meta_registrations"


def import_timm() -> ModuleType:
    """Return timm, imported whether or not torchvision's compiled operators load."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for name in [name for name in sys.modules if name == "torchvision" or name.startswith("torchvision.")]:
            del sys.modules[name]
        sys.modules[_REGISTRATIONS] = types.ModuleType(_REGISTRATIONS)
        importlib.import_module("torchvision")
    return importlib.import_module("timm")
