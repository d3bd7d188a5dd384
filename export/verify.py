"""Every exported program, run by the deployed runtimes, held against torch's autograd.

Exporters and runtimes make silent mistakes (docs/export.md has three), so no program is published on their word.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from edge_client.executorch_program import load_executorch_program
from edge_client.onnx_program import load_onnx_program
from edge_client.program import TrainingProgram, TrainStep
from export.joint_graph import LARGEST_BATCH
from export.models import TrainableModel
from wire.errors import ExportError, ManifestError, ProgramError
from wire.manifest import ModelManifest

__all__ = ["TOLERANCE", "Verification", "verify_files", "verify_program"]

TOLERANCE = 1e-4
"""The greatest relative error of a layer's gradient, of the logits and of the loss."""

FLOOR = 1e-2
"""A layer's error is relative to its greatest gradient, or to this share of the model's if that is more: a gradient that
cancels to nothing, as a bias before a norm has, is all rounding."""

BATCH_SIZES = (1, 2, 13, LARGEST_BATCH, LARGEST_BATCH + 6)
"""Sizes that were not traced; the last runs in pieces where a runtime plans its memory."""

NOISE = 0.05
"""Standard deviation of what is added to the initial values, so that zeros and ones are not special."""


@dataclass(frozen=True)
class Verification:
    """How far a program is from autograd.

    Args:
        runtime: The runtime that ran it.
        errors: Layer name -> the greatest relative error of its gradient, over all batches.
        output_error: The greatest relative error of loss and logits.
    """

    runtime: str
    errors: dict[str, float]
    output_error: float


def verify_files(model: TrainableModel, manifest: ModelManifest, folder: Path) -> tuple[Verification, ...]:
    """Load the program's files as a device does, and return how far each runtime is from autograd.

    Args:
        model: The model in torch.
        manifest: The program's manifest.
        folder: Where its files lie.

    Raises:
        ExportError: If a runtime cannot load or run its files, or gives something else than autograd.
    """
    try:
        programs = (load_onnx_program(folder, manifest), load_executorch_program(folder, manifest))
        return tuple(verify_program(model, program) for program in programs)
    except (ManifestError, ProgramError) as error:
        raise ExportError(f"the exported program does not run: {error}") from error


def verify_program(model: TrainableModel, program: TrainingProgram) -> Verification:
    """Return how far the program is from autograd, over random batches of several sizes with every class among the targets.

    Args:
        model: The model in torch.
        program: The same model in the runtime that devices use.

    Raises:
        ExportError: If a layer's gradient, the logits or the loss are further off than ``TOLERANCE``, or not finite.
    """
    generator = np.random.default_rng(0)
    errors = dict.fromkeys(program.manifest.layer_names, 0.0)
    output_error = 0.0
    for inputs, targets in _batches(model, generator):
        params = {
            name: values.detach().numpy() + generator.normal(0, NOISE, tuple(values.shape)).astype(np.float32)
            for name, values in model.module.named_parameters()
        }
        expected = _autograd(model, params, inputs, targets)
        found = program.train_step(params, inputs, targets)
        predicted = program.predict(params, inputs)
        for what, error in (
            ("the loss", _relative_error(np.float32(found.loss), np.float32(expected.loss), 0.0)),
            ("the logits in training", _relative_error(found.logits, expected.logits, 0.0)),
            ("the predicted logits", _relative_error(predicted, expected.logits, 0.0)),
        ):
            _refuse_above_tolerance(program, what, error, len(inputs))
            output_error = max(output_error, error)
        floor = FLOOR * max(float(np.abs(gradient).max()) for gradient in expected.gradients.values())
        for layer in program.manifest.layers:
            names = [parameter.name for parameter in layer.parameters]
            error = _relative_error(_flat(found, names), _flat(expected, names), floor)
            _refuse_above_tolerance(program, f"the gradient of layer {layer.name!r}", error, len(inputs))
            errors[layer.name] = max(errors[layer.name], error)
    return Verification(program.runtime, errors, output_error)


def _batches(model: TrainableModel, generator: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield batches of every size, and more until every class has been among the targets."""
    classes = itertools.cycle(generator.permutation(model.num_classes).tolist())
    more = -(-max(model.num_classes - sum(BATCH_SIZES), 0) // LARGEST_BATCH)
    for size in (*BATCH_SIZES, *(LARGEST_BATCH,) * more):
        inputs = generator.normal(size=(size, *model.input_shape)).astype(np.float32)
        yield inputs, np.array(list(itertools.islice(classes, size)), dtype=np.int64)


def _autograd(
    model: TrainableModel, params: dict[str, np.ndarray], inputs: np.ndarray, targets: np.ndarray
) -> TrainStep:
    """Return what torch says, with its own cross-entropy."""
    named = {name: torch.from_numpy(values).requires_grad_() for name, values in params.items()}
    logits = torch.func.functional_call(model.module, named, (torch.from_numpy(inputs),))
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(targets))
    gradients = torch.autograd.grad(loss, list(named.values()))
    arrays = (gradient.numpy() for gradient in gradients)
    return TrainStep(loss.item(), logits.detach().numpy(), dict(zip(named, arrays, strict=True)))


def _flat(step: TrainStep, names: list[str]) -> np.ndarray:
    """Return one layer's gradient as a vector."""
    return np.concatenate([step.gradients[name].reshape(-1) for name in names])


def _relative_error(found: np.ndarray | np.float32, expected: np.ndarray | np.float32, floor: float) -> float:
    """Return the greatest error over the greatest expected value, or over the floor if that is more."""
    scale = max(float(np.abs(expected).max()), floor, float(np.finfo(np.float32).tiny))
    return float(np.abs(found - expected).max()) / scale


def _refuse_above_tolerance(program: TrainingProgram, what: str, error: float, num_examples: int) -> None:
    """Refuse the program; an error that is not a number is above every tolerance."""
    if not error <= TOLERANCE:
        raise ExportError(
            f"{program.runtime} gives {what} of model {program.manifest.model!r} wrong: relative error {error:.2g} against "
            f"autograd (at most {TOLERANCE:g}) in a batch of {num_examples}; nothing was written"
        )
