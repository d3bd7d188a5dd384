"""Convolution and its backward as batched matrix products, for ExecuTorch.

Its own backward convolution is 80 times slower than torch's, but its matrix product is fast. With ``columns`` the shifted
copies of the input under each tap of the kernel::

    forward   y  = W  @ columns(x)                 (out, in taps) @ (in taps, positions)
    weight    dW = sum over the batch of dy @ columns(x)^T
    input     dx = sum over the rows of taps of W' @ columns(dy with zeros between its positions), each row shifted

Batch and groups are one leading dimension: groups and depthwise convolutions need no loop, and activations are never
permuted, which would cost as much as the product.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from export.columns import (
    Window,
    add_shifted,
    make_window,
    pad_for_input,
    pad_symmetrically,
    spread_by_stride,
    strided_columns,
)

__all__ = ["Gradients", "bias_gradient", "convolution", "convolution_backward"]

Gradients = tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]
"""Of the input, the weight and the bias; None where nobody asks."""


def convolution(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> torch.Tensor:
    """Return ``aten.convolution`` as one batched matrix product; a transposed one is another's input gradient."""
    window = make_window(weight.shape[2:], stride, padding, dilation)
    if transposed:
        y = _input_gradient(x, window.transposed_size(x.shape[2:], output_padding), weight, window, groups)
    else:
        y = _convolve(x, weight, window, groups)
    return y if bias is None else y + bias.reshape(-1, *(1 for _ in window.kernel))


def convolution_backward(
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
    """Return ``aten.convolution_backward`` as batched matrix products; a transposed one's input gradient is a convolution."""
    window = make_window(weight.shape[2:], stride, padding, dilation)
    small, large = (x, gradient) if transposed else (gradient, x)
    x_gradient = None
    if output_mask[0]:
        if transposed:
            x_gradient = _convolve(gradient, weight, window, groups)
        else:
            x_gradient = _input_gradient(gradient, x.shape[2:], weight, window, groups)
    return (
        x_gradient,
        _weight_gradient(small, large, weight, window, groups) if output_mask[1] else None,
        bias_gradient(gradient) if output_mask[2] else None,
    )


def bias_gradient(gradient: torch.Tensor) -> torch.Tensor:
    """Return the gradient of the bias: a sum over batch and positions."""
    return gradient.sum([0, *range(2, gradient.dim())])


def _convolve(x: torch.Tensor, weight: torch.Tensor, window: Window, groups: int) -> torch.Tensor:
    """Return the convolution, without a bias."""
    size = window.output_size(x.shape[2:])
    kernels = weight.reshape(groups, weight.shape[0] // groups, -1)
    y = torch.bmm(_for_every_example(kernels, x), _input_columns(x, window, size, groups))
    return y.reshape(-1, weight.shape[0], *size)


def _weight_gradient(
    gradient: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, window: Window, groups: int
) -> torch.Tensor:
    """Return the gradient of the weight: each example's product of columns and output gradient, summed."""
    outputs, size = weight.shape[0] // groups, gradient.shape[2:]
    columns = _input_columns(x, window, size, groups)
    products = torch.bmm(columns, gradient.reshape(-1, outputs, math.prod(size)).permute(0, 2, 1))
    return products.reshape(-1, groups, columns.shape[1], outputs).sum(0).permute(0, 2, 1).reshape(weight.shape)


def _input_gradient(
    gradient: torch.Tensor, size: Sequence[int], weight: torch.Tensor, window: Window, groups: int
) -> torch.Tensor:
    """Return the gradient of an input of this size: what each row of taps gives to it, shifted and summed.

    Along the other dimension it is a convolution of the spread gradient with the kernel, taps in reverse.
    """
    inputs, outputs = weight.shape[1], weight.shape[0] // groups
    spread = spread_by_stride(gradient.reshape(-1, outputs, *gradient.shape[2:]), window.stride)
    rows, across = spread.shape[2], math.prod(size[1:])
    columns, kernels = spread, weight.reshape(groups, outputs, inputs, window.kernel[0], -1)
    if len(size) > 1:
        along = replace(
            window, kernel=(1, *window.kernel[1:]), stride=(1,) * len(size), padding=(0, *window.padding[1:])
        )
        padded, starts = pad_for_input(spread, (rows, *size[1:]), along)
        columns = strided_columns(padded, starts, along, (rows, *size[1:]))
        kernels = kernels.flip(4)
    columns = columns.reshape(-1, outputs * math.prod(window.kernel[1:]), rows * across)
    kernels = kernels.permute(0, 2, 3, 1, 4).reshape(groups, inputs * window.kernel[0], -1)
    parts = torch.bmm(_for_every_example(kernels, gradient), columns)
    parts = parts.reshape(-1, inputs, window.kernel[0], rows * across)
    whole = add_shifted(parts, window.dilation[0] * across, across * (window.padding[0] + size[0]))
    begin, length = across * window.padding[0], across * size[0]
    if whole.shape[2] > length:  # a copy, as ExecuTorch makes it of any slice: what follows takes it for contiguous
        whole = torch.ops.aten.slice_copy(whole, 2, begin, begin + length)
    return whole.reshape(-1, inputs * groups, *size)


def _for_every_example(kernels: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return the kernels of each group, repeated for each example: ``(batch * groups, outputs, inputs * taps)``."""
    return kernels.unsqueeze(0).expand(x.shape[0], *kernels.shape).reshape(-1, *kernels.shape[1:])


def _input_columns(x: torch.Tensor, window: Window, size: Sequence[int], groups: int) -> torch.Tensor:
    """Return what each tap sees of the padded input: ``(batch * groups, inputs * taps, positions)``."""
    inputs = x.shape[1] // groups
    padded = pad_symmetrically(x.reshape(-1, inputs, *x.shape[2:]), window.padding)
    columns = strided_columns(padded, [0] * len(size), window, size)
    return columns.reshape(-1, inputs * columns.shape[2], math.prod(size))
