"""EMNIST: handwritten letters and digits as idx files, in torchvision's folder ``EMNIST/raw``.

Source: Cohen, Afshar, Tapson and van Schaik, arXiv:1702.05373.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from simulations.data.idx import read_images_and_labels
from simulations.data.pools import Pool
from wire.errors import ConfigError, DataError

__all__ = ["EMNIST_CLASSES", "load_emnist"]

EMNIST_CLASSES = {"byclass": 62, "bymerge": 47, "balanced": 47, "letters": 26, "digits": 10, "mnist": 10}
"""Division -> number of classes."""


def load_emnist(folder: Path, division: str = "byclass") -> Pool:
    """Return one division of EMNIST: images of shape ``(28, 28)``, uint8, turned upright.

    The files hold every picture transposed. The letters' classes count from 1 there, from 0 here.

    Args:
        folder: ``EMNIST/raw`` or a folder that holds it.
        division: One of ``EMNIST_CLASSES``.

    Raises:
        ConfigError: If there is no such division.
        DataError: If a file is missing or broken.
    """
    num_classes = EMNIST_CLASSES.get(division)
    if num_classes is None:
        raise ConfigError(f"EMNIST has no division {division!r}; take one of {', '.join(EMNIST_CLASSES)}")
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    for part in ("train", "test"):
        images = _find(folder, f"emnist-{division}-{part}-images-idx3-ubyte")
        x, y = read_images_and_labels(images, _find(folder, f"emnist-{division}-{part}-labels-idx1-ubyte"))
        y -= division == "letters"
        if len(y) == 0 or y.min() < 0 or y.max() >= num_classes:
            raise DataError(f"{images} does not hold EMNIST's {num_classes} classes of {division!r}; fetch it again")
        parts.append((x.transpose(0, 2, 1), y))
    return Pool(*parts[0], *parts[1], num_classes=num_classes)


def _find(folder: Path, name: str) -> Path:
    """Return the file, compressed or not."""
    for home in (folder, folder / "raw", folder / "EMNIST" / "raw"):
        for path in (home / f"{name}.gz", home / name):
            if path.is_file():
                return path
    raise DataError(f"EMNIST is not here: expected {name}.gz in {folder} or its EMNIST/raw, as torchvision lays it out")
