"""Convolution and its backward as batched matrix products.

Edge runtimes have no fast backward convolution (ExecuTorch's is 80 times slower than torch's, ONNX has none), but all have
a fast matrix product. With ``columns`` the shifted copies of the input under each tap of the kernel::

    forward   y  = W  @ columns(x)                 (out, in taps) @ (in taps, positions)
    weight    dW = sum over the batch of dy @ columns(x)^T
    input     dx = W' @ columns(dy with zeros between its positions), taps in reverse

Batch and groups are one leading dimension, so that groups and depthwise convolutions need no loop, and no permutation of
activations, which costs more than the product.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

__all__ = ["convolution", "convolution_backward", "convolution_backward_natively"]

aten = torch.ops.aten

Gradients = tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]


@dataclass(frozen=True)
class Window:
    """How the kernel moves over the spatial dimensions, one or two of them."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    def offsets(self) -> list[tuple[int, ...]]:
        """Return where each tap begins, in the order of the kernel's values."""
        spans = (range(0, size * dilation, dilation) for size, dilation in zip(self.kernel, self.dilation, strict=True))
        return list(itertools.product(*spans))


def convolution(  # noqa: D417 - the operator's own signature
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],  # noqa: ARG001 - of transposed convolutions alone
    groups: int,
) -> torch.Tensor:
    """Return ``aten.convolution`` as one batched matrix product. Transposed convolutions stay as they are."""
    if transposed:
        return NotImplemented
    window = _window(weight, stride, padding, dilation)
    size = tuple(
        (length + 2 * pad - step * (taps - 1) - 1) // skip + 1
        for length, pad, step, taps, skip in zip(
            x.shape[2:], window.padding, window.dilation, window.kernel, window.stride, strict=True
        )
    )
    kernels = weight.reshape(groups, weight.shape[0] // groups, -1)
    y = torch.bmm(_every_example(kernels, x), _input_columns(x, window, size, groups))
    y = y.reshape(-1, weight.shape[0], *size)
    return y if bias is None else y + bias.reshape(-1, *(1 for _ in size))


def convolution_backward(  # noqa: D417 - the operator's own signature
    gradient: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias_sizes: Sequence[int] | None,  # noqa: ARG001 - known from the gradient
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],  # noqa: ARG001 - of transposed convolutions alone
    groups: int,
    output_mask: Sequence[bool],
) -> Gradients:
    """Return ``aten.convolution_backward`` as batched matrix products. Transposed convolutions stay as they are."""
    if transposed:
        return NotImplemented  # type: ignore[return-value] - torch's word for "not decomposed"
    window = _window(weight, stride, padding, dilation)
    return (
        _input_gradient(gradient, x, weight, window, groups) if output_mask[0] else None,
        _weight_gradient(gradient, x, weight, window, groups) if output_mask[1] else None,
        _bias_gradient(gradient) if output_mask[2] else None,
    )


def convolution_backward_natively(  # noqa: D417 - the operator's own signature
    gradient: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias_sizes: Sequence[int] | None,  # noqa: ARG001 - known from the gradient
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],  # noqa: ARG001 - of transposed convolutions alone
    groups: int,
    output_mask: Sequence[bool],
) -> Gradients:
    """Return ``aten.convolution_backward`` with a transposed convolution for the input's gradient."""
    if transposed:
        return NotImplemented  # type: ignore[return-value] - torch's word for "not decomposed"
    window = _window(weight, stride, padding, dilation)
    x_gradient = None
    if output_mask[0]:
        remainder = [
            length - ((given - 1) * skip - 2 * pad + step * (taps - 1) + 1)
            for length, given, skip, pad, step, taps in zip(
                x.shape[2:],
                gradient.shape[2:],
                window.stride,
                window.padding,
                window.dilation,
                window.kernel,
                strict=True,
            )
        ]
        x_gradient = aten.convolution(
            gradient,
            weight,
            None,
            window.stride,
            window.padding,
            window.dilation,
            True,
            remainder,
            groups,  # noqa: FBT003
        )
    return (
        x_gradient,
        _weight_gradient_at_once(gradient, x, weight, window, groups) if output_mask[1] else None,
        _bias_gradient(gradient) if output_mask[2] else None,
    )


def _weight_gradient_at_once(gradient, x, weight, window, groups):
    x = x.reshape(-1,groups,weight.shape[1],*x.shape[2:]).permute(1,2,0,*range(3,x.dim()+1))
    size=tuple(gradient.shape[2:])
    if any(window.padding):
        x = aten.constant_pad_nd(x, [pad for pad in reversed(window.padding) for _ in range(2)])
    taps=[]
    for offset in window.offsets():
        tap = x
        for dim, (start, length, step) in enumerate(zip(offset, size, window.stride, strict=True), start=3):
            end = start + step * (length - 1) + 1
            if (start, end, step) != (0, x.shape[dim], 1):
                tap = aten.slice(tap, dim, start, end, step)
        taps.append(tap.unsqueeze(2))
    c=torch.cat(taps,2).reshape(groups,weight.shape[1]*len(taps),-1)
    og=weight.shape[0]//groups
    g=gradient.reshape(-1,groups,og,math.prod(size)).permute(1,2,0,3).reshape(groups,og,-1)
    if groups==1: return torch.mm(g[0],c[0].t()).reshape(weight.shape)
    return torch.bmm(g,c.permute(0,2,1)).reshape(weight.shape)


