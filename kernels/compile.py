"""Kernels compiled without a GPU: to PTX, and by Triton's ptxas to machine code."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels.launch import STAGES, Launch

# Compute capabilities: T4, A100, RTX 30 and A10, RTX 40 and L4, H100 and H200.
CAPABILITIES = (75, 80, 86, 89, 90)

_TYPES = {torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.int32: "*i32"}


def compile_launch(launch: Launch, capability: int) -> Any:
    """Compile a launch's kernel as it would be launched; return Triton's compiled kernel.

    Args:
        launch: Its arguments' types and its constants are what is compiled; its tensors may be
            anywhere.
        capability: Compute capability times ten.
    """
    names = list(inspect.signature(launch.kernel.fn).parameters)
    signature: dict[str, Any] = dict.fromkeys(names, "constexpr")
    constants: dict[str, Any] = dict(launch.constants)
    aligned: dict[tuple[int, ...], list[list[object]]] = {}
    for index, (name, argument) in enumerate(zip(names, launch.arguments, strict=False)):
        if argument is None:
            constants[name] = None
        elif isinstance(argument, Tensor):
            signature[name] = _TYPES[argument.dtype]
            aligned[(index,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = tuple(_TYPES[tensor.dtype] for tensor in argument)
            aligned |= {(index, part): [["tt.divisibility", 16]] for part in range(len(argument))}
    source = ASTSource(launch.kernel, signature=signature, constexprs=constants, attrs=aligned)
    options = {"num_warps": launch.warps, "num_stages": STAGES}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
