"""The engine for chains that has no operators: compiled loops train one client after the other.

A step of a small model in torch is mostly calls, and copies between them. Here a client's whole epoch is one call, its
activations stay in the processor's cache, and a convolution multiplies where its windows lie.
"""

from __future__ import annotations

from ctypes import Array, c_void_p

import numpy as np
import torch

from edge_client.optimizer import SMALLEST_NORM
from simulations.engines.batches import Batches
from simulations.engines.descent import descend
from simulations.engines.engine import CPU, StepRule
from simulations.engines.model import SimulatedModel, Stack
from simulations.engines.native.interface import BatchesTable, ModelTable, RuleTable, load_loops, stack_table
from simulations.engines.native.links import tabulate
from simulations.engines.population import ResidentSplit
from wire.errors import ConfigError

__all__ = ["NativeEngine"]

NO_PLACES = np.zeros(0, dtype=np.int64)


class NativeEngine:
    """Trains a stack of clients in compiled loops.

    Args:
        model: A chain of operations.

    Raises:
        NotAChainError: If it is none.
        ProgramError: If there is no C++ compiler, or it fails.
    """

    name = "native"
    device = CPU

    def __init__(self, model: SimulatedModel) -> None:
        """Tabulate the model; the loops are compiled where this machine has not done so yet."""
        self.model = model
        parameters = [parameter for layer in model.layers for parameter in layer.parameters]
        self._names = [parameter.name for parameter in parameters]
        self._sizes = np.array([int(np.prod(parameter.shape)) for parameter in parameters], dtype=np.int64)
        self._links = tabulate(model, self._names)
        self._input_size = int(np.prod(model.input_shape))
        load_loops(torch.float32)

    def train(
        self, params: Stack, batches: Batches, rule: StepRule, anchor: Stack | None = None
    ) -> tuple[Stack, torch.Tensor]:
        """Return the trained parameters, and each client's mean loss over its steps."""
        if rule.optimizer != "sgd":
            return descend(self, params, batches, rule, anchor)
        if rule.proximal and anchor is None:
            raise ConfigError("a proximal term needs an anchor to pull to")
        params = {name: params[name].clone(memory_format=torch.contiguous_format) for name in self._names}
        anchor = self._contiguous(params if anchor is None else anchor)
        losses = batches.weights.new_zeros(batches.num_clients)
        table = RuleTable(
            learning_rate=rule.learning_rate,
            momentum=rule.momentum,
            largest_norm=rule.max_gradient_norm or 0.0,
            smallest_norm=SMALLEST_NORM,
            proximal=rule.proximal,
            weight_decay=rule.weight_decay,
            is_nesterov=rule.is_nesterov,
            is_plain=rule.is_plain,
        )
        is_whole = load_loops(losses.dtype).train(
            self._model(rule.trained),
            table,
            self._batches(batches),
            self._stack(params),
            self._stack(anchor),
            losses.data_ptr(),
        )
        self._check(is_whole)
        return params, losses

    def gradients(
        self,
        params: Stack,
        inputs: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor,
        trained: frozenset[str] | None = None,
    ) -> tuple[torch.Tensor, Stack]:
        """Return each client's loss on one batch, and its gradient for the trained parameters."""
        params, wanted = self._contiguous(params), frozenset(self._names) if trained is None else trained
        found = {name: torch.zeros_like(params[name], memory_format=torch.contiguous_format) for name in self._names}
        losses = weights.new_zeros(len(weights))
        split = ResidentSplit(inputs.flatten(0, 1), targets.flatten(), NO_PLACES, NO_PLACES)
        rows = torch.arange(targets.numel()).view(1, *targets.shape)
        batches = Batches(split, rows, weights.unsqueeze(0), (len(weights),))
        is_whole = load_loops(losses.dtype).differentiate(
            self._model(wanted), self._batches(batches), self._stack(params), self._stack(found), losses.data_ptr()
        )
        self._check(is_whole)
        return losses, {name: values for name, values in found.items() if name in wanted}

    def predict(self, params: Stack, inputs: torch.Tensor) -> torch.Tensor:
        """Return the logits, shape ``(clients, batch, num_classes)``."""
        clients, examples = inputs.shape[:2]
        params, inputs = self._contiguous(params), inputs.contiguous()
        logits = inputs.new_empty(clients, examples, self.model.num_classes)
        load_loops(inputs.dtype).predict(
            self._model(frozenset()),
            inputs.data_ptr(),
            clients,
            examples,
            self._input_size,
            self._stack(params),
            logits.data_ptr(),
        )
        return logits

    def _contiguous(self, stack: Stack) -> Stack:
        return {name: stack[name].contiguous() for name in self._names}

    def _model(self, trained: frozenset[str] | None) -> ModelTable:
        is_wanted = [trained is None or name in trained for name in self._names]
        return ModelTable.of(self._links, self._sizes, np.array(is_wanted, dtype=np.int64))

    def _batches(self, batches: Batches) -> BatchesTable:
        split, (steps, clients, batch) = batches.split, batches.rows.shape
        active = np.array(batches.active, dtype=np.int64)
        return BatchesTable.of(
            (split.inputs, split.targets, batches.rows, batches.weights),
            active,
            clients=clients,
            steps=steps,
            batch=batch,
            input_size=self._input_size,
        )

    def _stack(self, stack: Stack) -> Array[c_void_p]:
        return stack_table([stack[name] for name in self._names])

    def _check(self, is_whole: int) -> None:
        if not is_whole:
            raise ValueError(f"an example is of a class outside [0, {self.model.num_classes})")
