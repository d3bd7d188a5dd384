"""Every exported program, run by the deployed runtimes, held against torch's autograd.

Exporters and runtimes make silent mistakes (docs/export.md has three), so no program is published on their word.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from edge_client.executorch_program import load_executorch_program
from edge_client.onnx_program import load_onnx_program
from edge_client.program import TrainingProgram, TrainStep
from export.joint_graph import LARGEST_BATCH
from export.losses import torch_loss
from export.model_check import CheckedModel
from export.stateful import PureFunctions, evaluating, masked_dropouts, without_counters
from wire.errors import ExportError, ManifestError, ProgramError
from wire.manifest import ModelManifest

__all__ = ["TOLERANCE", "Batch", "Verification", "draw_batch", "run_autograd", "verify_files", "verify_program"]

TOLERANCE = 1e-4
"""The greatest relative error of a layer's gradient, of the logits and of the loss."""

FLOOR = 1e-2
"""A layer's error is relative to its greatest gradient, or to this share of the model's if that is more: a gradient that
cancels to nothing, as a bias before a norm has, is all rounding."""

BATCH_SIZES = (1, 2, 13, LARGEST_BATCH, LARGEST_BATCH + 6)
"""Sizes that were not traced; the last runs in pieces where a runtime plans its memory."""

MIXED_SIZES = (2, 13, LARGEST_BATCH)
"""The same for a model with running statistics: torch refuses a single value, and pieces are normalized by themselves."""

MOST_DRAWS = 3
"""A batch on which a program is wrong is drawn again: where a unit or a pool stands on its edge, about one batch of 64 in a
hundred, torch's own float32 and float64 disagree as much. A program that is wrong is wrong on all of them."""

NOISE = 0.05
"""Standard deviation of what is added to the initial values, so that zeros and ones are not special."""


@dataclass(frozen=True)
class Verification:
    """How far a program is from autograd.

    Args:
        runtime: The runtime that ran it.
        errors: Layer name -> the greatest relative error of its gradient, or its new statistics, over all batches.
        output_error: The greatest relative error of loss and logits.
    """

    runtime: str
    errors: dict[str, float]
    output_error: float


def verify_files(checked: CheckedModel, manifest: ModelManifest, folder: Path) -> tuple[Verification, ...]:
    """Load the program's files as a device does, and return how far each runtime is from autograd.

    Args:
        checked: The model in torch.
        manifest: The program's manifest.
        folder: Where its files lie.

    Raises:
        ExportError: If a runtime cannot load or run its files, or gives something else than autograd.
    """
    try:
        programs = (load_onnx_program(folder, manifest), load_executorch_program(folder, manifest))
        verifications = tuple(verify_program(checked, program) for program in programs)
        for layers in manifest.partials or ():
            verify_program(checked, load_onnx_program(folder, manifest, layers), layers)
            verify_program(checked, load_executorch_program(folder, manifest, layers=layers), layers)
    except (ManifestError, ProgramError) as error:
        raise ExportError(f"the exported program does not run: {error}") from error
    return verifications


def verify_program(
    checked: CheckedModel, program: TrainingProgram, layers: Collection[str] | None = None
) -> Verification:
    """Return how far the program is from autograd, over random batches of several sizes with every class among the targets.

    Args:
        checked: The model in torch.
        program: The same model in the runtime that devices use.
        layers: Whose gradients it gives, beside the statistics; None: all.

    Raises:
        ExportError: If a layer's gradient or statistics, the logits or the loss are further off than ``TOLERANCE``, or not
            finite.
    """
    generator = torch.Generator().manual_seed(0)
    worst = Verification(program.runtime, dict.fromkeys(program.manifest.layer_names, 0.0), 0.0)
    first = 0
    for size in _sizes(checked):
        for draws_left in reversed(range(MOST_DRAWS)):
            params, batch = _params(checked, generator), draw_batch(checked, size, generator, first)
            try:
                found = _compare(checked, program, params, batch, layers)
            except _WrongError as wrong:
                if draws_left:
                    continue
                raise ExportError(
                    f"{program.runtime} gives {wrong.what} of model {program.manifest.model!r} wrong: relative error "
                    f"{wrong.error:.2g} against autograd (at most {TOLERANCE:g}) in a batch of {size}, and in "
                    f"{MOST_DRAWS - 1} before it; nothing was written"
                ) from wrong
            worst = Verification(
                program.runtime,
                {layer: max(error, found.errors[layer]) for layer, error in worst.errors.items()},
                max(worst.output_error, found.output_error),
            )
            first += size
            break
    return worst


class _WrongError(Exception):
    """A result that is further off than the tolerance, or not a number."""

    def __init__(self, what: str, error: float) -> None:
        """Say which result, and by how much."""
        super().__init__(what, error)
        self.what, self.error = what, error


