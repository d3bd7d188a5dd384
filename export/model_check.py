"""What a model must be to be trained on devices: checked before anything is exported, each refusal by name."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from export.losses import LOSSES
from export.models import TrainableModel
from export.trial_run import try_model
from wire.errors import ExportError
from wire.manifest import LayerSpec, MaskSpec, ParameterSpec

__all__ = ["CheckedModel", "check_model"]

ROOT_LAYER = "root"
"""The layer of parameters that belong to the outermost module itself."""

STATISTICS = "statistics"
"""What a norm's layer of running statistics is called, behind the norm."""

RESERVED_NAMES = ("x", "y")
"""What the program's other inputs are called; and masks, ``mask.0``."""

FEWEST_CLASSES = 2


@dataclass(frozen=True)
class CheckedModel:
    """A model that can be exported.

    Args:
        model: The model.
        layers: One for each torch module with parameters of its own, in the model's order; a norm's running statistics are
            a layer behind it.
        masks: Of its dropouts, in the order in which they run.
    """

    model: TrainableModel
    layers: tuple[LayerSpec, ...]
    masks: tuple[MaskSpec, ...]

    @property
    def parameters(self) -> list[str]:
        """The names of all parameters and running statistics, in the order of the layers."""
        return [parameter.name for layer in self.layers for parameter in layer.parameters]

    @property
    def statistics(self) -> list[str]:
        """The names of the running statistics."""
        return [parameter.name for layer in self.layers if layer.kind for parameter in layer.parameters]

    def results_for(self, trained: Collection[str] | None = None) -> list[str]:
        """Return the parameters of which a program gives a result: these, or all, and the running statistics."""
        statistics = self.statistics
        return [name for name in self.parameters if trained is None or name in trained or name in statistics]

    def parameters_of(self, layers: Collection[str]) -> list[str]:
        """Return the names of these layers' parameters.

        Raises:
            ExportError: If the model has no such layer, or it holds nothing to train.
        """
        known = {
            layer.name: [parameter.name for parameter in layer.parameters] for layer in self.layers if not layer.kind
        }
        for name in layers:
            if name not in known:
                raise ExportError(f"no layer to train is called {name!r}; the model has {', '.join(known)}")
        return [parameter for name, parameters in known.items() if name in layers for parameter in parameters]

    def initial_values(self) -> dict[str, torch.Tensor]:
        """Return name -> value of every parameter and running statistic, detached."""
        module = self.model.module
        held = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        return {name: held[name].detach() for name in self.parameters}


def check_model(model: TrainableModel) -> CheckedModel:
    """Return the model, its layers and its dropouts.

    The weight and bias of a module stay together. A norm's affine pair is a layer of its own, so that it can stay personal
    while the convolution before it is shared; so are its running statistics. Parameters that are tied belong to the first
    module that has them.

    Args:
        model: Runs forward and backward; its values and buffers stay as they are.

    Raises:
        ExportError: If the model has no parameters, frozen ones, some that are not float32 or take no part in the loss,
            buffers that training changes other than a batch norm's, or an output of another shape than it says.
    """
    _check_numbers(model)
    _check_parameters(model.module)
    _check_norms(model.module)
    found = try_model(model)
    layers = _layers(model.module, found.statistics)
    _check_names(layers, found.masks)
    return CheckedModel(model, layers, found.masks)


def _check_numbers(model: TrainableModel) -> None:
    """Refuse a loss that is unknown, or a class that cannot be told from another."""
    if model.loss not in LOSSES:
        raise ExportError(f"no loss is called {model.loss!r}; take one of {', '.join(LOSSES)}")
    fewest = FEWEST_CLASSES if model.loss == "cross-entropy" else 1
    if model.num_classes < fewest:
        raise ExportError(f"{model.loss} needs num_classes of at least {fewest}, not {model.num_classes}")


def _check_parameters(module: nn.Module) -> None:
    """Refuse a parameter that the program could not take."""
    named = dict(module.named_parameters())
    if not named:
        raise ExportError("the model has no parameters, so there is nothing to train")
    for name, values in named.items():
        if values.dtype != torch.float32:
            raise ExportError(f"parameter {name!r} is {values.dtype}; only float32 can be trained on devices")
        if not values.requires_grad:
            raise ExportError(f"parameter {name!r} does not require a gradient; make it a buffer, or trainable")


def _check_norms(module: nn.Module) -> None:
    """Refuse batch norms whose running statistics are not a function of one batch and themselves."""
    for name, norm in module.named_modules():
        if isinstance(norm, _BatchNorm) and not norm.track_running_stats:
            raise ExportError(
                f"batch norm {name!r} has no running statistics, so an example's prediction would depend on its "
                "neighbors; give it track_running_stats=True, or take GroupNorm"
            )
        if isinstance(norm, _BatchNorm) and norm.momentum is None:
            raise ExportError(f"batch norm {name!r} counts its batches, which no program can; give it a momentum")


def _layers(module: nn.Module, statistics: frozenset[str]) -> tuple[LayerSpec, ...]:
    """Return the layers of a module, with these of its buffers as running statistics."""
    seen: set[int] = set()
    layers: list[LayerSpec] = []
    for module_name, layer in module.named_modules():
        prefix = f"{module_name}." if module_name else ""
        parameters = []
        for short_name, values in layer.named_parameters(recurse=False):
            if id(values) in seen:
                continue
            seen.add(id(values))
            parameters.append(ParameterSpec(prefix + short_name, tuple(values.shape)))
        if parameters:
            layers.append(LayerSpec(module_name or ROOT_LAYER, tuple(parameters)))
        running = [
            ParameterSpec(prefix + short_name, tuple(values.shape))
            for short_name, values in layer.named_buffers(recurse=False)
            if prefix + short_name in statistics
        ]
        if running:
            layers.append(LayerSpec(f"{module_name or ROOT_LAYER}.{STATISTICS}", tuple(running), "statistics"))
    return tuple(layers)


def _check_names(layers: tuple[LayerSpec, ...], masks: tuple[MaskSpec, ...]) -> None:
    """Refuse names that would mean two things."""
    names = [layer.name for layer in layers]
    for name in names:
        if names.count(name) > 1:
            raise ExportError(f"two layers would be called {name!r}; rename the module of that name")
    reserved = {*RESERVED_NAMES, *(f"mask.{index}" for index in range(len(masks)))}
    for layer in layers:
        for parameter in layer.parameters:
            if parameter.name in reserved:
                raise ExportError(f"parameter {parameter.name!r} has the name of an input of the program; rename it")
