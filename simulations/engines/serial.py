"""The serial loop: one client after the other, plain torch. Every other engine is held against it."""

from __future__ import annotations

import copy

import torch
from torch.nn import functional

from simulations.engines.batches import Batches
from simulations.engines.descent import descend
from simulations.engines.engine import CPU, StepRule
from simulations.engines.model import SimulatedModel, Stack

__all__ = ["SerialEngine"]


class SerialEngine:
    """Trains any model, client by client.

    Args:
        model: Any model.
        device: Where it is trained.
        name: Of the engine.
    """

    def __init__(self, model: SimulatedModel, device: torch.device = CPU, name: str = "serial") -> None:
        """Keep a module whose values are whose turn it is."""
        self.name = name
        self.model = model
        self.device = device
        self._module = copy.deepcopy(model.module).to(device)

    def train(
        self, params: Stack, batches: Batches, rule: StepRule, anchor: Stack | None = None
    ) -> tuple[Stack, torch.Tensor]:
        """Return the trained parameters, and each client's mean loss over its steps."""
        if not rule.is_plain:
            return descend(self, params, batches, rule, anchor)
        trained = {name: values.clone() for name, values in params.items()}
        losses = batches.weights.new_zeros(batches.num_clients)
        for client in range(len(losses)):
            self._load(params, client)
            optimizer = torch.optim.SGD(self._module.parameters(), lr=rule.learning_rate)
            steps = [step for step, active in enumerate(batches.active) if client < active]
            for step in steps:
                x, y = batches.of_client(client, step)
                optimizer.zero_grad()
                loss = functional.cross_entropy(self._module(x), y)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                losses[client] += loss.detach() / len(steps)
            for name, values in self._module.named_parameters():
                trained[name][client] = values.detach()
        return trained, losses

    def gradients(
        self,
        params: Stack,
        inputs: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor,
        trained: frozenset[str] | None = None,
    ) -> tuple[torch.Tensor, Stack]:
        """Return each client's loss on one batch, and its gradient for the trained parameters."""
        named = {name: values for name, values in self._module.named_parameters() if trained is None or name in trained}
        gradients = {name: torch.empty_like(params[name]) for name in named}
        losses = weights.new_zeros(len(inputs))
        for client in range(len(losses)):
            self._load(params, client)
            there = weights[client] > 0
            with torch.enable_grad():
                each = functional.cross_entropy(
                    self._module(inputs[client][there]), targets[client][there], reduction="none"
                )
                loss = (each * weights[client][there]).sum()
            losses[client] = loss.detach()
            for name, gradient in zip(named, torch.autograd.grad(loss, list(named.values())), strict=True):
                gradients[name][client] = gradient
        return losses, gradients

    @torch.no_grad()
    def predict(self, params: Stack, inputs: torch.Tensor) -> torch.Tensor:
        """Return the logits, shape ``(clients, batch, num_classes)``."""
        logits = []
        for client in range(len(inputs)):
            self._load(params, client)
            logits.append(self._module(inputs[client]))
        return torch.stack(logits)

    @torch.no_grad()
    def _load(self, params: Stack, client: int) -> None:
        """Give the module a client's values."""
        for name, values in self._module.named_parameters():
            values.copy_(params[name][client])
