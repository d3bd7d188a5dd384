"""A model as engines see it: a torch module, and the layers into which the fleet divides its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from export.model_check import CheckedModel, check_model
from export.models import TrainableModel
from wire.errors import ExportError
from wire.manifest import LayerSpec

__all__ = ["SimulatedModel", "Stack", "install", "layer_rows", "simulate_model", "take_clients"]

CHECKED_BATCH = 8

Stack = dict[str, torch.Tensor]
"""The parameters of several clients: name -> values, shape ``(clients, *shape)``, float32."""


@dataclass(frozen=True, eq=False)
class SimulatedModel:
    """A model and its layers.

    Args:
        module: Gives logits; its own parameters hold initial values and are never trained.
        layers: Its layers, as an exported model would have them.
        input_shape: One example's shape, without the batch.
        num_classes: The number of logits.
    """

    module: torch.nn.Module
    layers: tuple[LayerSpec, ...]
    input_shape: tuple[int, ...]
    num_classes: int

    @cached_property
    def layer_sizes(self) -> dict[str, int]:
        """Layer -> number of its parameters, in the model's order."""
        return {layer.name: layer.num_params for layer in self.layers}

    @cached_property
    def num_params(self) -> int:
        """The number of all parameters."""
        return sum(self.layer_sizes.values())

    def parameters_of(self, layers: frozenset[str]) -> frozenset[str]:
        """Return the names of these layers' parameters."""
        return frozenset(p.name for layer in self.layers if layer.name in layers for p in layer.parameters)

    def initial_values(self) -> dict[str, np.ndarray]:
        """Return layer -> the module's values, float32, shape ``(num_params,)``."""
        named = {name: values.detach() for name, values in self.module.named_parameters()}
        return {
            layer.name: torch.cat([named[parameter.name].flatten() for parameter in layer.parameters]).numpy()
            for layer in self.layers
        }


def simulate_model(model: TrainableModel) -> SimulatedModel:
    """Return a model for engines, checked as the exporter checks it.

    Raises:
        ExportError: If the model could not be trained on a device, or draws random numbers.
    """
    looked_up = model.module.register_forward_pre_hook(lambda _, inputs: (inputs[0].abs(),))  # no index is negative
    try:
        checked = check_model(model)
    finally:
        looked_up.remove()
    _refuse_what_no_engine_does(checked)
    _refuse_randomness(model)
    return SimulatedModel(model.module, checked.layers, model.input_shape, model.num_classes)


def install(model: SimulatedModel, rows: Mapping[str, torch.Tensor], num_clients: int) -> Stack:
    """Return parameters made of layers.

    Args:
        model: Their model.
        rows: Layer -> values, shape ``(num_params,)`` where all clients start alike, else ``(clients, num_params)``.
        num_clients: Number of clients.

    Returns:
        Parameters of their own memory, contiguous.
    """
    stack = {}
    for layer in model.layers:
        values, begin = rows[layer.name], 0
        for parameter in layer.parameters:
            size = int(np.prod(parameter.shape))
            part = values[..., begin : begin + size].reshape(*values.shape[:-1], *parameter.shape)
            stack[parameter.name] = part.expand(num_clients, *parameter.shape).clone(
                memory_format=torch.contiguous_format
            )
            begin += size
    return stack


def layer_rows(layer: LayerSpec, stack: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return one layer of every client, shape ``(clients, num_params)``, contiguous; a copy."""
    return torch.cat([stack[parameter.name].flatten(1) for parameter in layer.parameters], dim=1)


def take_clients(stack: Stack, clients: slice) -> Stack:
    """Return views of some clients' parameters."""
    return {name: values[clients] for name, values in stack.items()}


def _refuse_what_no_engine_does(checked: CheckedModel) -> None:
    """Refuse a model that can be exported and whose clients no engine trains."""
    if checked.model.loss != "cross-entropy" or checked.model.positions:
        raise ExportError(f"simulations train for the cross-entropy of one class; this is {checked.model.loss}")
    if checked.statistics:
        raise ExportError(
            f"{checked.statistics[0]!r} is a running statistic, which no engine keeps for its clients; use GroupNorm"
        )


@torch.no_grad()
def _refuse_randomness(model: TrainableModel) -> None:
    """Refuse a model that gives something else when it is asked again, such as one with dropout."""
    with torch.random.fork_rng(devices=[]):
        x = torch.rand(CHECKED_BATCH, *model.input_shape)
        is_same = torch.equal(model.module(x), model.module(x))
    if not is_same:
        kinds = (torch.nn.modules.dropout._DropoutNd, torch.nn.RReLU)  # noqa: SLF001 - what torch's own dropouts share
        culprits = [name for name, child in model.module.named_modules() if isinstance(child, kinds)]
        where = f"module {culprits[0]!r} draws" if culprits else "the model draws"
        raise ExportError(f"{where} random numbers, which no engine can draw as a device would; remove it")