def _weight_gradient(
    gradient: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, window: Window, groups: int
) -> torch.Tensor:
    """Return the gradient of the weight: each example's product of columns and output gradient, summed."""
    outputs = weight.shape[0] // groups
    columns = _input_columns(x, window, tuple(gradient.shape[2:]), groups)
    by_position = gradient.reshape(-1, outputs, math.prod(gradient.shape[2:])).permute(0, 2, 1)
    products = torch.bmm(columns, by_position)
    return products.reshape(-1, groups, columns.shape[1], outputs).sum(0).permute(0, 2, 1).reshape(weight.shape)


def _input_gradient(
    gradient: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, window: Window, groups: int
) -> torch.Tensor:
    """Return the gradient of the input: a convolution of the spread gradient with the kernel, taps in reverse."""
    inputs, outputs = weight.shape[1], weight.shape[0] // groups
    spread = _spread(gradient.reshape(-1, outputs, *gradient.shape[2:]), window.stride)
    padded, starts = _pad_for_input(spread, tuple(x.shape[2:]), window)
    offsets = [
        tuple(start + offset for start, offset in zip(starts, offsets, strict=True))
        for offsets in reversed(window.offsets())
    ]
    columns = _columns(padded, offsets, tuple(x.shape[2:]), (1,) * len(starts))
    kernels = weight.reshape(groups, outputs, inputs, -1).permute(0, 2, 1, 3).reshape(groups, inputs, -1)
    return torch.bmm(_every_example(kernels, x), columns).reshape(x.shape)


def _bias_gradient(gradient: torch.Tensor) -> torch.Tensor:
    """Return the gradient of the bias: a sum over batch and positions."""
    return gradient.sum([0, *range(2, gradient.dim())])


def _window(weight: torch.Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]) -> Window:
    """Return the kernel's movement; torch may give one number for all dimensions."""
    kernel = tuple(weight.shape[2:])
    fields = (tuple(given) * (len(kernel) // len(given)) for given in (stride, padding, dilation))
    return Window(kernel, *fields)


def _every_example(kernels: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return the kernels of each group, repeated for each example: ``(batch * groups, outputs, inputs * taps)``."""
    return kernels.unsqueeze(0).expand(x.shape[0], *kernels.shape).reshape(-1, *kernels.shape[1:])


def _input_columns(x: torch.Tensor, window: Window, size: tuple[int, ...], groups: int) -> torch.Tensor:
    """Return what each tap sees of the padded input: ``(batch * groups, inputs * taps, positions)``."""
    x = x.reshape(-1, x.shape[1] // groups, *x.shape[2:])
    if any(window.padding):
        x = aten.constant_pad_nd(x, [pad for pad in reversed(window.padding) for _ in range(2)])
    return _columns(x, window.offsets(), size, window.stride)


def _columns(
    x: torch.Tensor, offsets: list[tuple[int, ...]], size: tuple[int, ...], stride: tuple[int, ...]
) -> torch.Tensor:
    """Return one strided copy of x for each offset, inputs before taps, positions in one dimension."""
    taps = []
    for offset in offsets:
        tap = x
        for dim, (start, length, step) in enumerate(zip(offset, size, stride, strict=True), start=2):
            end = start + step * (length - 1) + 1
            if (start, end, step) != (0, x.shape[dim], 1):
                tap = aten.slice(tap, dim, start, end, step)
        taps.append(tap.unsqueeze(2))
    columns = torch.cat(taps, 2) if len(taps) > 1 else taps[0]
    return columns.reshape(-1, x.shape[1] * len(taps), math.prod(size))


def _spread(gradient: torch.Tensor, stride: tuple[int, ...]) -> torch.Tensor:
    """Return the gradient with ``stride - 1`` zeros after each position."""
    if all(step == 1 for step in stride):
        return gradient
    lengths = gradient.shape[2:]
    apart = gradient.reshape(-1, gradient.shape[1], *(size for length in lengths for size in (length, 1)))
    padding = [pad for step in reversed(stride) for pad in (0, step - 1, 0, 0)]
    spread = [length * step for length, step in zip(lengths, stride, strict=True)]
    return aten.constant_pad_nd(apart, padding).reshape(-1, gradient.shape[1], *spread)


def _pad_for_input(spread: torch.Tensor, size: tuple[int, ...], window: Window) -> tuple[torch.Tensor, tuple[int, ...]]:
    """Return the gradient, padded so that every tap finds every input position, and where the first tap begins."""
    padding: list[int] = []
    starts: list[int] = []
    for given, length, taps, pad, step in zip(
        spread.shape[2:], size, window.kernel, window.padding, window.dilation, strict=True
    ):
        reach = step * (taps - 1)
        before = reach - pad
        left, start = max(before, 0), max(-before, 0)
        padding = [left, max(start + length + reach - left - given, 0), *padding]
        starts.append(start)
    return aten.constant_pad_nd(spread, padding) if any(padding) else spread, tuple(starts)
