"""What a runtime gives: the loss, the logits and the gradients of a batch. All else is NumPy above it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np

    from wire.manifest import ModelManifest

__all__ = ["Params", "TrainStep", "TrainingProgram"]

Params = Mapping[str, "np.ndarray"]
"""A model's values: parameter name -> float32 array of the manifest's shape."""


class TrainStep(NamedTuple):
    """What one forward and backward pass gives.

    Args:
        loss: Mean cross-entropy of the batch, in nats.
        logits: Shape ``(batch, num_classes)``, float32.
        gradients: Parameter name -> gradient of the loss, float32, in the parameter's shape.
    """

    loss: float
    logits: np.ndarray
    gradients: dict[str, np.ndarray]


class TrainingProgram(Protocol):
    """A program that one runtime has loaded."""

    runtime: str
    """``onnx`` or ``executorch``."""

    manifest: ModelManifest

    def train_step(self, params: Params, inputs: np.ndarray, targets: np.ndarray) -> TrainStep:
        """Run one forward and backward pass; nothing is updated.

        Args:
            params: Every parameter of the manifest.
            inputs: Shape ``(batch, *input_shape)``, float32.
            targets: Shape ``(batch,)``, int64, in ``[0, num_classes)``.

        Raises:
            ProgramError: If the runtime refuses the batch.
        """
        ...

    def predict(self, params: Params, inputs: np.ndarray) -> np.ndarray:
        """Return the logits, shape ``(batch, num_classes)``, float32.

        Raises:
            ProgramError: If the runtime refuses the batch.
        """
        ...
