"""A device's own data: three splits of examples with labels, read from an ``.npz`` file."""

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
    """Examples with labels.

    Args:
        inputs: Shape ``(examples, *input_shape)``, float32, finite.
        targets: Shape ``(examples,)``, int64, in ``[0, num_classes)``.
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
    shape = (targets.size, *manifest.input_shape)
    if inputs.shape != shape or targets.ndim != 1 or targets.size == 0:
        raise DataError(f"{path}: x_{name} has shape {inputs.shape}, model {manifest.model!r} expects {shape}")
    if not np.isfinite(inputs).all():
        raise DataError(f"{path}: x_{name} holds values that are not finite; clean them or leave those examples out")
    if targets.dtype.kind not in "iu" or targets.min() < 0 or targets.max() >= manifest.num_classes:
        raise DataError(f"{path}: y_{name} must hold whole numbers from 0 to {manifest.num_classes - 1}")
    return Split(inputs, targets.astype(np.int64))
