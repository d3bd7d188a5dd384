"""The program in ExecuTorch: the small runtime of phones and boards.

Importing this module is cheap; ``load_executorch_program`` imports the runtime, and with it torch.

Memory is planned when the model is exported, for a largest batch that the file names. A greater batch runs in pieces
(``edge_client.pieces``).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_client.pieces import predict_in_pieces, train_in_pieces
from edge_client.program import Params, TrainStep
from edge_client.program_check import check_batch, check_inputs, check_params, read_program_file, train_step_of
from wire.errors import ManifestError, ProgramError
from wire.manifest import ModelManifest

__all__ = ["ExecutorchProgram", "load_executorch_program"]

FLOAT32 = 6
INT64 = 4
"""ExecuTorch's codes for the types of tensors."""

Tensor = tuple[tuple[int, ...], int]
"""Shape and type code."""


class ExecutorchProgram:
    """A training program in two ExecuTorch methods; implements ``TrainingProgram``.

    Args:
        manifest: What the program takes and gives.
        train_file: The loaded ``train.pte``.
        predict_file: The loaded ``predict.pte``.

    Raises:
        ManifestError: If a file does not take and give what the manifest says.
        ProgramError: If the runtime lacks a kernel that the program needs.
    """

    runtime = "executorch"

    def __init__(self, manifest: ModelManifest, train_file: Any, predict_file: Any) -> None:
        """Hold the files against the manifest."""
        self.manifest = manifest
        self._names = tuple(parameter.name for parameter in manifest.parameters)
        # A method does not keep its program alive, nor a program its bytes; without them the process would crash. A file
        # keeps its bytes and its method, so the files are what is kept here.
        self._train_file, self._predict_file = train_file, predict_file
        train = _load_method(manifest, "train.pte", train_file)
        predict = _load_method(manifest, "predict.pte", predict_file)
        self._largest_batch = min(_largest_batch(method, len(self._names)) for method in (train, predict))
        batch = self._largest_batch
        params: list[Tensor] = [(parameter.shape, FLOAT32) for parameter in manifest.parameters]
        inputs: Tensor = ((batch, *manifest.input_shape), FLOAT32)
        targets: Tensor = ((batch, *manifest.target_shape), INT64 if manifest.has_classes else FLOAT32)
        masks: list[Tensor] = [((batch, *mask.shape), FLOAT32) for mask in manifest.masks or ()]
        logits: Tensor = ((batch, *manifest.output_shape), FLOAT32)
        _check_tensors(manifest, "train.pte takes", _inputs(train), [*params, inputs, targets, *masks])
        _check_tensors(manifest, "train.pte gives", _outputs(train), [((), FLOAT32), logits, *params])
        _check_tensors(manifest, "predict.pte takes", _inputs(predict), [*params, inputs])
        _check_tensors(manifest, "predict.pte gives", _outputs(predict), [logits])

    def train_step(
        self, params: Params, inputs: np.ndarray, targets: np.ndarray, masks: Sequence[np.ndarray] = ()
    ) -> TrainStep:
        """Run one forward and backward pass; nothing is updated.

        Args:
            params: Every parameter of the manifest, float32.
            inputs: Shape ``(batch, *input_shape)``, float32.
            targets: Shape ``(batch, *target_shape)``, int64 in ``[0, num_classes)`` or float32.
            masks: The manifest's, each of shape ``(batch, *shape)``, float32.

        Returns:
            Loss, logits, gradients and new statistics, in arrays of their own.

        Raises:
            ProgramError: If a shape, a type or a target is wrong, or the runtime fails.
        """
        check_params(self.manifest, params)
        check_batch(self.manifest, inputs, targets, masks)
        tensors = [_tensor(params[name]) for name in self._names]

        def step(*batch: np.ndarray) -> TrainStep:
            loss, logits, *results = self._run("train.pte", self._train_file, [*tensors, *map(_tensor, batch)])
            return train_step_of(self.manifest, loss, logits, results)

        return train_in_pieces(step, (inputs, targets, *masks), self._largest_batch)

    def predict(self, params: Params, inputs: np.ndarray) -> np.ndarray:
        """Return the logits, shape ``(batch, *output_shape)``, float32.

        Args:
            params: Every parameter of the manifest, float32.
            inputs: Shape ``(batch, *input_shape)``, float32.

        Raises:
            ProgramError: If a shape or a type is wrong, or the runtime fails.
        """
        check_params(self.manifest, params)
        check_inputs(self.manifest, inputs)
        tensors = [_tensor(params[name]) for name in self._names]

        def predict(x: np.ndarray) -> np.ndarray:
            return self._run("predict.pte", self._predict_file, [*tensors, _tensor(x)])[0]

        return predict_in_pieces(predict, inputs, self._largest_batch)

    def _run(self, name: str, file: Any, tensors: list[Any]) -> list[np.ndarray]:
        """Return the method's outputs as arrays of their own."""
        try:
            return [output.numpy() for output in file.load_method("forward").execute(tensors)]
        except RuntimeError as error:
            raise ProgramError(f"ExecuTorch cannot run {name} of model {self.manifest.model!r}: {error}") from error


