"""Pooling and its backward in operators that every runtime has, and has right.

ExecuTorch's own backward of max pooling leaves its output unset (pytorch/executorch#21686: wrong gradients, NaN in the first
epoch), and ONNX has none. Where windows do not overlap, the usual case, a window is a dimension of its own: the maximum is a
reduction, and its gradient goes to the first greatest value, as in torch. Else the gradient is added to where the indices
point.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from types import NotImplementedType

import torch

__all__ = ["max_pool", "max_pool_backward"]

Mask = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

aten = torch.ops.aten


def max_pool(
    x: torch.Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    ceil_mode: bool = False,
) -> tuple[torch.Tensor, torch.Tensor] | NotImplementedType:
    """Return ``aten.max_pool2d_with_indices`` without indices, where windows do not overlap; else leave it."""
    kernel = _pair(kernel_size)
    if not _is_tiling(x, kernel, stride, padding, dilation, ceil_mode):
        return NotImplemented
    across = _greatest(_taps(x, kernel[1], 3))
    return _greatest(_taps(across, kernel[0], 2)), torch.zeros((1,), dtype=torch.int64)


def max_pool_backward(
    gradient: torch.Tensor,
    x: torch.Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    indices: torch.Tensor,
    *,
    is_greatest: Mask,
) -> torch.Tensor:
    """Return ``aten.max_pool2d_with_indices_backward``: each gradient goes to its window's first greatest value.

    Columns first, then rows: the first greatest in torch's order is the first of its row, in the first row that holds it.
    """
    kernel = _pair(kernel_size)
    if not _is_tiling(x, kernel, stride, padding, dilation, ceil_mode):
        flat = gradient.reshape(-1, gradient.shape[-2] * gradient.shape[-1])
        spread = torch.zeros((flat.shape[0], x.shape[-2] * x.shape[-1]), dtype=gradient.dtype)
        return spread.scatter_add(1, indices.reshape(flat.shape), flat).reshape(x.shape)
    columns = _taps(x, kernel[1], 3)
    across = _greatest(columns)
    spread = _to_first_greatest(gradient, _taps(across, kernel[0], 2), across.shape[2], 2, is_greatest)
    return _to_first_greatest(spread, columns, x.shape[3], 3, is_greatest)


def _pair(sizes: Sequence[int]) -> tuple[int, int]:
    """Return height and width; torch may give one number for both."""
    return (sizes[0], sizes[-1])


def _is_tiling(
    x: torch.Tensor,
    kernel: tuple[int, int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> bool:
    """Return whether windows lie side by side, without padding or gaps; what is left at the ends belongs to none."""
    side_by_side = not stride or _pair(stride) == kernel
    return x.dim() == 4 and side_by_side and not any(padding) and set(dilation) == {1} and not ceil_mode  # noqa: PLR2004


def _taps(x: torch.Tensor, size: int, dim: int) -> list[torch.Tensor]:
    """Return the first, second, ... value of each window along a dimension.

    Along the last one, every second value is slow to take; a transposition that takes all at once is five times faster.
    """
    if size == 1:
        return [x]
    used = x.shape[dim] // size * size
    if dim < x.dim() - 1:
        return [aten.slice(x, dim, start, used, size) for start in range(size)]
    whole = aten.slice(x, dim, 0, used) if used < x.shape[dim] else x
    apart = whole.reshape(-1, size).permute(1, 0).contiguous()
    shape = [-1, *x.shape[1:dim], used // size]
    return [aten.slice(apart, 0, start, start + 1).reshape(shape) for start in range(size)]


def _greatest(taps: list[torch.Tensor]) -> torch.Tensor:
    """Return the greatest value of each window."""
    return functools.reduce(torch.maximum, taps)


def _to_first_greatest(
    gradient: torch.Tensor, taps: list[torch.Tensor], length: int, dim: int, is_greatest: Mask
) -> torch.Tensor:
    """Return the gradient at the first greatest value of each window along a dimension, zeros elsewhere."""
    if len(taps) == 1:
        return gradient
    greatest, left, given = _greatest(taps), gradient, []
    for tap in taps[:-1]:
        share = left * is_greatest(tap, greatest)
        given.append(share.unsqueeze(dim + 1))
        left = left - share
    windows = torch.cat([*given, left.unsqueeze(dim + 1)], dim + 1)
    used = taps[0].shape[dim] * len(taps)
    shape = [-1, *gradient.shape[1:]]
    shape[dim] = used
    spread = windows.reshape(shape)
    rest = [0, 0] * (spread.dim() - dim - 1) + [0, length - used]
    return aten.constant_pad_nd(spread, rest) if used != length else spread
