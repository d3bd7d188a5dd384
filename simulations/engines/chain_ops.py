"""The operations of a chain, forward and backward, for several clients in one tensor.

Before a chain is flattened, an activation has the shape ``(batch, clients * channels, height, width)`` with channels last
in memory, so a convolution is one grouped convolution; a signal of one dimension has the height 1. After that it has the
shape ``(clients, batch, features)``, so a linear layer is one batched product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch

from simulations.engines.model import Stack

__all__ = [
    "Convolution",
    "Flatten",
    "GroupNorm",
    "Linear",
    "MaxPool",
    "Operation",
    "Relu",
    "Sink",
    "Tanh",
    "as_matrix",
    "as_weight",
]

aten = torch.ops.aten
CHANNELS_LAST = torch.channels_last


class Sink(Protocol):
    """Where gradients go: into a stack, or at once into the parameters."""

    params: Stack
    """The parameters that the forward pass saw."""

    def wants(self, name: str) -> bool:
        """Say whether this parameter's gradient is wanted."""
        ...

    def take(self, name: str, gradient: torch.Tensor) -> None:
        """Take the gradient of a parameter, in the parameter's shape."""
        ...

    def take_product(self, name: str, left: torch.Tensor, right: torch.Tensor) -> None:
        """Take a gradient that is the batched product of these two."""
        ...


class Operation(Protocol):
    """One link of a chain."""

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of its parameters."""
        ...

    def forward(self, params: Stack, x: torch.Tensor, /) -> tuple[torch.Tensor, Any]:
        """Return the output, and what the backward pass needs."""
        ...

    def backward(self, sink: Sink, saved: Any, gradient: torch.Tensor, needs_input: bool, /) -> torch.Tensor | None:
        """Give the parameters' gradients to the sink; return the input's if it is needed.

        The input's gradient is computed first, with the parameters that the forward pass saw: a sink may change them.
        """
        ...


@dataclass(frozen=True)
class Linear:
    """``x W^T + b``."""

    name: str
    has_bias: bool

    @property
    def parameters(self) -> tuple[str, ...]:
        """Weight and bias."""
        return (f"{self.name}.weight", f"{self.name}.bias")[: 1 + self.has_bias]

    def forward(self, params: Stack, x: torch.Tensor, /) -> tuple[torch.Tensor, Any]:
        """Return shape ``(clients, batch, outputs)``."""
        weight = params[self.parameters[0]].transpose(1, 2)
        if not self.has_bias:
            return torch.bmm(x, weight), x
        return torch.baddbmm(params[self.parameters[1]].unsqueeze(1), x, weight), x

    def backward(self, sink: Sink, saved: Any, gradient: torch.Tensor, needs_input: bool, /) -> torch.Tensor | None:
        """Return ``g W``; the weight's gradient is ``g^T x``, the bias's the sum of ``g``."""
        weight, *bias = self.parameters
        before = torch.bmm(gradient, sink.params[weight]) if needs_input else None
        if sink.wants(weight):
            sink.take_product(weight, gradient.transpose(1, 2), saved)
        if bias and sink.wants(bias[0]):
            sink.take(bias[0], gradient.sum(1))
        return before


@dataclass(frozen=True)
class Convolution:
    """A convolution in one or two dimensions; a kernel in one dimension slides along the width."""

    name: str
    has_bias: bool
    stride: tuple[int, int]
    padding: tuple[int, int]

    @property
    def parameters(self) -> tuple[str, ...]:
        """Weight and bias."""
        return (f"{self.name}.weight", f"{self.name}.bias")[: 1 + self.has_bias]

    def forward(self, params: Stack, x: torch.Tensor, /) -> tuple[torch.Tensor, Any]:
        """Return shape ``(batch, clients * channels, height, width)``."""
        weight = params[self.parameters[0]]
        kernel, clients = _kernel(weight), len(weight)
        bias = params[self.parameters[1]].flatten() if self.has_bias else None
        y = torch.conv2d(x, kernel, bias, self.stride, self.padding, groups=clients)
        return y.contiguous(memory_format=CHANNELS_LAST), (x, kernel)

    def backward(self, sink: Sink, saved: Any, gradient: torch.Tensor, needs_input: bool, /) -> torch.Tensor | None:
        """Return the input's gradient."""
        (x, kernel), (name, *bias) = saved, self.parameters
        weight = sink.params[name]
        mask = [needs_input, sink.wants(name), bool(bias) and sink.wants(bias[0])]
        before, of_kernel, of_bias = aten.convolution_backward(
            gradient, x, kernel, [len(kernel)], self.stride, self.padding, [1, 1], False, [0, 0], len(weight), mask
        )
        if mask[1]:
            sink.take(name, of_kernel.view(weight.shape))
        if mask[2]:
            sink.take(bias[0], of_bias.view(weight.shape[:2]))
        return before


