"""Batches in pieces: the same step with the memory of fewer examples.

The loss is a mean over examples, so the means of the pieces' losses and gradients, weighted by their sizes, are those of the
batch; but for a program with running statistics, which normalizes each piece by itself (E. Hoffer et al., "Train longer,
generalize better", NeurIPS 2017, call that ghost batch normalization). They are added up piece after piece, in float32:
gradients are never there more than twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from edge_client.program import Params, TrainingProgram, TrainStep
from wire.errors import ProgramError
from wire.manifest import ModelManifest

__all__ = ["PiecewiseProgram", "examples_within", "predict_in_pieces", "train_in_pieces"]

MEGABYTE = 10**6


class PiecewiseProgram:
    """A program that is given so many examples at once; implements ``TrainingProgram``.

    Args:
        program: What runs the pieces.
        most_examples: In a piece, at least 1.
    """

    def __init__(self, program: TrainingProgram, most_examples: int) -> None:
        """Run nothing yet."""
        self.runtime = program.runtime
        self.manifest = program.manifest
        self._program = program
        self._most_examples = most_examples

    def train_step(
        self, params: Params, inputs: np.ndarray, targets: np.ndarray, masks: Sequence[np.ndarray] = ()
    ) -> TrainStep:
        """Run one forward and backward pass, piece after piece; see ``TrainingProgram``."""

        def step(x: np.ndarray, y: np.ndarray, *masks: np.ndarray) -> TrainStep:
            return self._program.train_step(params, x, y, masks)

        return train_in_pieces(step, (inputs, targets, *masks), self._most_examples)

    def predict(self, params: Params, inputs: np.ndarray) -> np.ndarray:
        """Return the logits, shape ``(batch, *output_shape)``, float32."""
        return predict_in_pieces(lambda x: self._program.predict(params, x), inputs, self._most_examples)


def examples_within(manifest: ModelManifest, budget_mb: int) -> int:
    """Return how many examples can be computed at once within a budget, at least 1.

    Args:
        manifest: Says what a step needs.
        budget_mb: The most that a step's values may take, in 10**6 bytes.

    Raises:
        ProgramError: If the manifest does not say it, or one example needs more.
    """
    memory = manifest.memory
    if not memory:
        raise ProgramError(
            f"model {manifest.model!r} does not say how much memory it needs, which `memory_mb` asks for; export it again"
        )
    budget_bytes = budget_mb * MEGABYTE
    if memory.fixed_bytes + memory.example_bytes > budget_bytes:
        needed_mb = math.ceil((memory.fixed_bytes + memory.example_bytes) / MEGABYTE)
        raise ProgramError(
            f"model {manifest.model!r} needs {needed_mb} MB for one example, this device allows {budget_mb}: "
            "raise `memory_mb`, or give its fleet a smaller model"
        )
    return (budget_bytes - memory.fixed_bytes) // memory.example_bytes


def train_in_pieces(step: Callable[..., TrainStep], batch: tuple[np.ndarray, ...], most_examples: int) -> TrainStep:
    """Return the step of a whole batch.

    Args:
        step: Runs a piece; what it gives is its caller's.
        batch: What it takes: inputs, targets and masks, all with one first dimension.
        most_examples: In a piece, at least 1.
    """
    num_examples = len(batch[0])
    if num_examples <= most_examples:
        return step(*batch)
    loss, logits = 0.0, []
    gradients: dict[str, np.ndarray] = {}
    statistics: dict[str, np.ndarray] = {}
    for rows in _pieces(num_examples, most_examples):
        piece = step(*(values[rows] for values in batch))
        share = len(piece.logits) / num_examples
        loss += share * piece.loss
        logits.append(piece.logits)
        _add(gradients, piece.gradients, share)
        _add(statistics, piece.statistics, share)
    return TrainStep(loss, np.concatenate(logits), gradients, statistics)


def predict_in_pieces(
    predict: Callable[[np.ndarray], np.ndarray], inputs: np.ndarray, most_examples: int
) -> np.ndarray:
    """Return the logits of a whole batch; see ``train_in_pieces``."""
    if len(inputs) <= most_examples:
        return predict(inputs)
    return np.concatenate([predict(inputs[rows]) for rows in _pieces(len(inputs), most_examples)])


def _add(sums: dict[str, np.ndarray], piece: Mapping[str, np.ndarray], share: float) -> None:
    for name, values in piece.items():
        part = np.asarray(values * np.float32(share))
        if name in sums:
            sums[name] += part
        else:
            sums[name] = part


def _pieces(num_examples: int, most_examples: int) -> list[slice]:
    return [slice(start, start + most_examples) for start in range(0, num_examples, most_examples)]
