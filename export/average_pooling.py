"""Average pooling and its backward: each position takes an equal share of every window that it lies in."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from types import NotImplementedType

import torch

from export.columns import gather_columns, make_window, pad_for_input, spread_by_stride

__all__ = ["adaptive_average_pool", "adaptive_average_pool_backward", "average_pool_backward"]

aten = torch.ops.aten


def average_pool_backward(
    gradient: torch.Tensor,
    x: torch.Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> torch.Tensor | NotImplementedType:
    """Return ``aten.avg_pool2d_backward``, unless windows at the edge have divisors of their own."""
    size = x.shape[2:]
    window = make_window([kernel_size[0], kernel_size[-1]], stride or kernel_size, padding, [1])
    has_full_windows = window.output_size(size) == tuple(gradient.shape[2:])
    if (any(padding) and not count_include_pad) or (ceil_mode and not has_full_windows):
        return NotImplemented
    share = gradient / (divisor_override or math.prod(window.kernel))
    padded, starts = pad_for_input(spread_by_stride(share, window.stride), size, window)
    offsets = [tuple(map(sum, zip(starts, offsets, strict=True))) for offsets in window.offsets()]
    return gather_columns(padded, offsets, size, (1, 1)).sum(2)


def adaptive_average_pool(x: torch.Tensor, output_size: Sequence[int]) -> torch.Tensor | NotImplementedType:
    """Return ``aten._adaptive_avg_pool2d``, where windows differ in size; else leave it.

    The mean over a window is the mean over its rows of the means over its columns.
    """
    if not any(size % parts for size, parts in zip(x.shape[-2:], output_size, strict=True)):
        return NotImplemented
    for dim, parts in ((-1, output_size[-1]), (-2, output_size[-2])):
        windows = _adaptive_windows(x.shape[dim], parts)
        x = torch.cat([aten.slice(x, dim, *window).mean(dim, keepdim=True) for window in windows], dim)
    return x


def adaptive_average_pool_backward(gradient: torch.Tensor, x: torch.Tensor) -> torch.Tensor | NotImplementedType:
    """Return ``aten._adaptive_avg_pool2d_backward``."""
    if any(size % parts for size, parts in zip(x.shape[-2:], gradient.shape[-2:], strict=True)):
        for dim in (-2, -1):
            gradient = _spread_means(gradient, x.shape[dim], dim)
        return gradient
    kernel = [size // parts for size, parts in zip(x.shape[-2:], gradient.shape[-2:], strict=True)]
    return average_pool_backward(gradient, x, kernel, kernel, (0, 0), False, True, None)


def _spread_means(gradient: torch.Tensor, size: int, dim: int) -> torch.Tensor:
    """Return the gradient along a dimension of this size: each position takes a share of every window that it lies in."""
    spread = []
    for index, (start, end) in enumerate(_adaptive_windows(size, gradient.shape[dim])):
        share = aten.slice(gradient, dim, index, index + 1) / (end - start)
        shape = list(share.shape)
        shape[dim] = end - start
        behind = [0, 0] * (-dim - 1)
        spread.append(aten.constant_pad_nd(share.expand(shape), [*behind, start, size - end]))
    return functools.reduce(torch.add, spread)


def _adaptive_windows(size: int, parts: int) -> list[tuple[int, int]]:
    """Return where torch's adaptive windows begin and end; neighbors may overlap."""
    return [(index * size // parts, -(-(index + 1) * size // parts)) for index in range(parts)]
