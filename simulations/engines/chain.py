"""A model as a chain of operations, each with a gradient written out for several clients at once.

Most models that fit a small device are a chain: each operation takes what the one before it gave. Such a model needs no
recording of the graph: its backward pass is the chain in reverse, a step of plain SGD goes straight from the product
that makes a weight's gradient into the weight, and pooling comes before the activation, on a quarter of the values.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from simulations.engines.chain_ops import Convolution, Flatten, GroupNorm, Linear, MaxPool, Operation, Relu, Tanh
from wire.errors import ExportError

__all__ = ["NotAChainError", "chain_of", "check_order"]

RELU = (functional.relu, torch.relu, "relu", nn.ReLU)
TANH = (torch.tanh, "tanh", nn.Tanh)
FLATTEN = (torch.flatten, "flatten", nn.Flatten)
MAX_POOL = (
    functional.max_pool1d,
    functional.max_pool2d,
    torch.max_pool1d,
    torch.max_pool2d,
    nn.MaxPool1d,
    nn.MaxPool2d,
)


class NotAChainError(ExportError):
    """The model is no chain of known operations; another engine can train it."""


def chain_of(module: nn.Module) -> tuple[Operation, ...]:
    """Return the model's operations from input to output.

    Args:
        module: Takes one tensor and returns one.

    Raises:
        NotAChainError: If it does anything that is not a convolution, a linear layer, a group norm, a maximum pool, an
            activation or a flattening, or if it branches; the line says where.
    """
    try:
        graph = fx.symbolic_trace(module).graph
    except Exception as error:  # tracing runs the model's own code
        raise NotAChainError(f"the model cannot be traced: {error}") from error
    operations = [_operation(node, module) for node in _in_a_row(graph)]
    _check_parameters(operations)
    return tuple(_pool_first(operations))


def check_order(operations: tuple[Operation, ...], is_flat: bool) -> None:
    """Refuse what needs channels behind a flattening, and a linear layer before it.

    Args:
        operations: From ``chain_of``.
        is_flat: Whether the inputs are plain vectors.

    Raises:
        NotAChainError: With the operation.
    """
    for operation in operations:
        is_flat = is_flat or isinstance(operation, Flatten)
        if isinstance(operation, Linear) and not is_flat:
            raise NotAChainError(f"linear layer {operation.name!r} comes before the channels are flattened")
        if isinstance(operation, Convolution | GroupNorm | MaxPool) and is_flat:
            raise NotAChainError(f"a {type(operation).__name__} comes after the channels were flattened")


def _check_parameters(operations: list[Operation]) -> None:
    """Refuse a chain that uses a parameter twice: its gradient would be a sum."""
    names = [name for operation in operations for name in operation.parameters]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise NotAChainError(f"it uses {twice[0]!r} twice")


def _in_a_row(graph: fx.Graph) -> Iterator[fx.Node]:
    """Yield the nodes between input and output, each with the one before it as its only input."""
    before: fx.Node | None = None
    for node in graph.nodes:
        inputs = node.all_input_nodes
        if inputs != ([] if before is None else [before]) or (before is not None and len(before.users) != 1):
            raise NotAChainError(f"it branches at {node.name!r}")
        if node.op == "output":
            return
        if node.op != "placeholder":
            yield node
        before = node


def _operation(node: fx.Node, module: nn.Module) -> Operation:
    target: Any = node.target
    options: dict[str, Any] = dict(node.kwargs)
    positional: tuple[Any, ...] = tuple(node.args[1:])
    if node.op == "call_module":
        child = module.get_submodule(target)
        layer = _layer(child, target)
        if layer is not None:
            return layer
        target, options, positional = type(child), vars(child), ()
    make = next((make for known, make in SHAPELESS if target in known), None)
    if make is None:
        raise NotAChainError(f"it holds {getattr(target, '__name__', target)!r} at {node.name!r}")
    return make(node.name, positional, options)


def _layer(child: nn.Module, name: str) -> Operation | None:
    """Return the operation of a module with parameters."""
    match child:
        case nn.Linear():
            return Linear(name, child.bias is not None)
        case nn.Conv1d() | nn.Conv2d():
            padding = child.padding
            is_plain = child.groups == 1 and set(child.dilation) == {1} and child.padding_mode == "zeros"
            if isinstance(padding, str) or not is_plain:
                raise NotAChainError(f"convolution {name!r} has groups, a dilation or another padding than zeros")
            return Convolution(name, child.bias is not None, _pair(child.stride, 1), _pair(padding, 0))
        case nn.GroupNorm() if child.affine:
            return GroupNorm(name, child.num_groups, child.eps)
    return None


def _flatten(name: str, positional: tuple[Any, ...], options: dict[str, Any]) -> Operation:
    start = (*positional, options.get("start_dim", 0))[0]
    if start != 1 or (*positional[1:], options.get("end_dim", -1))[0] != -1:
        raise NotAChainError(f"{name!r} does not flatten all but the batch")
    return Flatten()


def _max_pool(name: str, positional: tuple[Any, ...], options: dict[str, Any]) -> Operation:
    given = dict(zip(("kernel_size", "stride", "padding", "dilation", "ceil_mode"), positional, strict=False)) | options
    kernel = _pair(given["kernel_size"], 1)
    stride = _pair(given.get("stride") or given["kernel_size"], 1)
    others = [given.get("padding", 0), given.get("dilation", 1) or 1, given.get("ceil_mode", False)]
    if _pair(others[0], 0) != (0, 0) or _pair(others[1], 1) != (1, 1) or others[2]:
        raise NotAChainError(f"pool {name!r} has a padding, a dilation or rounds up")
    return MaxPool(kernel, stride)


SHAPELESS: tuple[tuple[tuple[Any, ...], Callable[[str, tuple[Any, ...], dict[str, Any]], Operation]], ...] = (
    (RELU, lambda *_: Relu()),
    (TANH, lambda *_: Tanh()),
    (FLATTEN, _flatten),
    (MAX_POOL, _max_pool),
)


def _pair(size: int | tuple[int, ...], along_height: int) -> tuple[int, int]:
    """Return a size for height and width; one dimension is the width."""
    if isinstance(size, int):
        return size, size
    return (size[0], size[1]) if len(size) > 1 else (along_height, operator.index(size[0]))


def _pool_first(operations: list[Operation]) -> list[Operation]:
    """Put every maximum pool before the ReLU that it follows: the same values, from fewer."""
    for index in range(1, len(operations)):
        if isinstance(operations[index], MaxPool) and isinstance(operations[index - 1], Relu):
            operations[index - 1 : index + 1] = operations[index], operations[index - 1]
    return operations