def _compare(
    checked: CheckedModel,
    program: TrainingProgram,
    params: Mapping[str, np.ndarray],
    batch: Batch,
    layers: Collection[str] | None,
) -> Verification:
    """Return how far the program is from autograd on one batch.

    Raises:
        _WrongError: If that is too far.
    """

    def within(what: str, error: float) -> float:
        if not error <= TOLERANCE:  # one that is not a number is above every tolerance
            raise _WrongError(what, error)
        return error

    expected = run_autograd(checked, params, batch)
    found = program.train_step(params, batch.inputs, batch.targets, batch.masks)
    predicted, evaluated = program.predict(params, batch.inputs), _evaluate(checked, params, batch.inputs)
    output_error = max(
        within("the loss", _relative_error(np.float32(found.loss), np.float32(expected.loss), 0.0)),
        within("the logits in training", _relative_error(found.logits, expected.logits, 0.0)),
        within("the predicted logits", _relative_error(predicted, evaluated, 0.0)),
    )
    floor = FLOOR * max(float(np.abs(gradient).max()) for gradient in expected.gradients.values())
    errors = dict.fromkeys(program.manifest.layer_names, 0.0)
    for layer in program.manifest.layers:
        if not (layers is None or layer.kind or layer.name in layers):
            continue
        names = [parameter.name for parameter in layer.parameters]
        error = _relative_error(_flat(found, names), _flat(expected, names), floor)
        errors[layer.name] = within(
            f"{'the new values' if layer.kind else 'the gradient'} of layer {layer.name!r}", error
        )
    return Verification(program.runtime, errors, output_error)


class Batch(NamedTuple):
    """What a step takes beside the parameters; see ``TrainingProgram``."""

    inputs: np.ndarray
    targets: np.ndarray
    masks: tuple[np.ndarray, ...]


def draw_batch(checked: CheckedModel, size: int, generator: torch.Generator, first: int = 0) -> Batch:
    """Return a random batch that the model could meet; targets that are classes come in turn, from this one on."""
    model = checked.model
    masks = (
        torch.bernoulli(torch.full((size, *mask.shape), 1 - mask.probability), generator=generator)
        / (1 - mask.probability)
        for mask in checked.masks
    )
    inputs, targets = model.draw_inputs(size, generator), model.draw_targets(size, generator, first)
    return Batch(inputs.numpy(), targets.numpy(), tuple(mask.numpy() for mask in masks))


def run_autograd(checked: CheckedModel, params: Mapping[str, np.ndarray], batch: Batch) -> TrainStep:
    """Return what torch says, with its own loss and its own batch norm.

    Args:
        checked: The model.
        params: Every parameter and running statistic; they stay as they are.
        batch: From ``draw_batch``.
    """
    named = {name: torch.from_numpy(values.copy()) for name, values in params.items()}
    trained = {name: values.requires_grad_() for name, values in named.items() if name not in checked.statistics}
    pure = PureFunctions({}, [torch.from_numpy(mask) for mask in batch.masks])
    with without_counters(checked.model.module), masked_dropouts(pure):
        logits = torch.func.functional_call(checked.model.module, named, (torch.from_numpy(batch.inputs),))
    loss = torch_loss(checked.model.loss, logits, torch.from_numpy(batch.targets))
    gradients = torch.autograd.grad(loss, list(trained.values()))
    arrays = (gradient.numpy() for gradient in gradients)
    statistics = {name: named[name].numpy() for name in checked.statistics}
    return TrainStep(loss.item(), logits.detach().numpy(), dict(zip(trained, arrays, strict=True)), statistics)


def _flat(step: TrainStep, names: list[str]) -> np.ndarray:
    """Return one layer's gradient, or its statistics, as a vector."""
    held = {**step.gradients, **step.statistics}
    return np.concatenate([held[name].reshape(-1) for name in names])


def _sizes(checked: CheckedModel) -> list[int]:
    """Return sizes of batches, and more until every class has been among the targets."""
    sizes = MIXED_SIZES if checked.statistics else BATCH_SIZES
    return [*sizes, *(LARGEST_BATCH,) * -(-max(checked.model.num_classes - sum(sizes), 0) // LARGEST_BATCH)]


def _params(checked: CheckedModel, generator: torch.Generator) -> dict[str, np.ndarray]:
    """Return the initial values with noise; running variances stay positive."""
    params = {
        name: (values + NOISE * torch.randn(values.shape, generator=generator)).numpy()
        for name, values in checked.initial_values().items()
    }
    return params | {name: np.abs(params[name]) for name in checked.statistics if name.endswith("var")}


def _evaluate(checked: CheckedModel, params: Mapping[str, np.ndarray], inputs: np.ndarray) -> np.ndarray:
    """Return torch's logits of the module in evaluation."""
    named = {name: torch.from_numpy(values) for name, values in params.items()}
    with evaluating(checked.model.module), torch.no_grad():
        logits: torch.Tensor = torch.func.functional_call(checked.model.module, named, (torch.from_numpy(inputs),))
    return logits.numpy()


def _relative_error(found: np.ndarray | np.float32, expected: np.ndarray | np.float32, floor: float) -> float:
    """Return the greatest error over the greatest expected value, or over the floor if that is more."""
    scale = max(float(np.abs(expected).max()), floor, float(np.finfo(np.float32).tiny))
    return float(np.abs(found - expected).max()) / scale
