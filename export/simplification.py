"""Small changes to a graph that runtimes do not make themselves, each exact.

ExecuTorch runs a graph as it is written: a permutation that is undone at once copies its tensor twice, and the columns of a
convolution would be gathered for the forward and again for the backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Graph, Node

__all__ = [
    "calls",
    "cancel_permutations",
    "drop_copies",
    "merge_equal_nodes",
    "rectify_before_spreading",
    "restore_selections",
    "restore_threshold_backward",
]

aten = torch.ops.aten


def restore_threshold_backward(graph: Graph) -> None:
    """Name ``where(x <= 0, 0, gradient)`` again ``threshold_backward``, the backward of relu, so that it can be rewritten."""
    for node in graph.find_nodes(op="call_function", target=aten.where.self):
        is_off, zero, gradient = node.args
        if not (calls(is_off, aten.le.Scalar) and is_off.args[1] == 0 and calls(zero, aten.scalar_tensor.default)):
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
        if calls(before, aten.permute.default):
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


def rectify_before_spreading(graph: Graph) -> None:
    """Let the backward of relu mask a pool's gradient before it is spread over the windows: the same mask, a quarter as large.

    The gradient goes to a window's greatest value alone, and that is on where the window's maximum is.
    """
    for node in graph.find_nodes(op="call_function", target=aten.threshold_backward.default):
        spread, x, threshold = node.args
        while calls(x, aten.alias.default):
            x = x.args[0]
        is_pooled = calls(spread, aten.max_pool2d_with_indices_backward.default) and spread.args[1] is x
        if not (is_pooled and calls(x, aten.relu.default) and threshold == 0 and len(spread.users) == 1):
            continue
        gradient, pool = spread.args[0], spread.args[-1].args[0]
        maxima = [it for it in pool.users if it.args[1] == 0]
        if maxima:
            with graph.inserting_before(spread):
                masked = graph.call_function(aten.threshold_backward.default, (gradient, maxima[0], 0))
            masked.meta = dict(gradient.meta)
            spread.args = (masked, *spread.args[1:])
            _replace(node, spread)
    graph.eliminate_dead_code()


def restore_selections(graph: Graph) -> None:
    """Turn the backward of a selection, which looks for its place by comparing, into zeros before and behind it."""
    for node in graph.find_nodes(op="call_function", target=aten.where.self):
        is_place, repeated, zeros = node.args
        is_known = calls(is_place, aten.eq.Scalar) and calls(is_place.args[0], aten.view.default)
        if not (is_known and calls(repeated, aten.expand.default) and calls(zeros, aten.full.default)):
            continue
        counted, taken, sizes = is_place.args[0].args[0], repeated.args[0], is_place.meta["val"].shape
        dim = max(range(len(sizes)), key=lambda axis: sizes[axis])
        before, count = is_place.args[1], sizes[dim]
        is_counted = calls(counted, aten.arange.start_step) and counted.args == (0, count) == (0, math.prod(sizes))
        if is_counted and zeros.args[1] == 0 and taken.meta["val"].shape[dim] == 1:
            behind = [0, 0] * (len(sizes) - 1 - dim)
            padding = [*behind, before, count - 1 - before]
            with graph.inserting_before(node):
                padded = graph.call_function(aten.constant_pad_nd.default, (taken, padding))
            _replace(node, padded)
    graph.eliminate_dead_code()


def drop_copies(graph: Graph) -> None:
    """Use a value instead of its alias, and what is rectified instead of rectifying it again: ExecuTorch would copy both."""
    for node in graph.find_nodes(op="call_function", target=aten.alias.default):
        node.replace_all_uses_with(node.args[0])
    for node in graph.find_nodes(op="call_function", target=aten.relu.default):
        if calls(node.args[0], aten.relu.default):
            node.replace_all_uses_with(node.args[0])
    graph.eliminate_dead_code()


def calls(node: object, target: Any) -> bool:
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
