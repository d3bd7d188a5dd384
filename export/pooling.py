"""Pooling and its backward in operators that every runtime has, and has right.

ExecuTorch's own backward of max pooling leaves its output unset (pytorch/executorch#21686: wrong gradients, NaN in the first
epoch), and ONNX has none. Where windows do not overlap, the usual case, a window is a dimension of its own: the maximum is a
reduction, and its gradient goes to the first greatest value, as in torch. Else the gradient is added to where the indices
point.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["max_pool", "max_pool_backward"]

aten = torch.ops.aten


def max_pool(
    x: torch.Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    ceil_mode: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ``aten.max_pool2d_with_indices`` without indices, where windows do not overlap; else leave it."""
    kernel = _pair(kernel_size)
    if not _is_tiling(x, kernel, stride, padding, dilation, ceil_mode):
        return NotImplemented
    tall = _rows(_across(x, kernel), kernel)
    return tall.amax(3), torch.zeros((1,), dtype=torch.int64)


def max_pool_backward(
    gradient: torch.Tensor,
    x: torch.Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    indices: torch.Tensor,
) -> torch.Tensor:
    """Return ``aten.max_pool2d_with_indices_backward``: each gradient goes to its window's first greatest value.

    Rows first, then columns within them: the first greatest in torch's order is the first of its row, in the first row that
    holds it.
    """
    kernel = _pair(kernel_size)
    if not _is_tiling(x, kernel, stride, padding, dilation, ceil_mode):
        flat = gradient.reshape(-1, gradient.shape[-2] * gradient.shape[-1])
        spread = torch.zeros((flat.shape[0], x.shape[-2] * x.shape[-1]), dtype=gradient.dtype)
        return spread.scatter_add(1, indices.reshape(flat.shape), flat).reshape(x.shape)
    height, width = gradient.shape[-2] * kernel[0], gradient.shape[-1] * kernel[1]
    wide = _windows(x, kernel)
    tall = _rows(_across(x, kernel), kernel)
    spread = _to_first_greatest(gradient.unsqueeze(3), tall, 3).reshape(-1, x.shape[1], height, gradient.shape[-1])
    spread = _to_first_greatest(spread.unsqueeze(4), wide, 4).reshape(-1, x.shape[1], height, width)
    rest = [0, x.shape[-1] - width, 0, x.shape[-2] - height]
    return aten.constant_pad_nd(spread, rest) if any(rest) else spread


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


def _windows(x: torch.Tensor, kernel: tuple[int, int]) -> torch.Tensor:
    """Return the windows' columns as a dimension: ``(batch, channels, height, windows, kernel)``."""
    rows, columns = x.shape[-2] // kernel[0], x.shape[-1] // kernel[1]
    for dim, used in ((2, rows * kernel[0]), (3, columns * kernel[1])):
        if used != x.shape[dim]:
            x = aten.slice(x, dim, 0, used)
    return x.reshape(-1, x.shape[1], rows * kernel[0], columns, kernel[1])


def _across(x: torch.Tensor, kernel: tuple[int, int]) -> torch.Tensor:
    """Return the greatest value of each window's rows: ``(batch, channels, height, windows)``."""
    return _windows(x, kernel).amax(4)


def _rows(across: torch.Tensor, kernel: tuple[int, int]) -> torch.Tensor:
    """Return the windows' rows as a dimension: ``(batch, channels, windows, kernel, windows)``."""
    return across.reshape(-1, across.shape[1], across.shape[2] // kernel[0], kernel[0], across.shape[3])


def _to_first_greatest(gradient: torch.Tensor, windows: torch.Tensor, dim: int) -> torch.Tensor:
    """Return the gradient at the first greatest value along a dimension, zeros elsewhere."""
    if windows.shape[dim] == 1:
        return gradient
    positions = torch.arange(windows.shape[dim]).reshape(-1, *(1 for _ in range(dim + 1, windows.dim())))
    is_first = windows.argmax(dim, keepdim=True) == positions
    return torch.where(is_first, gradient, torch.zeros((), dtype=gradient.dtype))