@dataclass(frozen=True)
class GroupNorm:
    """Each client's channels in groups of zero mean and unit variance, then scaled and shifted."""

    name: str
    num_groups: int
    eps: float

    @property
    def parameters(self) -> tuple[str, ...]:
        """Scale and shift."""
        return f"{self.name}.weight", f"{self.name}.bias"

    def forward(self, params: Stack, x: torch.Tensor, /) -> tuple[torch.Tensor, Any]:
        """Return the shape of ``x``."""
        weight, bias = (params[name] for name in self.parameters)
        sizes = (x.shape[0], x.shape[1], x[0, 0].numel(), self.num_groups * len(weight))
        y, mean, scale = aten.native_group_norm(x, weight.flatten(), bias.flatten(), *sizes, self.eps)
        return y, (x, mean, scale, sizes)

    def backward(self, sink: Sink, saved: Any, gradient: torch.Tensor, needs_input: bool, /) -> torch.Tensor | None:
        """Return the input's gradient."""
        x, mean, scale, sizes = saved
        weight = sink.params[self.parameters[0]]
        everything = [True, True, True]  # with channels last, torch 2.13 writes where it has no room if one is left out
        before, *of_params = aten.native_group_norm_backward(
            gradient.contiguous(memory_format=CHANNELS_LAST), x, mean, scale, weight.flatten(), *sizes, everything
        )
        for name, of_param in zip(self.parameters, of_params, strict=True):
            if sink.wants(name):
                sink.take(name, of_param.view(weight.shape))
        return before if needs_input else None


class _NoParameters:
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True)
class MaxPool(_NoParameters):
    """The largest value of each window."""

    kernel: tuple[int, int]
    stride: tuple[int, int]

    def forward(self, _params: Stack, x: torch.Tensor, /) -> tuple[torch.Tensor, Any]:
        """Return fewer rows and columns; one row stays one row."""
        kernel, stride = ((1, size[1]) if x.shape[2] == 1 else size for size in (self.kernel, self.stride))
        y, indices = aten.max_pool2d_with_indices(x, kernel, stride)
        return y, (x, indices, kernel, stride)

    def backward(self, _sink: Sink, saved: Any, gradient: torch.Tensor, needs_input: bool, /) -> torch.Tensor | None:
        """Return the gradient where the largest value stood, 0 elsewhere."""
        x, indices, kernel, stride = saved
        if not needs_input:
            return None
        return aten.max_pool2d_with_indices_backward(gradient, x, kernel, stride, [0, 0], [1, 1], False, indices)


class Relu(_NoParameters):
    """The larger of ``x`` and 0; what was below is written over."""

    def forward(self, _params: Stack, x: torch.Tensor, /) -> tuple[torch.Tensor, Any]:
        """Return the shape of ``x``."""
        y = x.relu()
        return y, y

    def backward(self, _sink: Sink, saved: Any, gradient: torch.Tensor, needs_input: bool, /) -> torch.Tensor | None:
        """Return the gradient where the output is above 0."""
        return aten.threshold_backward(gradient, saved, 0) if needs_input else None


class Tanh(_NoParameters):
    """The hyperbolic tangent."""

    def forward(self, _params: Stack, x: torch.Tensor, /) -> tuple[torch.Tensor, Any]:
        """Return the shape of ``x``."""
        y = x.tanh()
        return y, y

    def backward(self, _sink: Sink, saved: Any, gradient: torch.Tensor, needs_input: bool, /) -> torch.Tensor | None:
        """Return ``g (1 - y^2)``."""
        return aten.tanh_backward(gradient, saved) if needs_input else None


class Flatten(_NoParameters):
    """From channels, height and width to features, in the order in which torch flattens."""

    def forward(self, params: Stack, x: torch.Tensor, /) -> tuple[torch.Tensor, Any]:
        """Return shape ``(clients, batch, features)``."""
        if x.dim() != 4:  # noqa: PLR2004 - it never had channels
            return x, None
        clients = len(next(iter(params.values())))
        apart = x.view(x.shape[0], clients, -1, *x.shape[2:])
        return apart.transpose(0, 1).flatten(2), apart.shape

    def backward(self, _sink: Sink, saved: Any, gradient: torch.Tensor, needs_input: bool, /) -> torch.Tensor | None:
        """Return the gradient with channels, height and width again."""
        if saved is None or not needs_input:
            return gradient if needs_input else None
        batch, clients, *shape = saved
        together = gradient.view(clients, batch, *shape).transpose(0, 1).flatten(1, 2)
        return together.contiguous(memory_format=CHANNELS_LAST)


def as_matrix(weight: torch.Tensor) -> torch.Tensor:
    """Return ``(clients, outputs, inputs)``; of a kernel the channels come last: a view if they do in memory, too."""
    return weight.permute(0, 1, *range(3, weight.dim()), 2).flatten(2)


def as_weight(matrices: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Return what ``as_matrix`` was made of: a view, with a kernel's channels last in memory."""
    clients, outputs, inputs, *kernel = shape
    return matrices.view(clients, outputs, *kernel, inputs).permute(0, 1, -1, *range(2, 2 + len(kernel)))


def _kernel(weight: torch.Tensor) -> torch.Tensor:
    """Return the kernels of all clients one after the other, with a height; no copy where channels are last already."""
    if weight.dim() == 4:  # noqa: PLR2004 - clients, outputs, inputs, width
        weight = weight.unsqueeze(3)
    return weight.flatten(0, 1).contiguous(memory_format=CHANNELS_LAST)
