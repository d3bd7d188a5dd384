"""Small changes to a graph that runtimes do not make themselves, each exact.

ExecuTorch runs a graph as it is written: a permutation that is undone at once copies its tensor twice, and the columns of a
convolution would be gathered for the forward and again for the backward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Graph, Node

__all__ = [
    "cancel_permutations",
    "drop_copies",
    "merge_equal_nodes",
    "restore_threshold_backward",
    "use_linear_layers",
]

aten = torch.ops.aten


def restore_threshold_backward(graph: Graph) -> None:
    """Name ``where(x <= 0, 0, gradient)`` again ``threshold_backward``, the backward of relu, so that it can be rewritten."""
    for node in graph.find_nodes(op="call_function", target=aten.where.self):
        is_off, zero, gradient = node.args
        if not (_calls(is_off, aten.le.Scalar) and is_off.args[1] == 0 and _calls(zero, aten.scalar_tensor.default)):
            continue
        if zero.args[0] == 0:
            with graph.inserting_before(node):
                restored = graph.call_function(aten.threshold_backward.default, (gradient, is_off.args[0], 0))
            _replace(node, restored)
    graph.eliminate_dead_code()


def cancel_permutations(graph: Graph) -> None:
    """Join a permutation with the one before it, and drop it where nothing is left to move."""
    for node in graph.find_nodes(op="call_function", target=aten.permute.default):
        before, order = node.args
        if _calls(before, aten.permute.default):
            source, first_order = before.args
            order = [first_order[dim] for dim in order]
            node.args = (source, order)
        if order == list(range(len(order))):
            node.replace_all_uses_with(node.args[0])
    graph.eliminate_dead_code()


def merge_equal_nodes(graph: Graph) -> None:
    """Compute the same function of the same values once."""
    first: dict[object, Node] = {}
    for node in list(graph.nodes):
        if node.op != "call_function" or _has_effects(node):
            continue
        key = (node.target, _hashable(node.args), _hashable(node.kwargs))
        known = first.setdefault(key, node)
        if known is not node:
            node.replace_all_uses_with(known)
            graph.erase_node(node)


def use_linear_layers(graph: Graph) -> None:
    """Turn ``x @ w^T``, and a bias that is added to it, into ``linear``, which reads a weight as it lies."""
    for node in graph.find_nodes(op="call_function", target=aten.mm.default):
        x, transposed = node.args
        if _calls(transposed, aten.permute.default):
            with graph.inserting_before(node):
                linear = _call_like(graph, aten.linear.default, (x, transposed.args[0]))
            _replace(node, linear)
    for node in graph.find_nodes(op="call_function", target=aten.add.Tensor):
        linear, bias = node.args
        is_alone = _calls(linear, aten.linear.default) and len(linear.users) == 1 and len(linear.args) == 2  # noqa: PLR2004 - x and w
        if is_alone and isinstance(bias, Node) and bias.meta["val"].shape == linear.meta["val"].shape[1:]:
            with graph.inserting_before(node):
                whole = _call_like(graph, aten.linear.default, (*linear.args, bias))
            _replace(node, whole)
    graph.eliminate_dead_code()


def drop_copies(graph: Graph) -> None:
    """Use a value instead of its alias, and what is rectified instead of rectifying it again: ExecuTorch would copy both."""
    for node in graph.find_nodes(op="call_function", target=aten.alias.default):
        node.replace_all_uses_with(node.args[0])
    for node in graph.find_nodes(op="call_function", target=aten.relu.default):
        if _calls(node.args[0], aten.relu.default):
            node.replace_all_uses_with(node.args[0])
    graph.eliminate_dead_code()


def _call_like(graph: Graph, target: Any, args: tuple[Any, ...]) -> Node:
    """Insert a call, with the shape that later passes look for."""
    node = graph.call_function(target, args)
    node.meta["val"] = target(*(arg.meta["val"] if isinstance(arg, Node) else arg for arg in args))
    return node


def _calls(node: object, target: Any) -> bool:
    """Return whether this is a call of this operator."""
    return isinstance(node, Node) and node.op == "call_function" and node.target == target


def _replace(node: Node, replacement: Node) -> None:
    """Let the replacement stand for the node."""
    replacement.meta = {**node.meta, **replacement.meta}
    node.replace_all_uses_with(replacement)


def _has_effects(node: Node) -> bool:
    """Return whether calling twice is not the same as calling once."""
    return not isinstance(node.target, torch._ops.OpOverload) or node.is_impure()  # noqa: SLF001 - its only name


def _hashable(value: object) -> object:
    """Return arguments as something that can be a key; 1, 1.0 and True stay apart."""
    if isinstance(value, dict):
        return tuple((key, _hashable(item)) for key, item in sorted(value.items()))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(_hashable(item) for item in value)
    return (type(value), value)
