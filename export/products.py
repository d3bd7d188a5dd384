"""Matrix products and permutations as ExecuTorch has them fast.

Its own kernels multiply with Eigen and permute value by value. XNNPACK takes a quarter of the time for batches of matrices, and
a strided copy, which a transposition is too, an eighth of that of a permutation.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch.fx import Graph, Node, map_arg

from export.joint_graph import LARGEST_BATCH
from export.memory import bytes_of
from export.simplification import calls

__all__ = ["multiply_as_batches", "permute_by_strides"]

aten = torch.ops.aten

Size = int | Node
"""A dimension, or where the graph keeps one that is free."""


def multiply_as_batches(graph: Graph) -> None:
    """Turn each product of two matrices into a batch of one, and ``x @ w^T`` into ``(w @ x^T)^T`` where that moves less."""
    for node in graph.find_nodes(op="call_function", target=aten.mm.default):
        left, right = node.args
        with graph.inserting_before(node):
            if calls(right, aten.permute.default) and _size(right) > _size(left) + _size(node):
                transposed = _product(graph, right.args[0], _call(graph, aten.permute.default, left, [1, 0]))
                product = _call(graph, aten.permute.default, transposed, [1, 0])
            else:
                product = _product(graph, left, right)
        node.replace_all_uses_with(product)
    graph.eliminate_dead_code()


def permute_by_strides(graph: Graph) -> None:
    """Turn permutations into strided copies."""
    for node in graph.find_nodes(op="call_function", target=aten.permute.default):
        source, order = node.args
        with graph.inserting_before(node):
            shape = _shape(graph, source)
            strides = _strides(graph, shape)
            copied = _call(
                graph,
                aten.as_strided_copy.default,
                source,
                [shape[dim] for dim in order],
                [strides[dim] for dim in order],
            )
        for user in list(node.users):
            if calls(user, aten.clone.default):  # it made the permuted view contiguous
                user.replace_all_uses_with(copied)
        node.replace_all_uses_with(copied)
    graph.eliminate_dead_code()


def _product(graph: Graph, left: Node, right: Node) -> Node:
    """Insert the product of two matrices, as a batch of one."""
    batch = [_call(graph, aten.view.default, matrix, [1, *_shape(graph, matrix)]) for matrix in (left, right)]
    shape = [_shape(graph, left)[0], _shape(graph, right)[1]]
    return _call(graph, aten.view.default, _call(graph, aten.bmm.default, *batch), shape)


def _shape(graph: Graph, node: Node) -> list[Size]:
    """Return a value's shape; free dimensions are looked up in the graph."""
    shape: list[Size] = []
    for dim, size in enumerate(node.meta["val"].shape):
        if isinstance(size, int):
            shape.append(size)
            continue
        found = graph.call_function(aten.sym_size.int, (node, dim))
        found.meta["val"] = size
        shape.append(found)
    return shape


def _size(node: Node) -> int:
    """Return how many bytes a value takes in the largest batch."""
    return bytes_of(node.meta["val"], LARGEST_BATCH)


def _strides(graph: Graph, shape: list[Size]) -> list[Size]:
    """Return how far apart the values lie along each dimension."""
    strides: list[Size] = [1]
    for size in reversed(shape[1:]):
        strides.insert(0, _times(graph, size, strides[0]))
    return strides


def _times(graph: Graph, left: Size, right: Size) -> Size:
    """Return a product, which the graph computes if it is of free dimensions."""
    if isinstance(left, int) and isinstance(right, int):
        return left * right
    if 1 in (left, right):
        return right if left == 1 else left
    return _call(graph, operator.mul, left, right)


def _call(graph: Graph, target: Any, *args: Any) -> Node:
    """Insert a call, with the value that later passes look for."""
    node = graph.call_function(target, args)
    node.meta["val"] = target(*map_arg(args, lambda arg: arg.meta["val"]))
    return node
