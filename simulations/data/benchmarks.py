"""Benchmarks that the user already has, in their usual layouts on disk. None can be had from a package registry."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from edge_client.dataset import BROKEN
from simulations.data.cifar import load_cifar10, load_cifar100
from simulations.data.emnist import load_emnist
from simulations.data.image_folders import load_tiny_imagenet
from simulations.data.pools import Pool
from wire.errors import ConfigError, DataError

__all__ = ["BENCHMARKS", "load_benchmark", "load_npz_pool"]

BENCHMARKS: dict[str, Callable[[Path], Pool]] = {
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
    "emnist": partial(load_emnist, division="byclass"),
    "tiny-imagenet": load_tiny_imagenet,
}
"""Name -> what reads it from a folder."""


def load_benchmark(name: str, folder: Path | None) -> Pool:
    """Return a benchmark's examples.

    Args:
        name: One of ``BENCHMARKS``.
        folder: Where it lies.

    Raises:
        ConfigError: If there is no such benchmark, or no folder is named.
        DataError: If the folder does not hold it; the line says what was expected where.
    """
    if name not in BENCHMARKS:
        raise ConfigError(f"no benchmark is named {name!r}; take one of {', '.join(BENCHMARKS)}")
    if folder is None:
        raise ConfigError(f"{name} comes in no package: fetch it yourself, and name the folder that holds it")
    return BENCHMARKS[name](folder)


def load_npz_pool(path: Path) -> Pool:
    """Return the examples in an ``.npz`` file with ``x_train``, ``y_train``, ``x_test`` and ``y_test``; no pickles.

    Args:
        path: The file; its inputs are real numbers and its classes whole numbers from 0.

    Raises:
        DataError: If the file is missing or broken, or its arrays do not fit each other.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            x_train, y_train, x_test, y_test = (arrays[key] for key in ("x_train", "y_train", "x_test", "y_test"))
    except (*BROKEN, KeyError) as error:
        why = str(error).partition("\n")[0]
        raise DataError(
            f"{path} is not an .npz file with plain arrays x_train, y_train, x_test and y_test ({why}); "
            "write it with numpy.savez"
        ) from error
    for part, x, y in (("train", x_train, y_train), ("test", x_test, y_test)):
        if (
            y.ndim != 1
            or y.dtype.kind not in "iu"
            or x.dtype.kind not in "fiub"
            or x.shape[:1] != y.shape
            or not y.size
        ):
            raise DataError(
                f"{path}: x_{part} has shape {x.shape}, y_{part} {y.shape} of {y.dtype}; one class for each"
            )
        if y.min() < 0 or x.shape[1:] != x_train.shape[1:]:
            raise DataError(f"{path}: {part} has classes below 0, or inputs of another shape than train")
    num_classes = int(max(y_train.max(), y_test.max())) + 1
    return Pool(x_train, y_train.astype(np.int64), x_test, y_test.astype(np.int64), num_classes)
