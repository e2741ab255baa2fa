"""One kernel launch as data: it can be run, counted in tests, or compiled without a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kdx.errors import BackendError

# Loops over tiles of a blur wider than one block, or of more channels than registers hold, are rare
# and short. Triton would pipeline them through 217 KiB of shared memory, which an sm_75 (64 KiB) or
# sm_86 (99 KiB) does not have.
STAGES = 1


@dataclass(frozen=True)
class Launch:
    """A kernel, and everything it is launched with.

    Attributes:
        kernel: What ``triton.jit`` made.
        grid: Programs per axis.
        arguments: In the kernel's order: tensors, tuples of tensors, or None for what its constants
            exclude.
        constants: The kernel's constexprs by name.
        warps: Warps per program.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: Sequence[Tensor | tuple[Tensor, ...] | None]
    constants: dict[str, Any] = field(default_factory=dict)
    warps: int = 4

    def run(self) -> None:
        """Launch it on the current stream."""
        self.kernel[self.grid](*self.arguments, **self.constants, num_warps=self.warps, num_stages=STAGES)


def is_interpreted(kernel: Any) -> bool:
    """Return whether the kernel was defined under Triton's interpreter, which runs on the CPU."""
    return type(kernel).__name__ == "InterpretedFunction"


def run_all(launches: list[Launch], device: torch.device) -> None:
    """Run launches in order on the device that holds their tensors.

    Raises:
        BackendError: The tensors are not on a CUDA device, and the kernels are not interpreted.
    """
    if device.type != "cuda" and not all(is_interpreted(launch.kernel) for launch in launches):
        raise BackendError(
            "the Triton kernels run on a CUDA device",
            expected="features on cuda",
            received=f"features on {device.type}",
            fix="use kd_export.graph.tail.Tail there; or set TRITON_INTERPRET=1 before Python starts, for tests",
        )
    if device.type != "cuda":
        for launch in launches:
            launch.run()
        return
    with torch.cuda.device(device):  # Triton launches on the current device, whatever holds the tensors
        for launch in launches:
            launch.run()
