"""The backward of a convolution for ONNX Runtime, which has fast convolutions but no backward of one.

The input's gradient is a transposed convolution; the weight's is one matrix product over all examples and positions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from export.columns import Window, gather_columns, make_window, pad_symmetrically
from export.convolution import Gradients, bias_gradient

__all__ = ["native_convolution_backward"]

aten = torch.ops.aten


def native_convolution_backward(
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
    """Return ``aten.convolution_backward``: of a convolution with a transposed one, of a transposed one with a convolution."""
    window = make_window(weight.shape[2:], stride, padding, dilation)
    small, large = (x, gradient) if transposed else (gradient, x)
    x_gradient = None
    if output_mask[0]:
        if transposed:
            moved = (window.stride, window.padding, window.dilation)
            x_gradient = aten.convolution(gradient, weight, None, *moved, False, [0] * len(window.kernel), groups)
        else:
            x_gradient = _input_gradient(gradient, x, weight, window, groups)
    return (
        x_gradient,
        _weight_gradient(small, large, weight, window, groups) if output_mask[1] else None,
        bias_gradient(gradient) if output_mask[2] else None,
    )


def _input_gradient(
    gradient: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, window: Window, groups: int
) -> torch.Tensor:
    """Return the gradient of the input; the rows that the last stride left over are output padding."""
    left_over = [
        length - ((given - 1) * stride - 2 * pad + step * (taps - 1) + 1)
        for length, given, taps, stride, pad, step in zip(
            x.shape[2:], gradient.shape[2:], window.kernel, window.stride, window.padding, window.dilation, strict=True
        )
    ]
    moved = (window.stride, window.padding, window.dilation)
    x_gradient: torch.Tensor = aten.convolution(gradient, weight, None, *moved, True, left_over, groups)
    return x_gradient


def _weight_gradient(
    gradient: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, window: Window, groups: int
) -> torch.Tensor:
    """Return the gradient of the weight: output gradient times columns, over all examples and positions at once."""
    outputs, inputs = weight.shape[0] // groups, weight.shape[1]
    by_channel = pad_symmetrically(_channels_first(x, groups, inputs), window.padding)
    columns = gather_columns(by_channel, window.offsets(), gradient.shape[2:], window.stride)
    num_columns = inputs * math.prod(window.kernel)
    flat_gradient = _channels_first(gradient, groups, outputs)
    if groups == 1:
        product = torch.mm(flat_gradient.reshape(outputs, -1), columns.reshape(num_columns, -1).permute(1, 0))
    else:
        columns = columns.reshape(groups, num_columns, -1)
        product = torch.bmm(flat_gradient.reshape(groups, outputs, -1), columns.permute(0, 2, 1))
    return product.reshape(weight.shape)


def _channels_first(x: torch.Tensor, groups: int, channels: int) -> torch.Tensor:
    """Return the tensor as ``(groups, channels, batch, *spatial)``."""
    grouped = x.reshape(-1, groups, channels, *x.shape[2:])
    return grouped.permute(1, 2, 0, *range(3, grouped.dim()))
