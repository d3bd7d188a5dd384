"""SGD for a stack of clients: what ``edge_client.optimizer`` does to one client, done to all."""

from __future__ import annotations

import torch

from simulations.engines.batches import Batches
from simulations.engines.engine import Engine, StepRule
from simulations.engines.model import Stack, take_clients
from wire.errors import ConfigError

__all__ = ["descend"]

SMALLEST_NORM = 1e-12


@torch.no_grad()
def descend(
    engine: Engine, params: Stack, batches: Batches, rule: StepRule, anchor: Stack | None
) -> tuple[Stack, torch.Tensor]:
    """Train by an engine's gradients; see ``Engine.train``.

    Raises:
        ConfigError: If the rule has a proximal term, and there is no anchor.
    """
    if rule.proximal and anchor is None:
        raise ConfigError("a proximal term needs an anchor to pull to")
    params = {name: values.clone() for name, values in params.items()}
    velocity: Stack = {}
    losses = batches.weights.new_zeros(batches.num_clients)
    for step, active in enumerate(batches.active):
        now = take_clients(params, slice(active))
        x, y, weights = batches.of_step(step)
        loss, gradients = engine.gradients(now, x, y, weights, rule.trained)
        losses[:active] += loss
        if rule.proximal and anchor is not None:
            for name, gradient in gradients.items():
                gradient.add_(now[name] - anchor[name][:active], alpha=rule.proximal)
        if rule.max_gradient_norm is not None:
            _clip(gradients, rule.max_gradient_norm)
        for name, gradient in gradients.items():
            move = gradient
            if rule.momentum:
                before = velocity.get(name)
                if before is None:
                    velocity[name] = gradient
                else:
                    move = before[:active].mul_(rule.momentum).add_(gradient)
            now[name].sub_(move, alpha=rule.learning_rate)
    return params, losses / batches.num_steps


def _clip(gradients: Stack, max_norm: float) -> None:
    """Scale the gradient of every client down, in place, to at most this norm over all parameters."""
    squares = [gradient.flatten(1).square().sum(1) for gradient in gradients.values()]
    norms = torch.stack(squares).sum(0).sqrt_()
    scales = (max_norm / norms.clamp_(min=SMALLEST_NORM)).clamp_(max=1.0)
    for gradient in gradients.values():
        gradient.mul_(scales.view(-1, *[1] * (gradient.dim() - 1)))
