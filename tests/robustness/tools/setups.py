"""What is changed in a child before its command, see ``kill.py``."""

from __future__ import annotations

from importlib import import_module


def call_setup(setup: str) -> None:
    """Call ``module:function`` or ``module:function:argument``."""
    module, name, *argument = setup.split(":", 2)
    getattr(import_module(module), name)(*argument)


def graph_at_hand(graph: str) -> None:
    """Take a graph that was traced before: tracing takes most of an export's time, and no file."""
    import onnx

    from kd_export import bundle_export

    bundle_export.export_onnx = lambda detector, path, **_: onnx.save_model(onnx.load(graph), str(path))


def one_backend() -> None:
    """Be a machine with ONNX Runtime alone: there is nothing to compile or to choose from."""
    from kdx.runtime.backend_table import BACKENDS

    for name in set(BACKENDS) - {"onnxruntime-cpu"}:
        del BACKENDS[name]


def no_exchange() -> None:
    """Be a file system that cannot exchange two folders in one step."""
    from kdx.storage import files

    files._exchange = lambda *_: False
