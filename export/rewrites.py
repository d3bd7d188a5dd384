"""Which operators are rewritten for which runtime, because it lacks them, has them wrong, or has them slow."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from types import NotImplementedType
from typing import Any

import torch
from torch.export import ExportedProgram

from export.average_pooling import adaptive_average_pool, adaptive_average_pool_backward, average_pool_backward
from export.convolution import convolution, convolution_backward
from export.native_convolution import native_convolution_backward
from export.pooling import max_pool, max_pool_backward
from export.products import multiply_as_batches, permute_by_strides
from export.simplification import cancel_permutations, drop_copies, merge_equal_nodes, restore_selections

__all__ = ["EXECUTORCH", "ONNX", "Rewrites", "for_executorch", "for_onnx"]

aten = torch.ops.aten

Rewrites = dict[Any, Callable[..., Any]]
"""torch operator -> the same function in operators that a runtime has, and has right and fast."""


def _add_product(
    bias: torch.Tensor, left: torch.Tensor, right: torch.Tensor, *, beta: float = 1, alpha: float = 1
) -> torch.Tensor | NotImplementedType:
    """Return ``aten.addmm`` as a product and a sum: ExecuTorch's own is 40 times slower."""
    if (beta, alpha) != (1, 1):
        return NotImplemented
    return torch.mm(left, right) + bias


def _is_greatest_by_sign(value: torch.Tensor, greatest: torch.Tensor) -> torch.Tensor:
    """Return 1 where the value is the greatest, else 0; ExecuTorch's comparisons and casts are slow, its signs are fast."""
    return (value - greatest).sign() + 1


def _is_greatest_by_comparison(value: torch.Tensor, greatest: torch.Tensor) -> torch.Tensor:
    """Return 1 where the value is the greatest, else 0; in ONNX Runtime comparisons and casts are fast, signs are slow."""
    return (value >= greatest).to(value.dtype)


def _threshold_backward_by_sign(gradient: torch.Tensor, x: torch.Tensor, threshold: float) -> torch.Tensor:
    """Return ``aten.threshold_backward``, the backward of relu, as a product with a mask."""
    return gradient * torch.relu(x - threshold if threshold else x).sign()


def _threshold_backward_by_comparison(gradient: torch.Tensor, x: torch.Tensor, threshold: float) -> torch.Tensor:
    """Return ``aten.threshold_backward``, the backward of relu, as a product with a mask."""
    return gradient * (x > threshold).to(gradient.dtype)


def _split_by_slices(x: torch.Tensor, sizes: Sequence[int], dim: int = 0) -> list[torch.Tensor]:
    """Return ``aten.split_with_sizes``; ExecuTorch's exporter would take the batch of such a list for a constant."""
    ends = list(itertools.accumulate(sizes))
    return [aten.slice(x, dim, end - size, end) for size, end in zip(sizes, ends, strict=True)]


def _zeros_for_empty(size: Sequence[int | torch.SymInt], order: Sequence[int], **options: Any) -> torch.Tensor:  # noqa: ARG001
    """Return ``aten.empty_permuted``, whose values and order in memory are free: zeros, as they come."""
    return torch.zeros(size, dtype=options["dtype"])


BOTH: Rewrites = {
    aten._adaptive_avg_pool2d.default: adaptive_average_pool,  # noqa: SLF001 - the operator's name
    aten._adaptive_avg_pool2d_backward.default: adaptive_average_pool_backward,  # noqa: SLF001 - the operator's name
    aten.avg_pool2d_backward.default: average_pool_backward,
    aten.empty_permuted.default: _zeros_for_empty,
    aten.max_pool2d_with_indices.default: max_pool,
}

EXECUTORCH: Rewrites = {
    **BOTH,
    aten.addmm.default: _add_product,
    aten.convolution.default: convolution,
    aten.convolution_backward.default: convolution_backward,
    aten.max_pool2d_with_indices_backward.default: functools.partial(
        max_pool_backward, is_greatest=_is_greatest_by_sign
    ),
    aten.split_with_sizes.default: _split_by_slices,
    aten.threshold_backward.default: _threshold_backward_by_sign,
}

ONNX: Rewrites = {
    **BOTH,
    aten.convolution_backward.default: native_convolution_backward,
    aten.max_pool2d_with_indices_backward.default: functools.partial(
        max_pool_backward, is_greatest=_is_greatest_by_comparison
    ),
    aten.threshold_backward.default: _threshold_backward_by_comparison,
}


def for_executorch(program: ExportedProgram) -> ExportedProgram:
    """Return the same function as ExecuTorch runs it best."""
    program = program.run_decompositions(EXECUTORCH)
    drop_copies(program.graph)
    restore_selections(program.graph)
    merge_equal_nodes(program.graph)
    cancel_permutations(program.graph)
    multiply_as_batches(program.graph)
    cancel_permutations(program.graph)
    permute_by_strides(program.graph)
    merge_equal_nodes(program.graph)
    program.graph_module.recompile()
    return program


def for_onnx(program: ExportedProgram) -> ExportedProgram:
    """Return the same function as ONNX Runtime runs it best."""
    program = program.run_decompositions(ONNX)
    merge_equal_nodes(program.graph)
    cancel_permutations(program.graph)
    program.graph_module.recompile()
    return program
