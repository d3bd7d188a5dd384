"""The losses that a program can train for, twice: in operators that every runtime has right, and in torch's own words."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.nn import functional

from wire.manifest import Loss

__all__ = ["LOSSES", "mean_loss", "torch_loss"]


def _cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return log-softmax times the one-hot targets: a gather's backward is a scatter, which some runtimes get wrong."""
    one_hot = (targets.unsqueeze(-1) == torch.arange(logits.shape[-1])).to(logits.dtype)
    return -(functional.log_softmax(logits, dim=-1) * one_hot)


def _binary_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of each label by itself, from its logit."""
    return functional.softplus(logits) - logits * targets


def _squared_error(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the squares of the errors."""
    error = outputs - targets
    return error * error


def _huber(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return half the squares of errors up to 1, else what they are beyond a half; the cut error is the gradient."""
    error = outputs - targets
    cut = error.detach().clamp(-1, 1)
    return cut * error - 0.5 * cut * cut


LOSSES: dict[Loss, tuple[Callable[..., torch.Tensor], Callable[..., torch.Tensor]]] = {
    "cross-entropy": (
        _cross_entropy,
        lambda logits, targets: functional.cross_entropy(logits.flatten(0, -2), targets.flatten()),
    ),
    "binary-cross-entropy": (_binary_cross_entropy, functional.binary_cross_entropy_with_logits),
    "mse": (_squared_error, functional.mse_loss),
    "huber": (_huber, functional.huber_loss),
}
"""The sum's terms as the program computes them, and torch's mean, which is what they are verified against."""


def mean_loss(loss: Loss, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the batch's mean loss as a program computes it.

    Args:
        loss: Its name.
        logits: Shape ``(batch, *positions, num_classes)``, float32.
        targets: int64 ``(batch, *positions)`` for cross-entropy, else float32 in the shape of the logits.
    """
    terms, _ = LOSSES[loss]
    counted = logits.shape[1:-1] if loss == "cross-entropy" else logits.shape[1:]
    return terms(logits, targets).sum() / (logits.shape[0] * math.prod(counted))


def torch_loss(loss: Loss, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the same by torch's own function."""
    _, mean = LOSSES[loss]
    return mean(logits, targets)
