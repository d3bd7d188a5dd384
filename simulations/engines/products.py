"""The engine for chains in which convolutions are batched products, as a GPU likes them."""

from __future__ import annotations

import torch

from simulations.engines.model import SimulatedModel
from simulations.engines.product_ops import as_products
from simulations.engines.stacked import StackedEngine

__all__ = ["ProductEngine"]


class ProductEngine(StackedEngine):
    """Trains a stack of clients as one chain of batched products.

    Args:
        model: A chain of operations.

    Raises:
        NotAChainError: If it is none.
    """

    name = "products"

    def __init__(self, model: SimulatedModel) -> None:
        """Trace the model."""
        super().__init__(model)
        self._chain = as_products(self._chain)

    def _enter(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return ``(clients, batch, channels, [height,] width)`` as ``(clients, batch, height, width, channels)``."""
        if inputs.dim() == 4:  # noqa: PLR2004 - a signal: its height is 1
            inputs = inputs.unsqueeze(3)
        return inputs.permute(0, 1, 3, 4, 2).contiguous()
