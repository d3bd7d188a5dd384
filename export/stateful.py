"""What draws random numbers or keeps state while a model trains, made into inputs and outputs of a pure function.

A dropout multiplies by a mask, which whoever trains draws and hands in. A batch norm in training normalizes by the batch's own
mean and variance, in plain operators, and hands out its new running statistics. torch's functions are replaced while the block
runs, because modules such as ``MultiheadAttention`` call them from within others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from wire.errors import ExportError

__all__ = ["Dropped", "PureFunctions", "evaluating", "masked_dropouts", "pure_functions", "without_counters"]

Dropped = tuple[torch.Size, float]
"""The shape of what a dropout was given, and the probability of a value to be dropped."""


class PureFunctions:
    """What happened while torch's functions were replaced.

    Args:
        names: Tensor -> its name, for the running statistics that may be met.
        masks: What dropouts multiply by, in the order in which they run; None: they let everything through.

    Attributes:
        dropped: What each dropout was given.
        statistics: Name -> new value of each running statistic that training changes.
    """

    def __init__(self, names: Mapping[torch.Tensor, str], masks: Sequence[torch.Tensor] | None) -> None:
        """Remember nothing yet."""
        self._names = names
        self._masks = None if masks is None else iter(masks)
        self.dropped: list[Dropped] = []
        self.statistics: dict[str, torch.Tensor] = {}

    def dropout(
        self,
        input: torch.Tensor,  # noqa: A002 - torch's name
        p: float = 0.5,
        training: bool = True,
        inplace: bool = False,  # noqa: ARG002 - a mask needs none
        *,
        per_channel: bool = False,
    ) -> torch.Tensor:
        """Return the input times a mask of its own shape, or one that drops whole channels."""
        if not training or p == 0:
            return input
        shape = torch.Size([*input.shape[:2], *(1 for _ in input.shape[2:])]) if per_channel else input.shape
        self.dropped.append((shape, p))
        return input if self._masks is None else input * next(self._masks).reshape(-1, *shape[1:])

    def batch_norm(
        self,
        input: torch.Tensor,  # noqa: A002 - torch's name
        running_mean: torch.Tensor | None,
        running_var: torch.Tensor | None,
        weight: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> torch.Tensor:
        """Return the input normalized over batch and positions; remember the new running statistics.

        A running variance takes the batch's unbiased one, as torch's does; of a single value, which torch refuses, it is 0.
        """
        dims, shape = [0, *range(2, input.dim())], [1, -1, *(1 for _ in input.shape[2:])]
        if not training and running_mean is not None and running_var is not None:
            centered, variance = input - running_mean.reshape(shape), running_var
        else:
            mean = input.mean(dims)
            centered = input - mean.reshape(shape)
            squares = centered * centered
            variance = squares.mean(dims)
            if running_mean is not None and running_var is not None:
                others = (torch.ones_like(input[:, :1]).sum() - 1).clamp(min=1)
                self._remember(running_mean, mean, momentum)
                self._remember(running_var, squares.sum(dims) / others, momentum)
        normalized = centered * torch.rsqrt(variance + eps).reshape(shape)
        if weight is not None:
            normalized = normalized * weight.reshape(shape)
        return normalized if bias is None else normalized + bias.reshape(shape)

    def attention(self, attend: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        """Return scaled dot-product attention in plain operators, its weights dropped by a mask; what is rare is left as it is.

        torch's own looks for rows that are masked as a whole, which costs as much as the product.
        """

        def scaled_dot_product_attention(
            query: torch.Tensor,
            key: torch.Tensor,
            value: torch.Tensor,
            attn_mask: torch.Tensor | None = None,
            dropout_p: float = 0.0,
            is_causal: bool = False,
            **options: Any,
        ) -> torch.Tensor:
            is_plain = not is_causal and options.get("scale") is None and not options.get("enable_gqa")
            if is_plain and (attn_mask is None or attn_mask.dtype == query.dtype):
                scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
                weights = (scores if attn_mask is None else scores + attn_mask).softmax(-1)
                return self.dropout(weights, dropout_p) @ value
            if dropout_p > 0:
                raise ExportError(
                    "attention with dropout takes an attn_mask of floats, and neither is_causal, scale nor enable_gqa"
                )
            return attend(query, key, value, attn_mask, dropout_p, is_causal, **options)

        return scaled_dot_product_attention

    def _remember(self, running: torch.Tensor, found: torch.Tensor, momentum: float) -> None:
        name = self._names.get(running)
        if name is None:
            raise ExportError(
                "a batch norm keeps running statistics that are no buffers of the model; use nn.BatchNorm"
            )
        before = self.statistics.get(name, running)
        self.statistics[name] = (1 - momentum) * before + momentum * found.detach()


@contextmanager
def pure_functions(
    names: Mapping[torch.Tensor, str], masks: Sequence[torch.Tensor] | None = None
) -> Iterator[PureFunctions]:
    """Replace torch's dropouts, batch norm and attention while the block runs; see ``PureFunctions``."""
    pure = PureFunctions(names, masks)
    with masked_dropouts(pure), patch.object(functional, "batch_norm", pure.batch_norm):
        yield pure


@contextmanager
def masked_dropouts(pure: PureFunctions) -> Iterator[None]:
    """Replace the dropouts, those of attention among them, and leave batch norm as it is."""
    attend = functional.scaled_dot_product_attention
    functions: dict[str, Any] = {
        "dropout": pure.dropout,
        **dict.fromkeys(("dropout1d", "dropout2d", "dropout3d"), partial(pure.dropout, per_channel=True)),
        "scaled_dot_product_attention": pure.attention(attend),
    }
    with patch.multiple(functional, **functions):
        yield


@contextmanager
def without_counters(module: nn.Module) -> Iterator[None]:
    """Take the counters of batches out of batch norms while the block runs: with a momentum no result depends on them."""
    norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm)]
    counters = [norm.num_batches_tracked for norm in norms]
    try:
        for norm in norms:
            norm.num_batches_tracked = None
        yield
    finally:
        for norm, counter in zip(norms, counters, strict=True):
            norm.num_batches_tracked = counter


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put the module, and every part of it, into evaluation while the block runs."""
    training = {part: part.training for part in module.modules()}
    try:
        module.eval()
        yield
    finally:
        for part, was_training in training.items():
            part.training = was_training
