"""The optimizer lives above the program, in NumPy: a program gives gradients, this moves the parameters."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

__all__ = ["Sgd"]


class Sgd:
    """Stochastic gradient descent with momentum, as ``torch.optim.SGD``: ``v <- m v + g``, ``w <- w - lr v``.

    Args:
        learning_rate: Above 0.
        momentum: In ``[0, 1)``; the velocity starts at zero.
        max_gradient_norm: Gradients whose norm over all parameters is larger are scaled down to it first.
    """

    def __init__(self, learning_rate: float, momentum: float, max_gradient_norm: float) -> None:
        """Start without velocity."""
        self._learning_rate = np.float32(learning_rate)
        self._momentum = np.float32(momentum)
        self._max_gradient_norm = max_gradient_norm
        self._velocity: dict[str, np.ndarray] = {}

    def update(self, params: dict[str, np.ndarray], gradients: Mapping[str, np.ndarray]) -> None:
        """Move the parameters, in place, one step against their gradients (both float32, by name)."""
        norm = float(np.sqrt(sum(float(np.vdot(gradient, gradient)) for gradient in gradients.values())))
        scale = np.float32(min(1.0, self._max_gradient_norm / max(norm, 1e-12)))
        for name, gradient in gradients.items():
            velocity = self._velocity.get(name)
            if velocity is None:
                velocity = self._velocity[name] = scale * gradient
            else:
                velocity *= self._momentum
                velocity += scale * gradient
            params[name] -= self._learning_rate * velocity
