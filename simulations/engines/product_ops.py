"""Convolutions as batched products: the operations of a chain whose activations keep each client apart.

Before a chain is flattened, an activation has the shape ``(clients, batch, height, width, channels)`` and is contiguous; a
signal of one dimension has the height 1. A convolution copies its windows side by side and is then one batched product,
forward and backward. Activations may be of a shorter type than the parameters. That is the better way on a GPU, where grouped convolutions of few channels leave most of it idle; on
a processor ``chain_ops`` is.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from simulations.engines.chain_ops import Convolution, Flatten, GroupNorm, MaxPool, Operation, Sink, as_matrix
from simulations.engines.model import Stack

__all__ = ["as_products"]


@dataclass(frozen=True)
class _ProductConvolution(Convolution):
    """A convolution as the product of windows and kernels."""

    def forward(self, params: Stack, x: torch.Tensor, /) -> tuple[torch.Tensor, Any]:
        """Return shape ``(clients, batch, height, width, channels)``."""
        weight = params[self.parameters[0]]
        height, width = self._kernel_size(weight)
        (up, left), (down, right) = self.stride, self.padding
        padded = functional.pad(x, (0, 0, right, right, down, down)) if max(self.padding) else x
        windows = padded.unfold(2, height, up).unfold(3, width, left)  # ..., channels, kernel height, kernel width
        shape = windows.shape[:4]
        columns = windows.permute(0, 1, 2, 3, 5, 6, 4).reshape(len(x), shape[1] * shape[2] * shape[3], -1)
        kernels = as_matrix(weight).transpose(1, 2).to(x.dtype)
        y = torch.bmm(columns, kernels)
        if self.has_bias:
            y += params[self.parameters[1]].unsqueeze(1).to(x.dtype)
        return y.view(*shape, -1), (columns, x.shape)

    def backward(self, sink: Sink, saved: Any, gradient: torch.Tensor, needs_input: bool, /) -> torch.Tensor | None:
        """Return the input's gradient: each window's part, added where the window stood."""
        (columns, shape), (name, *bias) = saved, self.parameters
        weight = sink.params[name]
        rows = gradient.flatten(1, 3)
        before = None
        if needs_input:
            parts = torch.bmm(rows, as_matrix(weight).to(rows.dtype))
            before = self._put_back(parts.view(*gradient.shape[:4], *self._kernel_size(weight), shape[4]), shape)
        if sink.wants(name):
            sink.take_product(name, rows.transpose(1, 2), columns)
        if bias and sink.wants(bias[0]):
            sink.take(bias[0], rows.sum(1, dtype=weight.dtype))
        return before

    def _put_back(self, parts: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """Return the sum of all windows, shape ``shape``; a window's part is ``parts[:, :, row, column]``."""
        (height, width), (down, right), (up, left) = shape[2:4], self.padding, self.stride
        rows = _sum(_spread(parts[..., j, :], 3, j - right, left, width) for j in range(parts.shape[5]))
        return _sum(_spread(rows[:, :, :, :, i], 2, i - down, up, height) for i in range(parts.shape[4]))

    @staticmethod
    def _kernel_size(weight: torch.Tensor) -> tuple[int, int]:
        """Return height and width; a kernel in one dimension has the height 1."""
        sizes = weight.shape[3:]
        return (sizes[0], sizes[1]) if len(sizes) > 1 else (1, sizes[0])


@dataclass(frozen=True)
class _ProductMaxPool(MaxPool):
    """The largest value of each window."""

    def forward(self, params: Stack, x: torch.Tensor, /) -> tuple[torch.Tensor, Any]:
        """Return fewer rows and columns."""
        y, saved = super().forward(params, _as_images(x))
        return _as_stack(y, len(x)), saved

    def backward(self, sink: Sink, saved: Any, gradient: torch.Tensor, needs_input: bool, /) -> torch.Tensor | None:
        """Return the gradient where the largest value stood, 0 elsewhere."""
        before = super().backward(sink, saved, _as_images(gradient), needs_input)
        return None if before is None else _as_stack(before, len(gradient))