def load_executorch_program(folder: Path, manifest: ModelManifest) -> ExecutorchProgram:
    """Return the program of ``train.pte`` and ``predict.pte`` in this folder.

    Args:
        folder: Where the files lie.
        manifest: What they must be: their digests, and what they take and give.

    Raises:
        ManifestError: If a file is not the one that the manifest names, or not what the manifest says.
        ProgramError: If ExecuTorch is not installed, or a file cannot be read or loaded.
    """
    train = read_program_file(folder, manifest, "train.pte")
    predict = read_program_file(folder, manifest, "predict.pte")
    load = _import_runtime()
    files = []
    for name, data in (("train.pte", train), ("predict.pte", predict)):
        try:
            files.append(load(data))
        except RuntimeError as error:
            raise ProgramError(f"ExecuTorch cannot load {folder / name}: {error}") from error
    return ExecutorchProgram(manifest, *files)


def _import_runtime() -> Callable[[bytes], Any]:
    """Return the function that loads a program's bytes; torch is imported here."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "This API is experimental", on import
            from executorch.runtime import Runtime  # noqa: PLC0415 - whoever runs ONNX pays for no torch
    except ImportError as error:
        raise ProgramError(
            f"ExecuTorch cannot be imported ({error}); docs/install.md says what the role export needs"
        ) from error
    load: Callable[[bytes], Any] = Runtime.get().load_program
    return load


def _load_method(manifest: ModelManifest, name: str, file: Any) -> Any:
    """Return the file's one method, ready to run."""
    try:
        return file.load_method("forward")
    except (KeyError, RuntimeError) as error:
        raise ProgramError(f"ExecuTorch cannot load {name} of model {manifest.model!r}: {error}") from error


def _tensor(values: np.ndarray) -> Any:
    """Return a tensor over the same memory where torch allows it: contiguous and writable."""
    import torch  # noqa: PLC0415 - whoever runs ONNX pays for no torch

    return torch.from_numpy(np.require(values, requirements=("C", "W")))


def _inputs(method: Any) -> list[Tensor]:
    """Return shape and type of all that the method takes."""
    metadata = method.metadata
    return [_described(metadata.input_tensor_meta(i)) for i in range(metadata.num_inputs())]


def _outputs(method: Any) -> list[Tensor]:
    """Return shape and type of all that the method gives."""
    metadata = method.metadata
    return [_described(metadata.output_tensor_meta(i)) for i in range(metadata.num_outputs())]


def _described(tensor: Any) -> Tensor:
    """Return shape and type of one tensor."""
    return tuple(tensor.sizes()), tensor.dtype()


def _largest_batch(method: Any, num_parameters: int) -> int:
    """Return the greatest batch for which the method has memory; 1 if it takes no batch."""
    inputs = _inputs(method)
    shape = inputs[num_parameters][0] if len(inputs) > num_parameters else ()
    return max(1, shape[0]) if shape else 1


def _check_tensors(manifest: ModelManifest, what: str, found: list[Tensor], expected: list[Tensor]) -> None:
    """Refuse a method whose inputs or outputs differ from the manifest's in number, shape or type."""
    if len(found) != len(expected):
        raise ManifestError(
            f"{what} {len(found)} tensors, the manifest of model {manifest.model!r} says {len(expected)}"
        )
    for position, (tensor, planned) in enumerate(zip(found, expected, strict=True), start=1):
        if tensor != planned:
            raise ManifestError(
                f"tensor {position} that {what} has shape {tensor[0]} and type code {tensor[1]}, "
                f"the manifest of model {manifest.model!r} says {planned[0]} and {planned[1]}"
            )
