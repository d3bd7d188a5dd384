"""Columns: what each tap of a kernel sees of a tensor, side by side, so that a convolution is a matrix product."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

__all__ = [
    "Window",
    "add_shifted",
    "gather_columns",
    "make_window",
    "pad_for_input",
    "pad_symmetrically",
    "spread_by_stride",
    "strided_columns",
]

aten = torch.ops.aten


@dataclass(frozen=True)
class Window:
    """How a kernel moves over the spatial dimensions, one or two of them.

    Args:
        kernel: Number of taps along each dimension.
        stride: Input positions from one output to the next.
        padding: Zeros before and after the input.
        dilation: Input positions from one tap to the next.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    def offsets(self) -> list[tuple[int, ...]]:
        """Return where each tap begins in the padded input, in the order of the kernel's values."""
        spans = (range(0, taps * step, step) for taps, step in zip(self.kernel, self.dilation, strict=True))
        return list(itertools.product(*spans))

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Return the number of outputs along each dimension for an input of this size."""
        reaches = [step * (taps - 1) + 1 for taps, step in zip(self.kernel, self.dilation, strict=True)]
        return tuple(
            (length + 2 * pad - reach) // stride + 1
            for length, pad, reach, stride in zip(size, self.padding, reaches, self.stride, strict=True)
        )

    def transposed_size(self, size: Sequence[int], output_padding: Sequence[int]) -> tuple[int, ...]:
        """Return the number of outputs along each dimension of the transposed convolution of an input of this size."""
        reaches = [step * (taps - 1) + 1 for taps, step in zip(self.kernel, self.dilation, strict=True)]
        return tuple(
            (length - 1) * stride - 2 * pad + reach + more
            for length, stride, pad, reach, more in zip(
                size, self.stride, self.padding, reaches, output_padding, strict=True
            )
        )


def make_window(
    kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> Window:
    """Return the kernel's movement; torch may give one number for all dimensions."""
    stride, padding, dilation = (tuple(given) * (len(kernel) // len(given)) for given in (stride, padding, dilation))
    return Window(tuple(kernel), stride, padding, dilation)


def gather_columns(
    x: torch.Tensor,
    offsets: Sequence[tuple[int, ...]],
    size: Sequence[int],
    stride: Sequence[int],
) -> torch.Tensor:
    """Return one strided copy of x for each offset, as a new dimension after the channels.

    Args:
        x: Shape ``(batch, channels, *others, *spatial)``.
        offsets: Where each tap begins along the spatial dimensions.
        size: Number of positions that each tap takes.
        stride: Steps between them.

    Returns:
        Shape ``(batch, channels, taps, *others, *size)``.
    """
    first = x.dim() - len(size)
    taps = []
    for offset in offsets:
        tap = x
        for dim, (start, length, step) in enumerate(zip(offset, size, stride, strict=True), start=first):
            end = start + step * (length - 1) + 1
            if (start, end) != (0, x.shape[dim]) or step != 1:
                tap = aten.slice(tap, dim, start, end, step)
        taps.append(tap.unsqueeze(2))
    return torch.cat(taps, 2) if len(taps) > 1 else taps[0]


def strided_columns(x: torch.Tensor, starts: Sequence[int], window: Window, size: Sequence[int]) -> torch.Tensor:
    """Return what each tap sees of x, in the order of the kernel's values, by one copy: overlapping windows of its memory.

    Args:
        x: Shape ``(batch, channels, *spatial)``, contiguous.
        starts: Where the first tap begins along the spatial dimensions.
        window: The kernel's movement; its padding is x's already.
        size: Number of positions that each tap takes.

    Returns:
        Shape ``(batch, channels, taps, *size)``.
    """
    strides = [math.prod(x.shape[dim + 1 :]) for dim in range(1, x.dim())]
    along = strides[1:]
    taps = [step * stride for step, stride in zip(window.dilation, along, strict=True)]
    positions = [step * stride for step, stride in zip(window.stride, along, strict=True)]
    begin = sum(start * stride for start, stride in zip(starts, along, strict=True))
    columns: torch.Tensor = aten.as_strided_copy(
        x,
        [x.shape[0], x.shape[1], *window.kernel, *size],
        [math.prod(x.shape[1:]), strides[0], *taps, *positions],
        begin,
    )
    return columns.reshape(-1, x.shape[1], math.prod(window.kernel), *size)


def add_shifted(parts: torch.Tensor, step: int, length: int) -> torch.Tensor:
    """Return the sum of all parts, each shifted by one step more than the one before it.

    Zeros behind each part, one step more of them than a row of the sum takes, shift the parts when rows are cut anew.

    Args:
        parts: Shape ``(batch, channels, parts, positions)``.
        step: Positions, at least 1.
        length: The least number of positions in the sum.

    Returns:
        Shape ``(batch, channels, positions)``, as many as the last part reaches to, or ``length``.
    """
    channels, count, given = parts.shape[1:]
    if count > 1:
        row = max(given + step * (count - 1), length)
        apart = _pad(parts, [0, row + step - given]).reshape(-1, channels, count * (row + step))
        parts = aten.slice(apart, 2, 0, count * row).reshape(-1, channels, count, row)
        return parts.sum(2)
    return _pad(parts, [0, max(length - given, 0)]).reshape(-1, channels, max(given, length))


def pad_symmetrically(x: torch.Tensor, padding: Sequence[int]) -> torch.Tensor:
    """Return x with this many zeros before and after each of the last dimensions."""
    return _pad(x, [pad for pad in reversed(padding) for _ in range(2)])


def spread_by_stride(gradient: torch.Tensor, stride: Sequence[int]) -> torch.Tensor:
    """Return the gradient with ``stride - 1`` zeros after each position, its first two dimensions as they are."""
    if all(step == 1 for step in stride):
        return gradient
    channels, lengths = gradient.shape[1], gradient.shape[2:]
    apart = gradient.reshape(-1, channels, *(size for length in lengths for size in (length, 1)))
    apart = _pad(apart, [pad for step in reversed(stride) for pad in (0, step - 1, 0, 0)])
    return apart.reshape(-1, channels, *(length * step for length, step in zip(lengths, stride, strict=True)))


def pad_for_input(spread: torch.Tensor, size: Sequence[int], window: Window) -> tuple[torch.Tensor, tuple[int, ...]]:
    """Return the spread gradient, padded so that every tap finds every input position, and where the first tap begins.

    Args:
        spread: From ``spread_by_stride``.
        size: The input's spatial size.
        window: The kernel's movement over the input.
    """
    padding: list[int] = []
    starts: list[int] = []
    for given, length, taps, pad, step in zip(
        spread.shape[2:], size, window.kernel, window.padding, window.dilation, strict=True
    ):
        reach = step * (taps - 1)
        left, start = max(reach - pad, 0), max(pad - reach, 0)
        padding = [left, max(start + length + reach - left - given, 0), *padding]
        starts.append(start)
    return _pad(spread, padding), tuple(starts)


def _pad(x: torch.Tensor, padding: list[int]) -> torch.Tensor:
    """Return x with zeros around it, or x itself if none are asked for."""
    padded: torch.Tensor = aten.constant_pad_nd(x, padding) if any(padding) else x
    return padded
