"""What a model must be to be trained on devices: checked before anything is exported, each refusal by name."""

from __future__ import annotations

import torch

from export.models import TrainableModel
from wire.errors import ExportError
from wire.manifest import LayerSpec, ParameterSpec

__all__ = ["check_model"]

ROOT_LAYER = "root"
"""The layer of parameters that belong to the outermost module itself."""

RESERVED_NAMES = ("x", "y")
"""What the program's other inputs are called."""

CHECKED_BATCH = 2


def check_model(model: TrainableModel) -> tuple[LayerSpec, ...]:
    """Return the model's layers: one for each torch module with parameters of its own, in the model's order.

    The weight and bias of a module stay together. A norm's affine pair is a layer of its own, so that it can stay personal
    while the convolution before it is shared.

    Args:
        model: Runs forward and backward once; its values and buffers stay as they are.

    Raises:
        ExportError: If the model has no parameters, tied or frozen ones, some that are not float32 or take no part in the
            loss, buffers that training changes, or an output of another shape than ``(batch, num_classes)``.
    """
    layers = _layers(model.module)
    buffers = {name: values.clone() for name, values in model.module.named_buffers()}
    try:
        _run_once(model)
        _check_buffers(model.module, buffers)
    finally:
        for name, values in model.module.named_buffers():
            values.data.copy_(buffers[name])
    return layers


def _layers(module: torch.nn.Module) -> tuple[LayerSpec, ...]:
    """Return the layers of a module whose parameters can all be trained."""
    first_name: dict[int, str] = {}
    layers: list[LayerSpec] = []
    for module_name, layer in module.named_modules():
        parameters = []
        for short_name, values in layer.named_parameters(recurse=False):
            name = f"{module_name}.{short_name}" if module_name else short_name
            _check_parameter(name, values)
            tied_to = first_name.setdefault(id(values), name)
            if tied_to != name:
                raise ExportError(f"parameters {tied_to!r} and {name!r} are tied; give each layer values of its own")
            parameters.append(ParameterSpec(name, tuple(values.shape)))
        if parameters:
            layers.append(LayerSpec(module_name or ROOT_LAYER, tuple(parameters)))
    if not layers:
        raise ExportError("the model has no parameters, so there is nothing to train")
    names = [layer.name for layer in layers]
    if names.count(ROOT_LAYER) > 1:
        raise ExportError(f"a module is called {ROOT_LAYER!r}, which names the outermost module; rename it")
    return tuple(layers)


def _check_parameter(name: str, values: torch.nn.Parameter) -> None:
    """Refuse a parameter that the program could not take."""
    if values.dtype != torch.float32:
        raise ExportError(f"parameter {name!r} is {values.dtype}; only float32 can be trained on devices")
    if not values.requires_grad:
        raise ExportError(f"parameter {name!r} does not require a gradient; make it a buffer, or trainable")
    if name in RESERVED_NAMES:
        raise ExportError(f"parameter {name!r} has the name of an input of the program; rename it")


def _run_once(model: TrainableModel) -> None:
    """Refuse a model that cannot run on its own input shape, or has parameters without effect."""
    x = torch.randn(CHECKED_BATCH, *model.input_shape, generator=torch.Generator().manual_seed(0))
    try:
        logits = model.module(x)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        reason = str(error).splitlines()[0]
        shape = ", ".join(str(size) for size in ("batch", *model.input_shape))
        raise ExportError(f"the model cannot run on inputs of shape ({shape}): {reason}") from error
    expected = (CHECKED_BATCH, model.num_classes)
    if not isinstance(logits, torch.Tensor) or logits.shape != expected:
        came = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ExportError(f"the model gives {came} for a batch of {CHECKED_BATCH}; it must give logits {expected}")
    names, values = zip(*model.module.named_parameters(), strict=True)
    loss = torch.nn.functional.cross_entropy(logits, torch.zeros(CHECKED_BATCH, dtype=torch.int64))
    for name, gradient in zip(names, torch.autograd.grad(loss, values, allow_unused=True), strict=True):
        if gradient is None:
            raise ExportError(f"parameter {name!r} takes no part in the loss; remove it from the model")


def _check_buffers(module: torch.nn.Module, before: dict[str, torch.Tensor]) -> None:
    """Refuse buffers that one forward pass changed: they would be state that no program returns."""
    for name, values in module.named_buffers():
        if not torch.equal(values, before[name]):
            owner = name.rpartition(".")[0]
            kind = type(module.get_submodule(owner)).__name__
            raise ExportError(
                f"buffer {name!r} of {kind} changes in training, which no program can return yet; use GroupNorm instead of "
                "BatchNorm"
            )
