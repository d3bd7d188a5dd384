"""Optimizers for a stack of clients: what ``edge_client.optimizer`` does to one client, done to all."""

from __future__ import annotations

import torch

from edge_client.optimizer import EPSILON, SECOND_MOMENT_DECAY, SMALLEST_NORM
from simulations.engines.batches import Batches
from simulations.engines.engine import Engine, StepRule
from simulations.engines.model import Stack, take_clients
from wire.errors import ConfigError

__all__ = ["descend"]


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
    moments = _Moments(rule, batches)
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
        moments.begin_step(active)
        for name, gradient in gradients.items():
            moments.move(name, now[name], gradient)
    return params, losses / batches.num_steps


class _Moments:
    """What an optimizer remembers of every client, and how it moves them by it."""

    def __init__(self, rule: StepRule, batches: Batches) -> None:
        self._rule = rule
        self._num_clients = batches.num_clients
        self._num_steps = batches.weights.new_zeros(batches.num_clients)
        self._first: Stack = {}
        self._second: Stack = {}
        self._active = 0

    def begin_step(self, active: int) -> None:
        """Count a step of the first so many clients."""
        self._active = active
        self._num_steps[:active] += 1

    def move(self, name: str, values: torch.Tensor, gradient: torch.Tensor) -> None:
        """Move the active clients' values of a parameter, in place; their gradient may be written over."""
        rule, is_decoupled = self._rule, self._rule.optimizer == "adamw"
        if is_decoupled:
            values.mul_(1 - rule.learning_rate * rule.weight_decay)
        elif rule.weight_decay:
            gradient.add_(values, alpha=rule.weight_decay)
        if rule.optimizer == "sgd":
            values.sub_(self._sgd(name, gradient), alpha=rule.learning_rate)
        else:
            values.sub_(self._adam(name, gradient), alpha=rule.learning_rate)

    def _sgd(self, name: str, gradient: torch.Tensor) -> torch.Tensor:
        rule = self._rule
        if not rule.momentum:
            return gradient
        velocity = self._of(self._first, name, gradient).mul_(rule.momentum).add_(gradient)
        return gradient.add_(velocity, alpha=rule.momentum) if rule.is_nesterov else velocity

    def _adam(self, name: str, gradient: torch.Tensor) -> torch.Tensor:
        decays = self._rule.momentum, SECOND_MOMENT_DECAY
        first = self._of(self._first, name, gradient).mul_(decays[0]).add_(gradient, alpha=1 - decays[0])
        second = (
            self._of(self._second, name, gradient).mul_(decays[1]).addcmul_(gradient, gradient, value=1 - decays[1])
        )
        steps = self._num_steps[: self._active].view(-1, *[1] * (gradient.dim() - 1))
        of_first, of_second = (1 - decay**steps for decay in decays)
        return (first / of_first).div_((second / of_second).sqrt_().add_(EPSILON))

    def _of(self, moments: Stack, name: str, gradient: torch.Tensor) -> torch.Tensor:
        """Return the active clients' moments, which begin at zero."""
        if name not in moments:
            moments[name] = gradient.new_zeros(self._num_clients, *gradient.shape[1:])
        return moments[name][: self._active]


def _clip(gradients: Stack, max_norm: float) -> None:
    """Scale the gradient of every client down, in place, to at most this norm over all parameters."""
    squares = [gradient.flatten(1).square().sum(1) for gradient in gradients.values()]
    norms = torch.stack(squares).sum(0).sqrt_()
    scales = (max_norm / norms.clamp_(min=SMALLEST_NORM)).clamp_(max=1.0)
    for gradient in gradients.values():
        gradient.mul_(scales.view(-1, *[1] * (gradient.dim() - 1)))
