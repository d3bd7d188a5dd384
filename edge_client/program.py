"""What a runtime gives: the loss, the logits and the gradients of a batch. All else is NumPy above it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
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
        loss: The batch's mean loss; cross-entropies are in nats.
        logits: Shape ``(batch, *output_shape)``, float32.
        gradients: Parameter name -> gradient of the loss, float32, in the parameter's shape.
        statistics: Running statistic -> its new value, float32, in its shape.
    """

    loss: float
    logits: np.ndarray
    gradients: dict[str, np.ndarray]
    statistics: Mapping[str, np.ndarray] = MappingProxyType({})


class TrainingProgram(Protocol):
    """A program that one runtime has loaded."""

    runtime: str
    """``onnx`` or ``executorch``."""

    manifest: ModelManifest

    def train_step(
        self, params: Params, inputs: np.ndarray, targets: np.ndarray, masks: Sequence[np.ndarray] = ()
    ) -> TrainStep:
        """Run one forward and backward pass; nothing is updated.

        Args:
            params: Every parameter of the manifest.
            inputs: Shape ``(batch, *input_shape)``, float32.
            targets: Shape ``(batch, *target_shape)``, int64 in ``[0, num_classes)`` or float32.
            masks: The manifest's, each of shape ``(batch, *shape)``, float32.

        Raises:
            ProgramError: If the runtime refuses the batch.
        """
        ...

    def predict(self, params: Params, inputs: np.ndarray) -> np.ndarray:
        """Return the logits, shape ``(batch, *output_shape)``, float32.

        Raises:
            ProgramError: If the runtime refuses the batch.
        """
        ...
