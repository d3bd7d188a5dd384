"""A device's own data: three splits of examples with their targets, read from an ``.npz`` file."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wire.errors import DataError
from wire.manifest import ModelManifest

__all__ = ["BROKEN", "Dataset", "Split", "load_dataset"]

SPLITS = ("train", "validation", "test")
BROKEN = (OSError, ValueError, TypeError, EOFError, MemoryError, NotImplementedError, zipfile.BadZipFile, zlib.error)
"""What NumPy raises for a file that is not what it should be; a single array, as ``numpy.save`` writes, is a TypeError."""


class Split(NamedTuple):
    """Examples with their targets.

    Args:
        inputs: Shape ``(examples, *input_shape)``, float32, finite; whole numbers in ``[0, num_tokens)`` where these are set.
        targets: Shape ``(examples, *target_shape)``: int64 in ``[0, num_classes)``, or float32, finite; labels in ``[0, 1]``.
    """

    inputs: np.ndarray
    targets: np.ndarray


class Dataset(NamedTuple):
    """A device's data; ``test`` is there where someone reports on the device's quality."""

    train: Split
    validation: Split
    test: Split | None


def load_dataset(path: Path, manifest: ModelManifest) -> Dataset:
    """Return the data in an ``.npz`` file, checked against the model that it shall train.

    Raises:
        DataError: If the file is missing or broken, or its arrays do not fit the model.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            splits = {name: _split(path, arrays, name, manifest) for name in SPLITS}
    except FileNotFoundError as error:
        raise DataError(f"no data file at {path}; name an .npz file as `data` in the device's configuration") from error
    except BROKEN as error:
        why = str(error).partition("\n")[0]
        raise DataError(f"{path} is not an .npz file of plain arrays ({why}); write it with numpy.savez") from error
    train, validation = splits["train"], splits["validation"]
    if train is None or validation is None:
        raise DataError(f"{path} needs x_train, y_train, x_validation and y_validation")
    return Dataset(train, validation, splits["test"])


def _split(path: Path, arrays: np.lib.npyio.NpzFile, name: str, manifest: ModelManifest) -> Split | None:
    if f"x_{name}" not in arrays or f"y_{name}" not in arrays:
        return None
    inputs, targets = arrays[f"x_{name}"], arrays[f"y_{name}"]
    if inputs.dtype.kind not in "fiub":
        raise DataError(f"{path}: x_{name} holds {inputs.dtype}, expected real numbers")
    with np.errstate(over="ignore"):  # what float32 cannot hold is refused below
        inputs = np.ascontiguousarray(inputs, dtype=np.float32)
    num_examples = len(targets) if targets.ndim else 0
    shape = (num_examples, *manifest.input_shape)
    if inputs.shape != shape or num_examples == 0:
        raise DataError(f"{path}: x_{name} has shape {inputs.shape}, model {manifest.model!r} expects {shape}")
    if not np.isfinite(inputs).all():
        raise DataError(f"{path}: x_{name} holds values that are not finite; clean them or leave those examples out")
    if manifest.num_tokens and (
        inputs.min() < 0 or inputs.max() >= manifest.num_tokens or (inputs != np.floor(inputs)).any()
    ):
        raise DataError(f"{path}: x_{name} must hold whole numbers from 0 to {manifest.num_tokens - 1}")
    return Split(inputs, _targets(f"{path}: y_{name}", targets, manifest))


def _targets(what: str, targets: np.ndarray, manifest: ModelManifest) -> np.ndarray:
    """Return targets as the program takes them.

    Raises:
        DataError: If they have another shape, or hold what the loss cannot take.
    """
    shape = (len(targets), *manifest.target_shape)
    if targets.shape != shape:
        raise DataError(f"{what} has shape {targets.shape}, model {manifest.model!r} expects {shape}")
    if manifest.has_classes:
        if targets.dtype.kind not in "iu" or targets.min() < 0 or targets.max() >= manifest.num_classes:
            raise DataError(f"{what} must hold whole numbers from 0 to {manifest.num_classes - 1}")
        return targets.astype(np.int64)
    if targets.dtype.kind not in "fiub":
        raise DataError(f"{what} holds {targets.dtype}, expected real numbers")
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(targets, dtype=np.float32)
    if not np.isfinite(values).all():
        raise DataError(f"{what} holds values that are not finite; leave those examples out")
    if manifest.loss == "binary-cross-entropy" and (values.min() < 0 or values.max() > 1):
        raise DataError(f"{what} must hold labels between 0 and 1")
    return values
