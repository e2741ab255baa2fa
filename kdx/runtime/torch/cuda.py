"""The fused detector in PyTorch on the GPU, with which other GPU backends are compared."""

from __future__ import annotations

import copy
import threading
import time
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kdx.errors import BackendError
from kdx.runtime.backend import ClosesOnExit, Outputs

Precision = Literal["fp32", "fp16"]

_WARM_UP = 3  # compilation, and capture at the second call


class HalfDetector(nn.Module):
    """A fused detector whose networks run in FP16; all else stays in FP32.

    Args:
        detector: A :class:`kd_export.graph.FusedDetector`, whose modules are reused and changed.
    """

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.preprocess = detector.preprocess
        self.pair = detector.pair.half().to(memory_format=torch.channels_last)
        self.tail = detector.tail

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return map and score in FP32 for images, uint8 ``(N, H, W, C)``."""
        x = self.preprocess(image).half().contiguous(memory_format=torch.channels_last)
        outputs: tuple[Tensor, Tensor] = self.tail(self.pair(x))
        return outputs


class TorchCuda(ClosesOnExit):
    """A fused detector on a device. Calls take turns; compiled, they must all come from one thread.

    Args:
        module: The fused detector, which is copied.
        precision: ``fp32``, which turns TensorFloat-32 off for the whole process, or ``fp16``.
        compile_mode: A mode of ``torch.compile``, of which ``reduce-overhead`` and ``max-autotune``
            use CUDA graphs; None runs eagerly.
        device: The device to run on.

    Raises:
        BackendError: PyTorch has no such device here.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        precision: Precision = "fp32",
        compile_mode: str | None = None,
        device: str | torch.device = "cuda",
    ) -> None:
        self.name = f"torch-{precision}" + (f"-{compile_mode}" if compile_mode else "")
        self._device = torch.device(device)
        if self._device.type == "cuda" and not torch.cuda.is_available():
            raise BackendError(
                "PyTorch finds no CUDA device",
                received=f"torch {torch.__version__}",
                fix="install a CUDA build of torch, and see what nvidia-smi lists",
            )
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        prepared = copy.deepcopy(module).to(self._device).eval()
        if precision == "fp16":
            prepared = HalfDetector(prepared)
        self._compiled = compile_mode is not None
        # Static shapes: each batch size is compiled once, and its CUDA graph is replayed.
        run: Any = torch.compile(prepared, mode=compile_mode, dynamic=False) if compile_mode else prepared
        self._run: Any = run
        self._staging: dict[tuple[int, ...], Tensor] = {}
        self._lock = threading.Lock()
        self._thread: int | None = None

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """Run a batch; see :class:`kdx.runtime.backend.Backend`."""
        with self._lock:
            self._require_open()
            try:
                maps, scores = self._forward(self._upload(images))
                return Outputs(_to_host(maps), _to_host(scores))
            except RuntimeError as error:
                raise BackendError(f"PyTorch failed on a batch of shape {images.shape}: {error}") from error

    def compute_only(self, images: NDArray[np.uint8], runs: int) -> list[float]:
        """Return the milliseconds of runs on images ``(N, H, W, C)`` that lie on the device.

        The time depends on the images: a GPU multiplies zeros faster.
        """
        with self._lock:
            self._require_open()
            try:
                on_device = self._upload(images).clone()
                for _ in range(_WARM_UP):
                    self._forward(on_device)
                return [self._time(on_device) for _ in range(runs)]
            except RuntimeError as error:
                raise BackendError(f"PyTorch failed on a batch of shape {images.shape}: {error}") from error

    def _require_open(self) -> None:
        if self._run is None:
            raise BackendError("the detector is closed", fix="load the run again")
        if self._compiled and self._thread not in {None, threading.get_ident()}:
            raise BackendError(
                "the CUDA graphs of a compiled detector belong to the thread that ran it first",
                fix="call it from one thread, or load one in each",
            )
        self._thread = threading.get_ident()

    def _forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if self._compiled:
            # This run may overwrite the outputs of the last one, which were copied by then.
            torch.compiler.cudagraph_mark_step_begin()
        with torch.no_grad() if self._compiled else torch.inference_mode():
            outputs: tuple[Tensor, Tensor] = self._run(images)
            return outputs

    def _upload(self, images: NDArray[np.uint8]) -> Tensor:
        # PyTorch warns about read-only memory.
        source = torch.from_numpy(images if images.flags.writeable else images.copy())
        if self._device.type != "cuda":
            return source.to(self._device)
        if images.shape not in self._staging:
            self._staging[images.shape] = torch.empty(images.shape, dtype=torch.uint8, pin_memory=True)
        return self._staging[images.shape].copy_(source).to(self._device, non_blocking=True)

    def _time(self, images: Tensor) -> float:
        if self._device.type != "cuda":
            start = time.perf_counter()
            self._forward(images)
            return (time.perf_counter() - start) * 1000
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        self._forward(images)
        last.record()
        last.synchronize()
        return float(first.elapsed_time(last))

    def close(self) -> None:
        """Drop the module and its memory."""
        with self._lock:
            self._run = None
            self._staging.clear()


def _to_host(output: Tensor) -> NDArray[np.float32]:
    return output.float().cpu().numpy()
