"""Batches in pieces: the same step with the memory of fewer examples.

The loss is a mean over examples, and no program mixes them otherwise, so the means of the pieces' losses and gradients,
weighted by their sizes, are those of the batch. They are added up piece after piece, in float32: gradients are never there
more than twice.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edge_client.program import Params, TrainingProgram, TrainStep

__all__ = ["PiecewiseProgram", "predict_in_pieces", "train_in_pieces"]


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

    def train_step(self, params: Params, inputs: np.ndarray, targets: np.ndarray) -> TrainStep:
        """Run one forward and backward pass, piece after piece; see ``TrainingProgram``."""

        def step(x: np.ndarray, y: np.ndarray) -> TrainStep:
            return self._program.train_step(params, x, y)

        return train_in_pieces(step, inputs, targets, self._most_examples)

    def predict(self, params: Params, inputs: np.ndarray) -> np.ndarray:
        """Return the logits, shape ``(batch, num_classes)``, float32."""
        return predict_in_pieces(lambda x: self._program.predict(params, x), inputs, self._most_examples)


def train_in_pieces(
    step: Callable[[np.ndarray, np.ndarray], TrainStep], inputs: np.ndarray, targets: np.ndarray, most_examples: int
) -> TrainStep:
    """Return the step of a whole batch.

    Args:
        step: Runs a piece; what it gives is its caller's.
        inputs: Shape ``(batch, *input_shape)``.
        targets: Shape ``(batch,)``.
        most_examples: In a piece, at least 1.
    """
    if len(inputs) <= most_examples:
        return step(inputs, targets)
    loss, logits = 0.0, []
    gradients: dict[str, np.ndarray] = {}
    for rows in _pieces(len(inputs), most_examples):
        piece = step(inputs[rows], targets[rows])
        share = len(piece.logits) / len(inputs)
        loss += share * piece.loss
        logits.append(piece.logits)
        for name, gradient in piece.gradients.items():
            part = np.asarray(gradient * np.float32(share))
            if name in gradients:
                gradients[name] += part
            else:
                gradients[name] = part
    return TrainStep(loss, np.concatenate(logits), gradients)


def predict_in_pieces(
    predict: Callable[[np.ndarray], np.ndarray], inputs: np.ndarray, most_examples: int
) -> np.ndarray:
    """Return the logits of a whole batch; see ``train_in_pieces``."""
    if len(inputs) <= most_examples:
        return predict(inputs)
    return np.concatenate([predict(inputs[rows]) for rows in _pieces(len(inputs), most_examples)])


def _pieces(num_examples: int, most_examples: int) -> list[slice]:
    return [slice(start, start + most_examples) for start in range(0, num_examples, most_examples)]
