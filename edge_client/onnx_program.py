"""The program in ONNX Runtime: NumPy in, NumPy out, no torch. The runtime for devices with Python and little memory.

One thread, a fixed order of operations and deterministic kernels: the same batch gives the same bits, step after step.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from edge_client.program import Params, TrainStep
from edge_client.program_check import (
    LOGITS,
    LOSS,
    check_batch,
    check_inputs,
    check_params,
    mask_name,
    read_program_file,
    result_name,
    train_step_of,
)
from wire.errors import ManifestError, ProgramError
from wire.manifest import ModelManifest, ParameterSpec

__all__ = ["OnnxProgram", "load_onnx_program", "load_session"]

ERRORS_ONLY = 3
"""ONNX Runtime's log severity."""

TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64}

Tensor = tuple[str, tuple[int | None, ...], Any]
"""Name, shape (None where it depends on the batch) and NumPy type."""


class OnnxProgram:
    """A training program in two ONNX Runtime sessions; implements ``TrainingProgram``.

    Args:
        manifest: What the program takes and gives.
        train_session: The session of ``train.onnx``.
        predict_session: The session of ``predict.onnx``.
        stem: Of the training session's file, as ``ModelManifest.program_for`` gives it.
        given: The parameters of which that gives a result; None: all.

    Raises:
        ManifestError: If a session does not take and give what the manifest says.
    """

    runtime = "onnx"

    def __init__(
        self,
        manifest: ModelManifest,
        train_session: onnxruntime.InferenceSession,
        predict_session: onnxruntime.InferenceSession,
        stem: str = "train",
        given: tuple[ParameterSpec, ...] | None = None,
    ) -> None:
        """Hold the sessions against the manifest."""
        self.manifest = manifest
        self._train_name = f"{stem}.onnx"
        self._given = manifest.parameters if given is None else given
        self._names = tuple(parameter.name for parameter in manifest.parameters)
        params: list[Tensor] = [(parameter.name, parameter.shape, np.float32) for parameter in manifest.parameters]
        inputs: Tensor = ("x", (None, *manifest.input_shape), np.float32)
        targets: Tensor = ("y", (None, *manifest.target_shape), np.int64 if manifest.has_classes else np.float32)
        masks: list[Tensor] = [
            (mask_name(index), (None, *mask.shape), np.float32) for index, mask in enumerate(manifest.masks or ())
        ]
        loss: Tensor = (LOSS, (), np.float32)
        logits: Tensor = (LOGITS, (None, *manifest.output_shape), np.float32)
        results = [(result_name(manifest, it.name), it.shape, np.float32) for it in self._given]
        _check_tensors(manifest, f"{stem}.onnx takes", train_session.get_inputs(), [*params, inputs, targets, *masks])
        _check_tensors(manifest, f"{stem}.onnx gives", train_session.get_outputs(), [loss, logits, *results])
        _check_tensors(manifest, "predict.onnx takes", predict_session.get_inputs(), [*params, inputs])
        _check_tensors(manifest, "predict.onnx gives", predict_session.get_outputs(), [logits])
        self._run_train: Callable[..., list[np.ndarray]] = train_session.run
        self._run_predict: Callable[..., list[np.ndarray]] = predict_session.run
        self._outputs = [LOSS, LOGITS, *(name for name, _, _ in results)]

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
        feed = {name: params[name] for name in self._names}
        feed |= {"x": inputs, "y": targets, **{mask_name(index): mask for index, mask in enumerate(masks)}}
        try:
            outputs = self._run_train(self._outputs, feed)
        except Exception as error:
            raise ProgramError(
                f"ONNX Runtime cannot run {self._train_name} of model {self.manifest.model!r}: {error}"
            ) from error
        return train_step_of(self.manifest, self._given, outputs)

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
        feed = {name: params[name] for name in self._names}
        feed["x"] = inputs
        try:
            return self._run_predict([LOGITS], feed)[0]
        except Exception as error:
            raise ProgramError(
                f"ONNX Runtime cannot run predict.onnx of model {self.manifest.model!r}: {error}"
            ) from error


def load_onnx_program(folder: Path, manifest: ModelManifest, layers: Collection[str] = ()) -> OnnxProgram:
    """Return the program of ``train.onnx``, or a smaller one, and ``predict.onnx`` in this folder.

    Args:
        folder: Where the files lie.
        manifest: What they must be: their digests, and what they take and give.
        layers: Whose gradients are asked for; none is all.

    Raises:
        ManifestError: If a file is not the one that the manifest names, or not what the manifest says.
        ProgramError: If a file cannot be read or ONNX Runtime cannot load it.
    """
    onnxruntime.disable_telemetry_events()
    stem, given = manifest.program_for(layers)
    train = load_session(folder / f"{stem}.onnx", read_program_file(folder, manifest, f"{stem}.onnx"))
    predict = load_session(folder / "predict.onnx", read_program_file(folder, manifest, "predict.onnx"))
    return OnnxProgram(manifest, train, predict, stem, given)


def load_session(path: Path, data: bytes) -> onnxruntime.InferenceSession:
    """Return a quiet, single-threaded, deterministic session.

    Args:
        path: Where the file is, or will be; for people.
        data: Its bytes.

    Raises:
        ProgramError: If ONNX Runtime cannot load it.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.use_deterministic_compute = True
    options.log_severity_level = ERRORS_ONLY
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ProgramError(f"ONNX Runtime {onnxruntime.__version__} cannot load {path}: {error}") from error


def _check_tensors(manifest: ModelManifest, what: str, found: list[Any], expected: list[Tensor]) -> None:
    """Refuse a session whose inputs or outputs differ from the manifest's in number, name, shape or type."""
    if len(found) != len(expected):
        raise ManifestError(
            f"{what} {len(found)} tensors, the manifest of model {manifest.model!r} says {len(expected)}"
        )
    for node, (name, shape, dtype) in zip(found, expected, strict=True):
        node_shape = tuple(size if isinstance(size, int) else None for size in node.shape)
        if (node.name, node_shape, TYPES.get(node.type)) != (name, shape, dtype):
            raise ManifestError(
                f"{what} {node.name!r} {node.type} {node_shape}, "
                f"the manifest of model {manifest.model!r} says {name!r} {np.dtype(dtype)} {shape}"
            )