@dataclass(frozen=True)
class _ProductGroupNorm(GroupNorm):
    """Each client's channels in groups of zero mean and unit variance, then scaled and shifted."""

    def forward(self, params: Stack, x: torch.Tensor, /) -> tuple[torch.Tensor, Any]:
        """Return the shape of ``x``."""
        weight, bias = (params[name].view(len(x), 1, 1, 1, -1) for name in self.parameters)
        grouped = self._grouped(x.to(weight.dtype))
        variance, mean = torch.var_mean(grouped, dim=(2, 3, 5), correction=0, keepdim=True)
        scale = (variance + self.eps).rsqrt_()
        normal = ((grouped - mean) * scale).view(x.shape)
        return (normal * weight + bias).to(x.dtype), (normal, scale)

    def backward(self, sink: Sink, saved: Any, gradient: torch.Tensor, needs_input: bool, /) -> torch.Tensor | None:
        """Return the input's gradient: without its part along the mean and along the normalized values."""
        (normal, scale), (weight, bias) = saved, self.parameters
        before, kind = None, gradient.dtype
        gradient = gradient.to(normal.dtype)
        if needs_input:
            of_normal = self._grouped(gradient * sink.params[weight].view(len(gradient), 1, 1, 1, -1))
            values = self._grouped(normal)
            along = (of_normal * values).mean((2, 3, 5), keepdim=True)
            centered = of_normal - of_normal.mean((2, 3, 5), keepdim=True)
            before = ((centered - values * along) * scale).view(gradient.shape).to(kind)
        if sink.wants(weight):
            sink.take(weight, (gradient * normal).sum((1, 2, 3)))
        if sink.wants(bias):
            sink.take(bias, gradient.sum((1, 2, 3)))
        return before

    def _grouped(self, x: torch.Tensor) -> torch.Tensor:
        """Return a view ``(clients, batch, height, width, groups, channels)``."""
        return x.view(*x.shape[:4], self.num_groups, -1)


class _ProductFlatten(Flatten):
    """From height, width and channels to features, in the order in which torch flattens."""

    def forward(self, params: Stack, x: torch.Tensor, /) -> tuple[torch.Tensor, Any]:
        """Return shape ``(clients, batch, features)``."""
        if x.dim() != 5:  # noqa: PLR2004 - it never had channels
            return super().forward(params, x)
        channels_first = x.permute(0, 1, 4, 2, 3)
        features = channels_first.flatten(2).to(next(iter(params.values())).dtype)
        return features, (channels_first.shape, x.dtype)

    def backward(self, _sink: Sink, saved: Any, gradient: torch.Tensor, needs_input: bool, /) -> torch.Tensor | None:
        """Return the gradient with height, width and channels again."""
        if saved is None or not needs_input:
            return gradient if needs_input else None
        shape, kind = saved
        return gradient.view(shape).permute(0, 1, 3, 4, 2).to(kind).contiguous()


def as_products(chain: tuple[Operation, ...]) -> tuple[Operation, ...]:
    """Return a chain's operations with every convolution a product."""
    return tuple(_as_product(operation) for operation in chain)


def _as_product(operation: Operation) -> Operation:
    match operation:
        case Convolution(name, has_bias, stride, padding):
            return _ProductConvolution(name, has_bias, stride, padding)
        case MaxPool(kernel, stride):
            return _ProductMaxPool(kernel, stride)
        case Flatten():
            return _ProductFlatten()
        case GroupNorm(name, num_groups, eps):
            return _ProductGroupNorm(name, num_groups, eps)
    return operation


def _sum(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    """Return the sum; it is written over the first one."""
    return functools.reduce(torch.Tensor.add_, tensors)


def _spread(x: torch.Tensor, dim: int, start: int, stride: int, size: int) -> torch.Tensor:
    """Return ``size`` places of their own memory along a dimension, with ``x`` at every ``stride``th from ``start`` on, and 0 elsewhere."""
    if stride > 1:
        x = _pad(x.unsqueeze(dim + 1), dim + 1, 0, stride - 1).flatten(dim, dim + 1)
    return _pad(x, dim, start, size - start - x.shape[dim])


def _pad(x: torch.Tensor, dim: int, before: int, behind: int) -> torch.Tensor:
    """Return more zeros along a dimension, or fewer values where a number is negative."""
    return functional.pad(x, (*[0, 0] * (x.dim() - 1 - dim), before, behind))


def _as_images(x: torch.Tensor) -> torch.Tensor:
    """Return a view ``(clients * batch, channels, height, width)`` with channels last in memory."""
    return x.flatten(0, 1).permute(0, 3, 1, 2)


def _as_stack(images: torch.Tensor, num_clients: int) -> torch.Tensor:
    """Return ``(clients, batch, height, width, channels)``, contiguous: a view where channels are last in memory."""
    apart = images.permute(0, 2, 3, 1).contiguous()
    return apart.view(num_clients, -1, *apart.shape[1:])
