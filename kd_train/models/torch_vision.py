"""Importing timm with a PyTorch that torchvision was not built for.

torchvision's wheels on PyPI are built for PyTorch with CUDA. With a CPU-only PyTorch their compiled
operators do not load, and ``import torchvision``, which timm needs, fails while it registers shape
functions for them. kdx uses none of those operators, so the registration is skipped and everything
else is imported; a call of such an operator still raises an error.
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
