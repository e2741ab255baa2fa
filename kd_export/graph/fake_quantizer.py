"""Computes a pair in PyTorch as its INT8 graph does, for training and as a reference.

Operations are recognised where PyTorch calls them, by the names that the exporter gives their
nodes: the module that calls, and the operation. So a network of any structure is computed by a
plan, without being changed, and its parameters keep their names.
"""

from __future__ import annotations

import copy
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from kd_export.graph.int8 import Int8Plan, Step, fake_quantize, fake_quantize_parameters
from kdx.bundle.graph_contract import PAIR
from kdx.errors import GateError

_Steps = tuple[Step, ...]


class FakeQuantizer(TorchFunctionMode):
    """A context in which a pair computes what its INT8 graph computes.

    Everything else is computed as always. With gradients, rounding passes them straight through,
    see :func:`kd_export.graph.int8.fake_quantize`. One thread is in the context at a time; others
    wait, because operations are counted while it computes.

    Args:
        pair: The pair as it is exported: its batch normalisation is folded. It is not changed.
        plan: Which operations are quantised, and by which steps.

    Attributes:
        met: The names of the plan's operations that were computed so far.
    """

    def __init__(self, pair: nn.Module, plan: Int8Plan) -> None:
        super().__init__()
        self.pair = pair
        self.plan = plan
        self.met: set[str] = set()
        self._names: dict[int, str] = {}
        self._calling: list[str] = []
        self._counts: Counter[str] = Counter()
        self._hooks: list[RemovableHandle] = []
        self._lock = threading.RLock()

    def __deepcopy__(self, memo: dict[int, Any]) -> FakeQuantizer:
        return type(self)(copy.deepcopy(self.pair, memo), self.plan)

    def __enter__(self) -> FakeQuantizer:
        self._lock.acquire()
        self._names = {id(module): f"{PAIR}.{name}".rstrip(".") for name, module in self.pair.named_modules()}
        self._counts.clear()
        # Hooks of all modules, and not of the pair's own: the pair is copied, and copies of a hook
        # would speak to this object.
        self._hooks = [
            register_module_forward_pre_hook(self._enter_module),
            register_module_forward_hook(self._leave_module, always_call=True),
        ]
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        try:
            super().__exit__(*exception)
            for hook in self._hooks:
                hook.remove()
            self._hooks = []
            self._calling.clear()
        finally:
            self._lock.release()

    def require_all_met(self) -> None:
        """Check that every operation of the plan was computed.

        Raises:
            GateError: Operations were not found; it names them.
        """
        missed = [name for name in self.plan.nodes if name not in self.met]
        if missed:
            others = f" and {len(missed) - 1} more" if len(missed) > 1 else ""
            raise GateError(
                f"'{missed[0]}'{others} of the graph cannot be quantised in PyTorch",
                expected="an operation that a module of the pair calls: a convolution, an addition or a max pool",
                fix="please report this backbone",
            )

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        operation = _OPERATIONS.get(func)
        if operation is not None and self._calling:
            kind, compute = operation
            number = _added_number(*args, **(kwargs or {})) if kind == "Add" else None
            if number == 0:  # the exporter leaves such an addition out
                return func(*args, **(kwargs or {}))
            name = self._name_of_call(kind)
            if name in self.plan.nodes and number is None:
                self.met.add(name)
                return self.compute(name, partial(compute, func, self.plan.nodes[name]), args, kwargs or {})
        return func(*args, **(kwargs or {}))

    def compute(
        self, name: str, operation: Callable[..., Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Tensor:
        """Compute a quantised operation; the only place where the context changes what is computed.

        Args:
            name: The name of its node.
            operation: The operation, which quantises what it takes.
            args: What PyTorch's function was given.
            kwargs: What it was given by name.
        """
        return operation(*args, **kwargs)

    def _name_of_call(self, kind: str) -> str:
        """Return the name of the node of the operation that is called now."""
        name = f"{self._calling[-1]}/{kind}"
        self._counts[name] += 1
        return name if self._counts[name] == 1 else f"{name}_{self._counts[name]}"

    def _enter_module(self, module: nn.Module, _inputs: Any) -> None:
        if id(module) in self._names:
            self._calling.append(self._names[id(module)])

    def _leave_module(self, module: nn.Module, _inputs: Any, _output: Any) -> None:
        if id(module) in self._names:
            self._calling.pop()


def _added_number(input: Any, other: Any, **_options: Any) -> float | None:  # noqa: A002
    """Return the number that an addition has as one of its operands; None for two tensors."""
    return next((each for each in (input, other) if not isinstance(each, Tensor)), None)


def _convolve(
    func: Callable[..., Tensor],
    steps: _Steps,
    input: Tensor,  # noqa: A002 (PyTorch's name)
    weight: Tensor,
    bias: Tensor | None = None,
    *rest: Any,
    **options: Any,
) -> Tensor:
    # Both kinds of convolution take their groups as the seventh argument.
    groups = rest[3] if len(rest) > 3 else options.get("groups", 1)
    is_transposed = func is torch.conv_transpose2d
    values = fake_quantize_parameters(weight, bias, steps[0], groups=groups, is_transposed=is_transposed)
    return func(fake_quantize(input, steps[0]), values.weight, values.bias, *rest, **options)


def _add(func: Callable[..., Tensor], steps: _Steps, input: Tensor, other: Tensor, **options: Any) -> Tensor:  # noqa: A002
    is_in_place = func is torch.Tensor.add_
    # The gradient needs the input as it is now.
    quantised = fake_quantize(input.clone() if is_in_place else input, steps[0])
    total = torch.add(quantised, fake_quantize(other, steps[1]), **options)
    return input.copy_(total) if is_in_place else total


def _pool(func: Callable[..., Tensor], steps: _Steps, input: Tensor, *rest: Any, **options: Any) -> Tensor:  # noqa: A002
    return func(fake_quantize(input, steps[0]), *rest, **options)


# For each operation of PyTorch that can be quantised, that of its node, and what computes it.
_OPERATIONS: dict[Callable[..., Any], tuple[str, Callable[..., Tensor]]] = {
    torch.conv2d: ("Conv", _convolve),
    torch.conv_transpose2d: ("ConvTranspose", _convolve),
    **dict.fromkeys((torch.add, torch.Tensor.add, torch.Tensor.add_), ("Add", _add)),
    **dict.fromkeys((F.max_pool2d, torch.max_pool2d), ("MaxPool", _pool)),
}
