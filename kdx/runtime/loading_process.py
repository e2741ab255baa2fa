"""Notices that a process was forked after its detector was loaded.

A fork copies memory and not threads. The threads of ONNX Runtime, OpenVINO, PyTorch and CUDA do not
exist in the new process: a call may wait for them for ever or run on one core, and freeing a
session may end the process.
"""

from __future__ import annotations

import os

from kdx.errors import ForkError


class LoadingProcess:
    """The process that loaded a graph, which is the only one that can run it."""

    def __init__(self) -> None:
        self._id = os.getpid()

    @property
    def is_current(self) -> bool:
        """Whether it is the process that runs now, and not one that was forked from it."""
        return os.getpid() == self._id

    def require_current(self, loaded: str = "the detector was loaded") -> None:
        """Raise ``ForkError`` in a process that was forked from it.

        Args:
            loaded: What happened before the fork, for the message.
        """
        if not self.is_current:
            raise ForkError(
                f"{loaded} before this process was forked, and a runtime does not survive that",
                expected="a process that loads its detector itself, forked from one that has loaded none",
                received=f"process {os.getpid()}, forked after process {self._id} had loaded one",
                fix="load the bundle in each worker only (gunicorn: in the hook post_fork), or start processes with "
                "spawn and pass the detector to them",
            )
