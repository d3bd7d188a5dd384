"""How good a model is on a split: mean loss and accuracy, for each of the losses that a program can train for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wire.manifest import ModelManifest
from wire.messages import Measurement

__all__ = ["LARGEST_LOSS", "Score"]

LARGEST_LOSS = 20.0
"""An example's loss is cut here: a single one must not decide a mean over few. For values, whose errors are squared, that
asks for targets of about unit variance."""

Float64 = NDArray[np.float64]


class Score:
    """A sum over batches of examples.

    Args:
        manifest: Of the model that is measured.
        targets: Of the whole split; see ``TrainingProgram``.
    """

    def __init__(self, manifest: ModelManifest, targets: np.ndarray) -> None:
        """Start without examples."""
        self._manifest = manifest
        self._spread = 0.0 if manifest.has_classes else float(np.square(targets - targets.mean(axis=0)).sum())
        self._loss = self._right = self._error = 0.0
        self._num_examples = 0

    def add(self, logits: np.ndarray, targets: np.ndarray) -> None:
        """Add a batch.

        Args:
            logits: Shape ``(batch, *output_shape)``, float32; what is not finite counts as wrong.
            targets: Shape ``(batch, *target_shape)``.
        """
        found = logits.astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            losses = _losses(self._manifest, found, targets).reshape(len(targets), -1).mean(axis=1)
            self._error += float(np.square(found - targets).sum()) if self._is_regression else 0.0
        self._loss += float(np.minimum(np.nan_to_num(losses, nan=LARGEST_LOSS), LARGEST_LOSS).sum())
        if self._manifest.has_classes:
            self._right += float((found.argmax(axis=-1) == targets).reshape(len(targets), -1).mean(axis=1).sum())
        elif not self._is_regression:
            self._right += float(((found > 0) == (targets > 0.5)).reshape(len(targets), -1).mean(axis=1).sum())  # noqa: PLR2004 - half
        self._num_examples += len(targets)

    def measurement(self) -> Measurement:
        """Return mean loss and accuracy.

        Accuracy is the share of right classes or labels. For values it is the coefficient of determination, at least 0: the
        share of the targets' variance in this split that the model explains.
        """
        accuracy = self._right / self._num_examples
        if self._is_regression and np.isfinite(self._error):
            accuracy = max(0.0, 1 - self._error / self._spread) if self._spread else float(self._error == 0)
        return Measurement(self._loss / self._num_examples, accuracy, self._num_examples)

    @property
    def _is_regression(self) -> bool:
        return self._manifest.loss in {"mse", "huber"}


def _losses(manifest: ModelManifest, logits: Float64, targets: np.ndarray) -> Float64:
    """Return the loss of every position and output."""
    losses: Float64
    if manifest.has_classes:
        shifted = logits - logits.max(axis=-1, keepdims=True)
        chosen = np.take_along_axis(shifted, targets[..., None], axis=-1)[..., 0]
        losses = np.log(np.exp(shifted).sum(axis=-1)) - chosen
    elif manifest.loss == "binary-cross-entropy":
        losses = np.logaddexp(0, logits) - logits * targets
    elif manifest.loss == "huber":
        error = logits - targets
        cut = error.clip(-1, 1)
        losses = cut * error - 0.5 * cut * cut
    else:
        losses = np.square(logits - targets)
    return losses
