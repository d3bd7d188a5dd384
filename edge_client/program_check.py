"""What both runtimes check: the files before they are loaded, their signatures after, and every batch before it runs.

A runtime that meets a wrong shape answers with a page of C++ or, worse, with numbers. These checks are cheap enough for
every step, and their errors name the model, the tensor, what came and what was expected.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edge_client.program import Params, TrainStep
from wire.errors import ManifestError, ProgramError
from wire.manifest import ModelManifest, ParameterSpec

__all__ = [
    "LOGITS",
    "LOSS",
    "check_batch",
    "check_inputs",
    "check_params",
    "mask_name",
    "read_program_file",
    "result_name",
    "train_step_of",
]

LOSS = "loss"
LOGITS = "logits"

FLOAT32 = np.dtype(np.float32)
INT64 = np.dtype(np.int64)


def result_name(manifest: ModelManifest, parameter: str) -> str:
    """Return the name of the output that is this parameter's gradient, or this running statistic's new value."""
    return f"{'statistic' if parameter in manifest.statistics else 'gradient'}.{parameter}"


def mask_name(index: int) -> str:
    """Return the name of the input that is the manifest's mask of this index."""
    return f"mask.{index}"


def train_step_of(manifest: ModelManifest, given: Sequence[ParameterSpec], outputs: Sequence[np.ndarray]) -> TrainStep:
    """Return a program's outputs by name: gradients and new statistics apart.

    Args:
        manifest: The program's.
        given: The parameters of which it gives a result, in their order.
        outputs: Loss, logits and the results.
    """
    loss, logits, *results = outputs
    statistics = manifest.statistics
    named = dict(zip((parameter.name for parameter in given), results, strict=True))
    gradients = {name: values for name, values in named.items() if name not in statistics}
    return TrainStep(float(loss), logits, gradients, {name: named[name] for name in named if name in statistics})


def read_program_file(folder: Path, manifest: ModelManifest, name: str) -> bytes:
    """Return the bytes of one of the program's files.

    Args:
        folder: Where the files lie, under the names that the manifest gives them.
        manifest: The program's manifest.
        name: The file to read.

    Raises:
        ManifestError: If the manifest does not list the file, or the bytes are not those that it names.
        ProgramError: If the file cannot be read.
    """
    expected = manifest.files.get(name)
    if expected is None:
        known = ", ".join(sorted(manifest.files)) or "no files"
        raise ManifestError(f"model {manifest.model!r} has no {name}, it has {known}; export it for this runtime")
    try:
        data = (folder / name).read_bytes()
    except OSError as error:
        raise ProgramError(
            f"cannot read {folder / name}: {error.strerror}; export or download the model again"
        ) from error
    if len(data) != expected.size_bytes or hashlib.sha256(data).hexdigest() != expected.sha256:
        raise ManifestError(
            f"{folder / name} is not the file that its manifest names; export or download the model again"
        )
    return data


def check_params(manifest: ModelManifest, params: Params) -> None:
    """Refuse params that lack a parameter, or hold one of another shape or type. Names beyond the manifest's are allowed.

    Raises:
        ProgramError: In these cases.
    """
    for parameter in manifest.parameters:
        values = params.get(parameter.name)
        if values is None:
            raise ProgramError(f"the params of model {manifest.model!r} lack {parameter.name!r}")
        if values.shape != parameter.shape or values.dtype != FLOAT32:
            came, expected = _describe(values.shape, values.dtype), _describe(parameter.shape, FLOAT32)
            raise ProgramError(f"parameter {parameter.name!r} is {came}, model {manifest.model!r} expects {expected}")


def check_inputs(manifest: ModelManifest, inputs: np.ndarray) -> None:
    """Refuse an empty batch, and examples of another shape or type.

    Raises:
        ProgramError: In these cases.
    """
    if (
        inputs.shape[1:] != manifest.input_shape
        or inputs.ndim != len(manifest.input_shape) + 1
        or inputs.dtype != FLOAT32
    ):
        came, expected = _describe(inputs.shape, inputs.dtype), _describe(("batch", *manifest.input_shape), FLOAT32)
        raise ProgramError(f"the inputs are {came}, model {manifest.model!r} expects {expected}")
    if len(inputs) == 0:
        raise ProgramError(f"the batch is empty, model {manifest.model!r} expects at least one example")
    if manifest.num_tokens and not (inputs.min() >= 0 and inputs.max() < manifest.num_tokens):
        raise ProgramError(
            f"an input is no token of model {manifest.model!r}, which knows 0 to {manifest.num_tokens - 1}"
        )


def check_batch(manifest: ModelManifest, inputs: np.ndarray, targets: np.ndarray, masks: Sequence[np.ndarray]) -> None:
    """Refuse inputs, targets and masks that do not belong together, or not to the model.

    Raises:
        ProgramError: In this case.
    """
    check_inputs(manifest, inputs)
    _check_targets(manifest, targets, len(inputs))
    expected = manifest.masks or ()
    if len(masks) != len(expected):
        raise ProgramError(f"{len(masks)} masks came, model {manifest.model!r} expects {len(expected)}")
    for index, (mask, spec) in enumerate(zip(masks, expected, strict=True)):
        if mask.shape != (len(inputs), *spec.shape) or mask.dtype != FLOAT32:
            came, wanted = _describe(mask.shape, mask.dtype), _describe((len(inputs), *spec.shape), FLOAT32)
            raise ProgramError(f"{mask_name(index)} is {came}, model {manifest.model!r} expects {wanted}")


def _check_targets(manifest: ModelManifest, targets: np.ndarray, num_examples: int) -> None:
    """Refuse targets that are not known classes, or not values that the loss can take."""
    dtype, shape = INT64 if manifest.has_classes else FLOAT32, (num_examples, *manifest.target_shape)
    if targets.shape != shape or targets.dtype != dtype:
        came, expected = _describe(targets.shape, targets.dtype), _describe(shape, dtype)
        raise ProgramError(f"the targets are {came}, model {manifest.model!r} expects {expected}")
    lowest, highest = targets.min(), targets.max()
    if manifest.has_classes and (lowest < 0 or highest >= manifest.num_classes):
        wrong = int(lowest if lowest < 0 else highest)
        raise ProgramError(
            f"target {wrong} is no class of model {manifest.model!r}, which knows 0 to {manifest.num_classes - 1}"
        )
    if not manifest.has_classes and not (np.isfinite(lowest) and np.isfinite(highest)):
        raise ProgramError(f"a target of model {manifest.model!r} is not finite; leave such examples out")
    if manifest.loss == "binary-cross-entropy" and (lowest < 0 or highest > 1):
        label = float(lowest if lowest < 0 else highest)
        raise ProgramError(f"target {label:g} is no label of model {manifest.model!r}: labels are between 0 and 1")


def _describe(shape: tuple[int | str, ...], dtype: np.dtype) -> str:
    """Return type and shape as people write them: ``float32 (batch, 6, 100)``."""
    return f"{dtype} ({', '.join(str(size) for size in shape)})"
