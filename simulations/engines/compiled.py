"""The engine for a GPU that has time to warm up: the products of a step stay products, all between them is compiled.

Between two products of a convolutional network lie a dozen operations that each read and write whole activations. Compiled,
they are a few kernels that read and write once. That takes ten seconds for every number of clients, examples and trained
layers, once a machine: torch keeps what it compiled on disk. Where clients have unequal numbers of steps there are many
such numbers, so only the first few are compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import torch

from simulations.engines.chain_ops import Sink, as_matrix, as_weight
from simulations.engines.model import SimulatedModel, Stack
from simulations.engines.products import ProductEngine
from simulations.engines.stacked import Collected

__all__ = ["CompiledEngine", "compile_whole"]

MOST_SHAPES = 8
Products = dict[str, tuple[torch.Tensor, torch.Tensor]]


def compile_whole(function: Callable[..., Any], backend: str = "inductor") -> Callable[..., Any]:
    """Return the function compiled, anew for every shape, and apart from all others."""
    compiler: Callable[..., Any] = torch.compile  # its types know nothing of the last two yet
    compiled: Callable[..., Any] = compiler(
        function, fullgraph=True, dynamic=False, backend=backend, isolate_recompiles=True, recompile_limit=MOST_SHAPES
    )
    return compiled


@dataclass
class _Factored(Collected):
    """Keeps gradients, and of those that are products the factors: who steps multiplies them into the parameters."""

    products: Products = field(default_factory=dict)

    def take_product(self, name: str, left: torch.Tensor, right: torch.Tensor) -> None:
        """Keep its factors."""
        self.products[name] = left, right


class CompiledEngine(ProductEngine):
    """Trains a stack of clients as one compiled chain of batched products.

    Args:
        model: A chain of operations.
        activations: Their type in convolutions while training, such as bfloat16: half as much to move, but three digits;
            None is the inputs'.
        compiler: What makes a function fast.

    Raises:
        NotAChainError: If it is none.
    """

    name = "compiled"

    def __init__(
        self,
        model: SimulatedModel,
        activations: torch.dtype | None = None,
        compiler: Callable[[Callable[..., Any]], Callable[..., Any]] = compile_whole,
    ) -> None:
        """Compile nothing yet: that takes a first batch."""
        super().__init__(model)
        self._activations = activations
        self._shapes: set[Hashable] = set()
        self._compiled_factors = compiler(self._find_factors)
        self._compiled_gradients = compiler(super().gradients)

    def gradients(
        self,
        params: Stack,
        inputs: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor,
        trained: frozenset[str] | None = None,
    ) -> tuple[torch.Tensor, Stack]:
        """Return each client's loss on one batch, and its gradient for the trained parameters."""
        find = self._compiled_gradients if self._is_compiled((inputs.shape, trained)) else super().gradients
        found: tuple[torch.Tensor, Stack] = find(params, inputs, targets, weights, trained)
        return found

    @torch.no_grad()
    def _step(
        self,
        params: Stack,
        learning_rate: float,
        inputs: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor,
    ) -> torch.Tensor:
        find = self._compiled_factors if self._is_compiled(inputs.shape) else self._find_factors
        losses, gradients, products = find(params, inputs, targets, weights)
        for name, gradient in gradients.items():
            params[name].sub_(gradient, alpha=learning_rate)
        for name, (left, right) in products.items():
            if left.dtype == params[name].dtype:
                as_matrix(params[name]).baddbmm_(left, right, alpha=-learning_rate)
            else:
                params[name].sub_(as_weight(torch.bmm(left, right), params[name].shape), alpha=learning_rate)
        found: torch.Tensor = losses
        return found

    def _is_compiled(self, shape: Hashable) -> bool:
        """Say whether this shape is compiled: it is one of the first."""
        if len(self._shapes) < MOST_SHAPES:
            self._shapes.add(shape)
        return shape in self._shapes

    def _find_factors(
        self, params: Stack, inputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
    ) -> tuple[torch.Tensor, Stack, Products]:
        sink = _Factored(params, frozenset(params))
        return self._backward(sink, inputs, targets, weights), sink.gradients, sink.products

    def _backward(self, sink: Sink, inputs: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        if self._activations is not None and not self._is_flat:
            inputs = inputs.to(self._activations)
        return super()._backward(sink, inputs, targets, weights)
