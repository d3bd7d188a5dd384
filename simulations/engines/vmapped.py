"""The engine for any model: ``torch.func.vmap`` over the clients, whatever their model does."""

from __future__ import annotations

import torch
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional

from simulations.engines.batches import Batches
from simulations.engines.descent import descend
from simulations.engines.engine import CPU, StepRule
from simulations.engines.model import SimulatedModel, Stack

__all__ = ["VmapEngine"]


class VmapEngine:
    """Trains a stack of clients of any model that ``vmap`` can batch: branches, norms, attention.

    Args:
        model: A model without randomness.
    """

    name = "vmap"
    device = CPU

    def __init__(self, model: SimulatedModel) -> None:
        """Make the batched functions."""
        self.model = model
        self._predict = vmap(self._logits)
        self._gradients = vmap(grad_and_value(self._loss))

    def train(
        self, params: Stack, batches: Batches, rule: StepRule, anchor: Stack | None = None
    ) -> tuple[Stack, torch.Tensor]:
        """Return the trained parameters, and each client's mean loss over its steps."""
        return descend(self, params, batches, rule, anchor)

    def gradients(
        self,
        params: Stack,
        inputs: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor,
        trained: frozenset[str] | None = None,
    ) -> tuple[torch.Tensor, Stack]:
        """Return each client's loss on one batch, and its gradient for the trained parameters."""
        moving = {name: values for name, values in params.items() if trained is None or name in trained}
        fixed = {name: values for name, values in params.items() if name not in moving}
        gradients, losses = self._gradients(moving, fixed, inputs, targets, weights)
        return losses, gradients

    @torch.no_grad()
    def predict(self, params: Stack, inputs: torch.Tensor) -> torch.Tensor:
        """Return the logits, shape ``(clients, batch, num_classes)``."""
        try:
            return self._predict(params, inputs)
        except RuntimeError as error:
            if "Batching rule not implemented" not in str(error):
                raise
        # torch 2.13 batches a GRU's gradient, but not a GRU without one
        clients = range(len(inputs))
        return torch.stack([self._logits({it: rows[i] for it, rows in params.items()}, inputs[i]) for i in clients])

    def _logits(self, params: Stack, inputs: torch.Tensor) -> torch.Tensor:
        return functional_call(self.model.module, params, (inputs,))

    def _loss(
        self, moving: Stack, fixed: Stack, inputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        logits = self._logits(moving | fixed, inputs)
        return (functional.cross_entropy(logits, targets, reduction="none") * weights).sum()
