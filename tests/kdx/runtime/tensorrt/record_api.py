"""Records the names and signatures of TensorRT's Python API that kdx uses, as JSON.

    python record_api.py [MODULE] > tests/fixtures/tensorrt/VERSION.json

Needs the bindings alone. TensorRT 8.6.0 is a complete wheel for Python 3.10, and so is that of
TensorRT for RTX, the module `tensorrt_rtx`. Those of 10 and 11, `tensorrt-cu13-bindings`, import as
`tensorrt_bindings` with libraries in which every function returns nothing.
"""

from __future__ import annotations

import json
import re
import sys
from importlib import import_module
from typing import Any

CLASSES = (
    "Builder", "Dims", "EngineInspector", "IBuilderConfig", "ICudaEngine", "IExecutionContext", "IHostMemory",
    "ILayer", "ILogger", "INetworkDefinition", "IOptimizationProfile", "IProgressMonitor", "IRuntimeConfig", "ITensor",
    "ITimingCache", "OnnxParser", "ParserError", "Runtime",
)  # fmt: skip
ENUMERATIONS = (
    "BuilderFlag", "ComputeCapability", "DataType", "DynamicShapesKernelSpecializationStrategy",
    "ExecutionContextAllocationStrategy", "LayerInformationFormat", "LayerType", "NetworkDefinitionCreationFlag",
    "ProfilingVerbosity", "TacticSource", "TensorIOMode",
)  # fmt: skip
PROTOCOLS = ("__init__", "__len__", "__getitem__", "__iter__")


def main() -> None:
    """Print the record."""
    trt = import_module(sys.argv[1] if len(sys.argv) > 1 else "tensorrt")
    record = {
        "version": trt.__version__,
        "enumerations": {name: members(getattr(trt, name)) for name in ENUMERATIONS if hasattr(trt, name)},
        "types": {name: str(getattr(trt, name)).rpartition(".")[2] for name in ("float16", "float32", "int8", "uint8")},
        "classes": {name: describe(getattr(trt, name)) for name in CLASSES if hasattr(trt, name)},
    }
    record["enumerations"]["Severity"] = members(trt.ILogger.Severity)
    # A class or an enumeration a line.
    print(re.sub(r"\n {3,}|\n {2}(?=})", " ", json.dumps(record, indent=1)))


def members(kind: Any) -> dict[str, int]:
    """Return the members of an enumeration and their values."""
    return {name: int(value) for name, value in kind.__members__.items()}


def describe(kind: Any) -> dict[str, Any]:
    """Return a class's methods, with the parameters of each overload, and its attributes."""
    methods, attributes = {}, {}
    for name in dir(kind):
        value = getattr(kind, name)
        if name.startswith("_") and name not in PROTOCOLS:
            continue
        if isinstance(value, property):
            attributes[name] = "read" if value.fset is None else "read and write"
        elif callable(value) and not isinstance(value, type):
            methods[name] = [parameters(found) for found in signatures(value.__doc__ or "", name)]
        else:
            attributes[name] = "read"
    return {"methods": methods, "attributes": attributes}


def signatures(doc: str, name: str) -> list[str]:
    """Return what lies between the brackets in each line of a docstring that is a signature."""
    return re.findall(rf"^(?:\d+\. )?{name}\((.*)\) -> ", doc, re.MULTILINE)


def parameters(signature: str) -> list[str]:
    """Return the names of parameters without ``self``; those that may be omitted end with ``=``."""
    depth, parts = 0, [""]
    for character in signature:
        depth += (character in "[(") - (character in "])")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    named = [(part.split(":")[0].split("=")[0].strip(), "=" if "=" in part else "") for part in parts]
    return [f"{name}{mark}" for name, mark in named if name and name != "self"]


if __name__ == "__main__":
    main()
