"""How much memory a training step's values take: the most that is alive at one time, as a line in the number of examples.

A value is there from the operator that makes it to the last one that takes it, or a view of it; inputs are there throughout.
Runtimes reuse memory in this way.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from export.joint_graph import LARGEST_BATCH
from wire.manifest import StepMemory

__all__ = ["bytes_of", "measure_memory"]

aten = torch.ops.aten

VIEWS = (aten.view.default, aten.unsqueeze.default, aten.squeeze.dims, aten.alias.default)
"""What takes no memory of its own."""


def measure_memory(program: ExportedProgram) -> StepMemory:
    """Return what a step needs.

    Args:
        program: As a runtime gets it; its batch is free.
    """
    one, many = (_peakbytes_of(program, batch) for batch in (1, LARGEST_BATCH))
    per_example = math.ceil((many - one) / (LARGEST_BATCH - 1))
    return StepMemory(max(one - per_example, 0), max(per_example, 1))


def _peakbytes_of(program: ExportedProgram, batch: int) -> int:
    """Return the most bytes that are alive at one time in a batch of this size."""
    nodes = list(program.graph.nodes)
    last_use = {_viewed(node): index for index, user in enumerate(nodes) for node in user.all_input_nodes}
    ends: dict[int, int] = {}
    alive = peak = 0
    for index, node in enumerate(nodes):
        size = sum(bytes_of(value, batch) for value in _values(node))
        alive += size
        if node.op == "call_function":
            end = last_use.get(node, index)
            ends[end] = ends.get(end, 0) + size
        peak = max(peak, alive)
        alive -= ends.pop(index, 0)
    return peak


def _viewed(node: Node) -> Node:
    """Return the value that this is a view of, or the value itself."""
    while node.target in VIEWS:
        node = node.all_input_nodes[0]
    return node


def _values(node: Node) -> Iterator[torch.Tensor]:
    """Yield the tensors that an operator makes; taking one from a list makes none."""
    is_made = node.op == "call_function" and hasattr(node.target, "tags") and node.target not in VIEWS
    if is_made or node.op == "placeholder":
        value = node.meta.get("val")
        yield from (
            it for it in (value if isinstance(value, list | tuple) else [value]) if isinstance(it, torch.Tensor)
        )


def bytes_of(tensor: torch.Tensor, batch: int) -> int:
    """Return a tensor's size, its free dimensions as large as the batch makes them."""
    sizes = (_size(size, batch) for size in tensor.shape)
    return math.prod(sizes) * tensor.element_size()


def _size(size: int | torch.SymInt, batch: int) -> int:
    """Return a dimension; a free one depends on the batch alone."""
    if isinstance(size, int):
        return size
    expression = size.node.expr
    return int(expression.subs(dict.fromkeys(expression.free_symbols, batch)))
