"""What TensorRT logs, kept for the messages of kdx."""

from __future__ import annotations

from collections import deque
from typing import Any


def make_log(trt: Any) -> Any:
    """Return a TensorRT logger that keeps what TensorRT logs; TensorRT's own prints it.

    Its method ``take()`` returns the last errors and removes them. If there are none, it returns
    the last warning: TensorRT 8.6 logs as a warning that CUDA does not start. Its attribute
    ``layers`` is the last message that lists an engine's layers.

    TensorRT needs the logger for as long as the objects that were created with it.
    """
    severities = trt.ILogger.Severity

    class Log(trt.ILogger):  # type: ignore[misc] # the base class is known only here
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.layers = ""
            self._errors: deque[str] = deque(maxlen=3)
            self._warning = ""

        def log(self, severity: Any, msg: str) -> None:
            if severity in {severities.INTERNAL_ERROR, severities.ERROR}:
                self._errors.append(msg)
            elif severity == severities.WARNING:
                self._warning = msg
            elif "LayerType: " in msg:
                self.layers = msg

        def take(self) -> str:
            text = "; ".join(self._errors) or self._warning
            self._errors.clear()
            self._warning = ""
            return text

    return Log()
