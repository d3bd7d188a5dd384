"""A training program in plain NumPy: a small perceptron with exact gradients, for fleets that run in a test.

``tanh`` layers with a softmax cross-entropy on top. It computes what an exported program computes, from the manifest
alone, so that a simulated fleet needs neither torch nor a runtime.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_client.program import Params, TrainStep
from wire.digest import content_digest
from wire.manifest import LayerSpec, ModelManifest, ParameterSpec, ProgramFile

__all__ = ["PROGRAM_FILES", "NumpyProgram", "initial_values", "perceptron_manifest"]

PROGRAM_FILES = {
    "train.onnx": b"edge_client.program in NumPy: train",
    "predict.onnx": b"edge_client.program in NumPy: predict",
}
"""What stands for the program's files on the wire: devices fetch them and never look inside."""


def perceptron_manifest(sizes: Sequence[int]) -> ModelManifest:
    """Return the manifest of a perceptron with these numbers of units, from the inputs to the classes.

    The layers are ``hidden``, ``middle``, ``middle2``, ... and the last one ``head``, each with ``weight`` and ``bias``.

    Args:
        sizes: At least two numbers, all at least 1.

    Example:
        >>> [(layer.name, layer.num_params) for layer in perceptron_manifest([4, 8, 6, 3]).layers]
        [('hidden', 40), ('middle', 54), ('head', 21)]
    """
    num_layers = len(sizes) - 1
    middle = ["middle", *(f"middle{index}" for index in range(2, num_layers))]
    names = [*["hidden", *middle][: num_layers - 1], "head"]
    layers = tuple(
        LayerSpec(name, (ParameterSpec(f"{name}.weight", (outputs, inputs)), ParameterSpec(f"{name}.bias", (outputs,))))
        for name, inputs, outputs in zip(names, sizes[:-1], sizes[1:], strict=True)
    )
    files = {name: ProgramFile(content_digest(data), len(data)) for name, data in PROGRAM_FILES.items()}
    return ModelManifest("perceptron", layers, (sizes[0],), sizes[-1], files)


def initial_values(manifest: ModelManifest, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return layer -> random values, float32, shape ``(num_params,)``: weights of variance 1 / inputs, small biases."""
    values = {}
    for layer in manifest.layers:
        weight, bias = (parameter.shape for parameter in layer.parameters)
        drawn = [rng.normal(0, weight[1] ** -0.5, weight).ravel(), rng.normal(0, 0.01, bias)]
        values[layer.name] = np.concatenate(drawn).astype(np.float32)
    return values


class NumpyProgram:
    """A perceptron, as a ``TrainingProgram``.

    Args:
        manifest: From ``perceptron_manifest``.
    """

    runtime = "onnx"

    def __init__(self, manifest: ModelManifest) -> None:
        """Keep the manifest; there are no weights."""
        self.manifest = manifest

    def train_step(
        self,
        params: Params,
        inputs: np.ndarray,
        targets: np.ndarray,
        masks: Sequence[np.ndarray] = (),  # noqa: ARG002 - it has no dropout
    ) -> TrainStep:
        """Return the loss, the logits and the exact gradients of a batch."""
        activations = self._forward(params, inputs)
        logits = activations[-1]
        shifted = logits - logits.max(axis=1, keepdims=True)
        log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        rows = np.arange(len(targets))
        loss = -float(log_probabilities[rows, targets].mean())
        error = np.exp(log_probabilities)
        error[rows, targets] -= 1
        error /= len(targets)
        gradients: dict[str, np.ndarray] = {}
        for index in reversed(range(len(self.manifest.layers))):
            weight, bias = (parameter.name for parameter in self.manifest.layers[index].parameters)
            gradients[weight], gradients[bias] = error.T @ activations[index], error.sum(axis=0)
            error = (error @ params[weight]) * (1 - activations[index] ** 2)
        return TrainStep(
            loss, logits, {parameter.name: gradients[parameter.name] for parameter in self.manifest.parameters}
        )

    def predict(self, params: Params, inputs: np.ndarray) -> np.ndarray:
        """Return the logits, shape ``(batch, num_classes)``, float32."""
        return self._forward(params, inputs)[-1]

    def _forward(self, params: Params, inputs: np.ndarray) -> list[np.ndarray]:
        activations, last = [inputs], len(self.manifest.layers) - 1
        for index, layer in enumerate(self.manifest.layers):
            weight, bias = (parameter.name for parameter in layer.parameters)
            outputs = activations[-1] @ params[weight].T + params[bias]
            activations.append(outputs if index == last else np.tanh(outputs))
        return activations
