"""What an engine is: it trains the models of several clients, each on its own data, as if one after the other.

All engines give what the serial loop gives, up to the rounding of float32: 1e-4 of a parameter after a round. A *stack*
holds the same parameter of all clients in one tensor, and client ``i`` of a stack is client ``i`` of its batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from simulations.engines.batches import Batches
from simulations.engines.model import SimulatedModel, Stack
from wire.messages import OptimizerName

__all__ = ["CPU", "Engine", "StepRule"]

CPU = torch.device("cpu")


@dataclass(frozen=True)
class StepRule:
    """How a gradient becomes a step, as devices do it.

    Args:
        learning_rate: Above 0.
        momentum: In ``[0, 1)``; the velocity starts at zero.
        max_gradient_norm: A larger gradient, over all trained parameters of a client, is scaled down to it; None: never.
        proximal: Weight ``mu`` of ``mu / 2 * |params - anchor|^2`` in the loss, at least 0.
        trained: The parameters that move; None is all of them.
        optimizer: Which one.
        is_nesterov: Whether SGD looks ahead along its momentum.
        weight_decay: At least 0.
    """

    learning_rate: float
    momentum: float = 0.0
    max_gradient_norm: float | None = None
    proximal: float = 0.0
    trained: frozenset[str] | None = None
    optimizer: OptimizerName = "sgd"
    is_nesterov: bool = False
    weight_decay: float = 0.0

    @property
    def is_plain(self) -> bool:
        """Whether a step is the gradient times the learning rate, and nothing else, for all parameters."""
        is_bare = self.max_gradient_norm is None and self.proximal == 0 and self.weight_decay == 0
        return is_bare and self.optimizer == "sgd" and self.momentum == 0 and self.trained is None


class Engine(Protocol):
    """Trains and evaluates stacks."""

    name: str
    model: SimulatedModel
    device: torch.device
    """Where its tensors must lie."""

    def train(
        self, params: Stack, batches: Batches, rule: StepRule, anchor: Stack | None = None
    ) -> tuple[Stack, torch.Tensor]:
        """Return the trained parameters, and each client's mean loss over its steps, in nats.

        Args:
            params: Where the clients start; not changed.
            batches: Their examples, in the order of the steps.
            rule: Of the steps.
            anchor: To where a proximal term pulls; needed with one.
        """
        ...

    def gradients(
        self,
        params: Stack,
        inputs: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor,
        trained: frozenset[str] | None = None,
    ) -> tuple[torch.Tensor, Stack]:
        """Return each client's weighted loss on one batch, shape ``(clients,)``, and its gradient.

        Args:
            params: The clients' parameters.
            inputs: Shape ``(clients, batch, *input_shape)``, float32.
            targets: Shape ``(clients, batch)``, int64.
            weights: Of the examples in the loss, shape ``(clients, batch)``; 0 for one that only fills the batch up.
            trained: The parameters whose gradients are wanted; None is all of them.
        """
        ...

    def predict(self, params: Stack, inputs: torch.Tensor) -> torch.Tensor:
        """Return the logits, shape ``(clients, batch, num_classes)``.

        Args:
            params: The clients' parameters.
            inputs: Shape ``(clients, batch, *input_shape)``, float32.
        """
        ...
