"""The engine for chains: stacked clients, batched products, grouped convolutions, gradients written out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from simulations.engines.batches import Batches
from simulations.engines.chain import chain_of, check_order
from simulations.engines.chain_ops import Flatten, Sink, as_matrix, as_weight
from simulations.engines.descent import descend
from simulations.engines.engine import CPU, StepRule
from simulations.engines.model import SimulatedModel, Stack, take_clients

__all__ = ["Collected", "Descended", "StackedEngine"]


@dataclass
class Collected:
    """Keeps gradients."""

    params: Stack
    trained: frozenset[str]
    gradients: Stack = field(default_factory=dict)

    def wants(self, name: str) -> bool:
        """Say whether the parameter is trained."""
        return name in self.trained

    def take(self, name: str, gradient: torch.Tensor) -> None:
        """Keep it."""
        self.gradients[name] = gradient

    def take_product(self, name: str, left: torch.Tensor, right: torch.Tensor) -> None:
        """Keep the product."""
        param = self.params[name]
        self.gradients[name] = as_weight(torch.bmm(left, right).to(param.dtype), param.shape)


@dataclass
class Descended:
    """Makes every gradient a step at once: the product that would make it adds to the parameters instead."""

    params: Stack
    learning_rate: float

    def wants(self, name: str) -> bool:
        """Say yes: in plain descent all parameters move."""
        return name in self.params

    def take(self, name: str, gradient: torch.Tensor) -> None:
        """Step."""
        self.params[name].sub_(gradient, alpha=self.learning_rate)

    def take_product(self, name: str, left: torch.Tensor, right: torch.Tensor) -> None:
        """Step along a product."""
        as_matrix(self.params[name]).baddbmm_(left, right, alpha=-self.learning_rate)


class StackedEngine:
    """Trains a stack of clients as one chain.

    Args:
        model: A chain of operations.

    Raises:
        NotAChainError: If it is none.
    """

    name = "stacked"
    device = CPU

    def __init__(self, model: SimulatedModel) -> None:
        """Trace the model."""
        self.model = model
        self._chain = chain_of(model.module)
        self._is_flat = len(model.input_shape) == 1 or isinstance(self._chain[0], Flatten)
        check_order(self._chain, self._is_flat)

    def train(
        self, params: Stack, batches: Batches, rule: StepRule, anchor: Stack | None = None
    ) -> tuple[Stack, torch.Tensor]:
        """Return the trained parameters, and each client's mean loss over its steps."""
        params = {name: _channels_last(values) for name, values in params.items()}
        if not rule.is_plain:
            return descend(self, params, batches, rule, anchor)
        losses = batches.weights.new_zeros(batches.num_clients)
        for step, active in enumerate(batches.active):
            losses[:active] += self._step(
                take_clients(params, slice(active)), rule.learning_rate, *batches.of_step(step)
            )
        return params, losses / batches.num_steps

    def gradients(
        self,
        params: Stack,
        inputs: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor,
        trained: frozenset[str] | None = None,
    ) -> tuple[torch.Tensor, Stack]:
        """Return each client's loss on one batch, and its gradient for the trained parameters."""
        sink = Collected(params, frozenset(params) if trained is None else trained)
        losses = self._backward(sink, inputs, targets, weights)
        return losses, {name: sink.gradients[name] for name in params if name in sink.gradients}

    @torch.no_grad()
    def predict(self, params: Stack, inputs: torch.Tensor) -> torch.Tensor:
        """Return the logits, shape ``(clients, batch, num_classes)``."""
        return self._forward(params, inputs)[0]

    def _forward(self, params: Stack, inputs: torch.Tensor) -> tuple[torch.Tensor, list[Any]]:
        x, kept = inputs.flatten(2) if self._is_flat else self._enter(inputs), []
        for operation in self._chain:
            x, saved = operation.forward(params, x)
            kept.append(saved)
        return x, kept

    def _enter(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return ``(clients, batch, channels, [height,] width)`` as ``(batch, clients * channels, height, width)``."""
        if inputs.dim() == 4:  # noqa: PLR2004 - a signal: its height is 1
            inputs = inputs.unsqueeze(3)
        return inputs.transpose(0, 1).flatten(1, 2).contiguous(memory_format=torch.channels_last)

    def _step(
        self,
        params: Stack,
        learning_rate: float,
        inputs: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor,
    ) -> torch.Tensor:
        """Take a step of plain SGD, in place, and return the losses before it."""
        return self._backward(Descended(params, learning_rate), inputs, targets, weights)

    @torch.no_grad()
    def _backward(self, sink: Sink, inputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        logits, kept = self._forward(sink.params, inputs)
        scores = torch.log_softmax(logits, dim=2)
        chosen = scores.gather(2, targets.unsqueeze(2)).squeeze(2)
        gradient = scores.exp_()
        gradient.scatter_add_(2, targets.unsqueeze(2), gradient.new_full((1, 1, 1), -1.0).expand(*targets.shape, 1))
        gradient.mul_(weights.unsqueeze(2))
        first = next(i for i, link in enumerate(self._chain) if any(sink.wants(it) for it in link.parameters))
        for index in range(len(self._chain) - 1, first - 1, -1):
            before = self._chain[index].backward(sink, kept[index], gradient, index > first)
            if before is not None:
                gradient = before
        return -(chosen * weights).sum(1)


def _channels_last(values: torch.Tensor) -> torch.Tensor:
    """Return a copy in which the channels of a convolution's kernel come last in memory."""
    if values.dim() < 4:  # noqa: PLR2004 - clients, outputs, inputs and a kernel
        return values.clone()
    matrices = as_matrix(values).clone(memory_format=torch.contiguous_format)
    return as_weight(matrices, values.shape)
