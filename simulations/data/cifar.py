"""CIFAR-10 and CIFAR-100 in their binary version: fixed records, a byte or two for the class, 3,072 for the picture.

The python version of the same data is a pickle, and a pickle from elsewhere runs code; it is never opened.

Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from simulations.data.pools import Pool
from wire.errors import DataError

__all__ = ["Layout", "load_cifar10", "load_cifar100"]

IMAGE_SHAPE = (3, 32, 32)
IMAGE_BYTES = 3072


class Layout(NamedTuple):
    """How one of the two is laid out on disk."""

    title: str
    folder: str
    pickled: str
    train: tuple[str, ...]
    test: str
    label_bytes: int
    num_classes: int


CIFAR10 = Layout(
    "CIFAR-10",
    "cifar-10-batches-bin",
    "cifar-10-batches-py",
    tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    "test_batch.bin",
    1,
    10,
)
CIFAR100 = Layout("CIFAR-100", "cifar-100-binary", "cifar-100-python", ("train.bin",), "test.bin", 2, 100)


def load_cifar10(folder: Path) -> Pool:
    """Return CIFAR-10: images of shape ``(3, 32, 32)``, uint8.

    Args:
        folder: ``cifar-10-batches-bin``, or the folder that holds it.

    Raises:
        DataError: If a file is missing or broken, or only the pickled version is there.
    """
    return _load(folder, CIFAR10)


def load_cifar100(folder: Path) -> Pool:
    """Return CIFAR-100 with its 100 fine classes: images of shape ``(3, 32, 32)``, uint8.

    Args:
        folder: ``cifar-100-binary``, or the folder that holds it.

    Raises:
        DataError: If a file is missing or broken, or only the pickled version is there.
    """
    return _load(folder, CIFAR100)


def _load(folder: Path, layout: Layout) -> Pool:
    home = folder / layout.folder if (folder / layout.folder).is_dir() else folder
    if not (home / layout.test).is_file():
        hint = f"expected {layout.folder}/{layout.test} in {folder}"
        if (folder / layout.pickled).is_dir() or folder.name == layout.pickled:
            raise DataError(
                f"{folder} has the python version of {layout.title}, which is a pickle and could run anything, so it is "
                f"not opened; {hint}: fetch the binary version"
            )
        raise DataError(f"{layout.title} is not here: {hint}; fetch its binary version")
    parts = [_read(home / name, layout) for name in layout.train]
    x, y = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Pool(x, y, *_read(home / layout.test, layout), num_classes=layout.num_classes)


def _read(path: Path, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Return one file's images and classes; the last byte before a picture is its (fine) class."""
    record = layout.label_bytes + IMAGE_BYTES
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}); fetch {layout.title}'s binary version") from error
    if not content or len(content) % record:
        raise DataError(f"{path} has {len(content)} bytes, which are no records of {record}; fetch it again")
    rows = np.frombuffer(content, dtype=np.uint8).reshape(-1, record)
    labels = rows[:, layout.label_bytes - 1].astype(np.int64)
    if labels.max() >= layout.num_classes:
        raise DataError(f"{path} has class {labels.max()} of {layout.num_classes}; fetch it again")
    return rows[:, layout.label_bytes :].reshape(-1, *IMAGE_SHAPE), labels
