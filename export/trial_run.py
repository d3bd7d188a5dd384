"""One forward and backward pass of a model: what it shows of dropouts, running statistics and parameters without effect."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from export.losses import mean_loss
from export.models import TrainableModel
from export.stateful import Dropped, pure_functions
from wire.errors import ExportError
from wire.manifest import MaskSpec

__all__ = ["Trial", "try_model"]

BATCHES = (2, 3)
"""Two sizes show which dimension is the batch."""

COUNTER = "num_batches_tracked"
"""The buffer of a batch norm that changes and decides nothing."""


@dataclass(frozen=True)
class Trial:
    """What a pass showed.

    Args:
        masks: Of the model's dropouts, in the order in which they run.
        statistics: The buffers that are running statistics.
    """

    masks: tuple[MaskSpec, ...]
    statistics: frozenset[str]


def try_model(model: TrainableModel) -> Trial:
    """Run the model forward and backward; its values and buffers stay as they are.

    Raises:
        ExportError: If it cannot run on its own inputs, gives an output of another shape than it says, has parameters without
            effect, buffers that training changes other than a batch norm's, or a dropout whose first dimension is not the
            batch.
    """
    module = model.module
    buffers = {name: values.clone() for name, values in module.named_buffers()}
    names = {values: name for name, values in module.named_buffers()}
    generator = torch.Generator().manual_seed(0)
    dropped: list[list[Dropped]] = []
    statistics: set[str] = set()
    try:
        for batch in BATCHES:
            with pure_functions(names) as pure:
                logits = _run(model, batch, generator)
            dropped.append(pure.dropped)
            statistics |= set(pure.statistics)
            _refuse_without_effect(model, logits, model.draw_targets(batch, generator))
        _refuse_other_state(module, buffers)
    finally:
        for name, values in module.named_buffers():
            values.data.copy_(buffers[name])
    masks = tuple(_mask(small, large) for small, large in zip(*dropped, strict=True))
    return Trial(masks, frozenset(statistics))


def _run(model: TrainableModel, batch: int, generator: torch.Generator) -> torch.Tensor:
    """Return the logits of a batch; refuse a model that cannot give them."""
    x = model.draw_inputs(batch, generator)
    try:
        logits = model.module(x)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        reason = str(error).splitlines()[0]
        shape = ", ".join(str(size) for size in ("batch", *model.input_shape))
        raise ExportError(f"the model cannot run on inputs of shape ({shape}): {reason}") from error
    expected = (batch, *model.output_shape)
    if not isinstance(logits, torch.Tensor) or logits.shape != expected:
        came = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ExportError(f"the model gives {came} for a batch of {batch}; it must give logits {expected}")
    return logits


def _refuse_without_effect(model: TrainableModel, logits: torch.Tensor, targets: torch.Tensor) -> None:
    """Refuse a model with parameters that take no part in the loss."""
    named = dict(model.module.named_parameters())
    loss = mean_loss(model.loss, logits, targets)
    try:
        gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    except RuntimeError as error:
        raise ExportError(f"torch finds no gradient of the loss: {str(error).splitlines()[0]}") from error
    for name, gradient in zip(named, gradients, strict=True):
        if gradient is None:
            raise ExportError(f"parameter {name!r} takes no part in the loss; remove it from the model")


def _refuse_other_state(module: torch.nn.Module, before: dict[str, torch.Tensor]) -> None:
    """Refuse buffers that a pass changed: they would be state that no program returns."""
    for name, values in module.named_buffers():
        if not torch.equal(values, before[name]) and not name.endswith(COUNTER):
            owner = name.rpartition(".")[0]
            kind = type(module.get_submodule(owner)).__name__
            raise ExportError(
                f"buffer {name!r} of {kind} changes in training, which a program returns for BatchNorm alone; use GroupNorm"
            )


def _mask(small: Dropped, large: Dropped) -> MaskSpec:
    """Return one example's mask from what a dropout was given for batches of two sizes."""
    (shape, probability), (other, _) = small, large
    per_example, rest = divmod(shape[0], BATCHES[0])
    if rest or other[0] != per_example * BATCHES[1] or other[1:] != shape[1:]:
        raise ExportError(
            f"a dropout is given a tensor of shape {tuple(shape)} for a batch of {BATCHES[0]}, whose first dimension is "
            "not the batch; use batch_first=True, or move the dropout"
        )
    if not 0 < probability < 1:
        raise ExportError(f"a dropout drops values with probability {probability:g}; take one above 0 and below 1")
    return MaskSpec(tuple(shape[1:]) if per_example == 1 else (per_example, *shape[1:]), probability)
