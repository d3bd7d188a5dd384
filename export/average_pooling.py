"""The backward of average pooling: each position takes an equal share of every window that it lies in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import NotImplementedType

import torch

from export.columns import gather_columns, make_window, pad_for_input, spread_by_stride

__all__ = ["adaptive_average_pool_backward", "average_pool_backward"]


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


def adaptive_average_pool_backward(gradient: torch.Tensor, x: torch.Tensor) -> torch.Tensor | NotImplementedType:
    """Return ``aten._adaptive_avg_pool2d_backward``, where all windows have one size."""
    if any(size % parts for size, parts in zip(x.shape[-2:], gradient.shape[-2:], strict=True)):
        return NotImplemented
    kernel = [size // parts for size, parts in zip(x.shape[-2:], gradient.shape[-2:], strict=True)]
    return average_pool_backward(gradient, x, kernel, kernel, (0, 0), False, True, None)
