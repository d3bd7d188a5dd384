"""The program in ExecuTorch: the small runtime of phones and boards.

It runs without torch, through a C interface that is compiled on the device (``edge_client.native``), or through
executorch's Python package, which imports torch (``edge_client.executorch_torch``). Importing this module is cheap.

Memory is planned when the model is exported, for a largest batch that the file names. A greater batch runs in pieces
(``edge_client.pieces``).
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from edge_client.executorch_method import FLOAT32, INT64, LoadMethod, Method, TensorSpec
from edge_client.executorch_torch import torch_loader
from edge_client.native.method import native_loader
from edge_client.pieces import predict_in_pieces, train_in_pieces
from edge_client.program import Params, TrainStep
from edge_client.program_check import check_batch, check_inputs, check_params, read_program_file, train_step_of
from wire.errors import ManifestError, ProgramError
from wire.manifest import ModelManifest, ParameterSpec

__all__ = ["ExecutorchProgram", "executorch_loader", "load_executorch_program"]

log = logging.getLogger(__name__)


class ExecutorchProgram:
    """A training program in two ExecuTorch methods; implements ``TrainingProgram``.

    Args:
        manifest: What the program takes and gives.
        train: The loaded ``train.pte``.
        predict: The loaded ``predict.pte``.
        stem: Of the training file, as ``ModelManifest.program_for`` gives it.
        given: The parameters of which ``train`` gives a result; None: all.

    Raises:
        ManifestError: If a file does not take and give what the manifest says.
    """

    runtime = "executorch"

    def __init__(
        self,
        manifest: ModelManifest,
        train: Method,
        predict: Method,
        stem: str = "train",
        given: tuple[ParameterSpec, ...] | None = None,
    ) -> None:
        """Hold the files against the manifest."""
        self.manifest = manifest
        self._train_name = f"{stem}.pte"
        self._given = manifest.parameters if given is None else given
        self._names = tuple(parameter.name for parameter in manifest.parameters)
        self._train, self._predict = train, predict
        self._largest_batch = min(_largest_batch(method, len(self._names)) for method in (train, predict))
        batch = self._largest_batch
        params: list[TensorSpec] = [(parameter.shape, FLOAT32) for parameter in manifest.parameters]
        inputs: TensorSpec = ((batch, *manifest.input_shape), FLOAT32)
        targets: TensorSpec = ((batch, *manifest.target_shape), INT64 if manifest.has_classes else FLOAT32)
        masks: list[TensorSpec] = [((batch, *mask.shape), FLOAT32) for mask in manifest.masks or ()]
        results: list[TensorSpec] = [(parameter.shape, FLOAT32) for parameter in self._given]
        logits: TensorSpec = ((batch, *manifest.output_shape), FLOAT32)
        _check_tensors(manifest, f"{stem}.pte takes", train.inputs, [*params, inputs, targets, *masks])
        _check_tensors(manifest, f"{stem}.pte gives", train.outputs, [((), FLOAT32), logits, *results])
        _check_tensors(manifest, "predict.pte takes", predict.inputs, [*params, inputs])
        _check_tensors(manifest, "predict.pte gives", predict.outputs, [logits])

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
        arrays = [params[name] for name in self._names]

        def step(*batch: np.ndarray) -> TrainStep:
            return train_step_of(
                self.manifest, self._given, self._run(self._train_name, self._train, [*arrays, *batch])
            )

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
        arrays = [params[name] for name in self._names]

        def predict(x: np.ndarray) -> np.ndarray:
            return self._run("predict.pte", self._predict, [*arrays, x])[0]

        return predict_in_pieces(predict, inputs, self._largest_batch)

    def _run(self, name: str, method: Method, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Return the method's outputs as arrays of their own."""
        try:
            return method.run(arrays)
        except ProgramError as error:
            raise ProgramError(f"ExecuTorch cannot run {name} of model {self.manifest.model!r}: {error}") from error


def load_executorch_program(
    folder: Path, manifest: ModelManifest, load: LoadMethod | None = None, layers: Collection[str] = ()
) -> ExecutorchProgram:
    """Return the program of ``train.pte``, or a smaller one, and ``predict.pte`` in this folder.

    Args:
        folder: Where the files lie.
        manifest: What they must be: their digests, and what they take and give.
        load: How they are loaded; absent: as ``executorch_loader`` chooses.
        layers: Whose gradients are asked for; none is all.

    Raises:
        ManifestError: If a file is not the one that the manifest names, or not what the manifest says.
        ProgramError: If ExecuTorch is not installed, or a file cannot be read, loaded or run.
    """
    stem, given = manifest.program_for(layers)
    train = read_program_file(folder, manifest, f"{stem}.pte")
    predict = read_program_file(folder, manifest, "predict.pte")
    load = load or executorch_loader()
    methods: list[Method] = []
    for name, data, num_batched in (
        (f"{stem}.pte", train, 2 + len(manifest.masks or ())),
        ("predict.pte", predict, 1),
    ):
        try:
            methods.append(load(data, num_batched))
        except ProgramError as error:
            raise ProgramError(f"ExecuTorch cannot load {folder / name}: {error}") from error
    program = ExecutorchProgram(manifest, methods[0], methods[1], stem, given)
    log.info("ExecuTorch runs model %r %s", manifest.model, methods[0].way)
    return program


def executorch_loader() -> LoadMethod:
    """Return the way to run ExecuTorch here: without torch where that can be, through torch otherwise.

    Raises:
        ProgramError: If there is neither; it says what each lacks.
    """
    try:
        return native_loader()
    except ProgramError as error:
        lacking = str(error)
    try:
        loader = torch_loader()
    except ProgramError as error:
        raise ProgramError(
            f"ExecuTorch cannot run here: {lacking}; nor through torch: {error}; see docs/install.md"
        ) from error
    log.info("ExecuTorch runs through torch, in more memory: %s", lacking)
    return loader


def _largest_batch(method: Method, num_parameters: int) -> int:
    """Return the greatest batch for which the method has memory; 1 if it takes no batch."""
    inputs = method.inputs
    shape = inputs[num_parameters][0] if len(inputs) > num_parameters else ()
    return max(1, shape[0]) if shape else 1


def _check_tensors(manifest: ModelManifest, what: str, found: list[TensorSpec], expected: list[TensorSpec]) -> None:
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
