"""Optimizers live above the program, in NumPy: a program gives gradients, these move the parameters.

``Sgd`` and ``Adam`` are those of ``torch.optim``, in float32. ``Proximal`` and ``Bounded`` stand before another optimizer and
change what it is given; ``make_optimizer`` puts together what a plan asks for. All state begins anew in every round.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from wire.messages import TrainingSettings

__all__ = [
    "EPSILON",
    "SECOND_MOMENT_DECAY",
    "SMALLEST_NORM",
    "Adam",
    "Bounded",
    "Optimizer",
    "Proximal",
    "Sgd",
    "make_optimizer",
]

Values = Mapping[str, np.ndarray]
SECOND_MOMENT_DECAY = 0.999
EPSILON = 1e-8
SMALLEST_NORM = 1e-12


class Optimizer(Protocol):
    """Moves parameters."""

    def update(self, params: dict[str, np.ndarray], gradients: Values) -> None:
        """Move the parameters, in place, one step against their gradients; leave those as they are.

        Args:
            params: Name -> values, float32.
            gradients: Of the parameters that move, float32, in their shapes; a runtime may write the next ones over them.
        """
        ...


class Sgd:
    """Stochastic gradient descent: ``g <- g + d w``, ``v <- m v + g``, ``w <- w - lr v``; Nesterov: ``w - lr (g + m v)``.

    Args:
        learning_rate: Above 0.
        momentum: ``m`` in ``[0, 1)``; the velocity starts at zero.
        weight_decay: ``d``, at least 0.
        is_nesterov: Whether a step looks ahead along the velocity.
    """

    def __init__(
        self, learning_rate: float, momentum: float = 0.0, *, weight_decay: float = 0.0, is_nesterov: bool = False
    ) -> None:
        """Start without velocity."""
        self._learning_rate = np.float32(learning_rate)
        self._momentum = np.float32(momentum)
        self._weight_decay = np.float32(weight_decay)
        self._is_nesterov = is_nesterov
        self._velocity: dict[str, np.ndarray] = {}

    def update(self, params: dict[str, np.ndarray], gradients: Values) -> None:
        """Move the parameters; see ``Optimizer``."""
        for name, given in gradients.items():
            gradient = given + self._weight_decay * params[name] if self._weight_decay else given
            velocity = self._velocity.get(name)
            if velocity is None:
                velocity = self._velocity[name] = gradient.copy()
            else:
                velocity *= self._momentum
                velocity += gradient
            step = gradient + self._momentum * velocity if self._is_nesterov else velocity
            params[name] -= self._learning_rate * step


class Adam:
    """Adam (D. P. Kingma and J. Ba, ICLR 2015), with ``beta2 = .999`` and ``epsilon = 1e-8``.

    Args:
        learning_rate: Above 0.
        momentum: ``beta1`` in ``[0, 1)``.
        weight_decay: At least 0.
        is_decoupled: Whether weights decay beside the gradients' step, as in AdamW (I. Loshchilov and F. Hutter, ICLR 2019),
            and not as part of the gradient.
    """

    def __init__(
        self, learning_rate: float, momentum: float = 0.9, *, weight_decay: float = 0.0, is_decoupled: bool = False
    ) -> None:
        """Start without moments."""
        self._learning_rate = learning_rate
        self._momentum = momentum
        self._weight_decay = weight_decay
        self._is_decoupled = is_decoupled
        self._moments: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._num_steps = 0

    def update(self, params: dict[str, np.ndarray], gradients: Values) -> None:
        """Move the parameters; see ``Optimizer``."""
        self._num_steps += 1
        step_size = np.float32(self._learning_rate / (1 - self._momentum**self._num_steps))
        scale = np.float32(np.sqrt(1 - SECOND_MOMENT_DECAY**self._num_steps))
        for name, given in gradients.items():
            gradient, values = given, params[name]
            if self._is_decoupled:
                values *= np.float32(1 - self._learning_rate * self._weight_decay)
            elif self._weight_decay:
                gradient = gradient + np.float32(self._weight_decay) * values
            if name not in self._moments:
                self._moments[name] = np.zeros_like(values), np.zeros_like(values)
            first, second = self._moments[name]
            first *= np.float32(self._momentum)
            first += np.float32(1 - self._momentum) * gradient
            second *= np.float32(SECOND_MOMENT_DECAY)
            second += np.float32(1 - SECOND_MOMENT_DECAY) * np.square(gradient)
            values -= step_size * first / (np.sqrt(second) / scale + np.float32(EPSILON))


class Bounded:
    """Scales gradients whose norm over all parameters is larger than a bound down to it.

    Args:
        optimizer: What takes the step.
        max_norm: The bound, above 0.
    """

    def __init__(self, optimizer: Optimizer, max_norm: float) -> None:
        """Stand before the optimizer."""
        self._optimizer = optimizer
        self._max_norm = max_norm

    def update(self, params: dict[str, np.ndarray], gradients: Values) -> None:
        """Move the parameters; see ``Optimizer``."""
        norm = float(np.sqrt(sum(float(np.vdot(gradient, gradient)) for gradient in gradients.values())))
        scale = np.float32(min(1.0, self._max_norm / max(norm, SMALLEST_NORM)))
        self._optimizer.update(params, {name: scale * gradient for name, gradient in gradients.items()})


class Proximal:
    """Pulls parameters to where they were: the gradient of ``mu / 2 |w - anchor|^2`` is added (T. Li et al., MLSys 2020).

    Args:
        optimizer: What takes the step.
        weight: ``mu``, at least 0.
        anchor: Name -> values, float32; not changed.
    """

    def __init__(self, optimizer: Optimizer, weight: float, anchor: Values) -> None:
        """Stand before the optimizer."""
        self._optimizer = optimizer
        self._weight = np.float32(weight)
        self._anchor = anchor

    def update(self, params: dict[str, np.ndarray], gradients: Values) -> None:
        """Move the parameters; see ``Optimizer``."""
        pulled = {
            name: gradient + self._weight * (params[name] - self._anchor[name]) for name, gradient in gradients.items()
        }
        self._optimizer.update(params, pulled)


def make_optimizer(settings: TrainingSettings, anchor: Values) -> Optimizer:
    """Return what a plan asks for: first the pull, then the bound, then the step.

    Args:
        settings: The plan's.
        anchor: What was installed, float32, by name; not changed.
    """
    optimizer: Optimizer
    rate, momentum, decay = settings.learning_rate, settings.momentum, settings.weight_decay or 0.0
    if (settings.optimizer or "sgd") == "sgd":
        optimizer = Sgd(rate, momentum, weight_decay=decay, is_nesterov=bool(settings.nesterov))
    else:
        optimizer = Adam(rate, momentum, weight_decay=decay, is_decoupled=settings.optimizer == "adamw")
    bounded = Bounded(optimizer, settings.max_gradient_norm)
    return Proximal(bounded, settings.proximal, anchor) if settings.proximal else bounded
