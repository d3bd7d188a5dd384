"""Fashion-MNIST: 70,000 gray images of clothes in ten classes, as Debian's ``dataset-fashion-mnist`` installs them.

Source: Xiao, Rasul and Vollgraf, arXiv:1708.07747; MIT license.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from simulations.data.idx import read_images_and_labels
from wire.errors import DataError

__all__ = ["FASHION_CLASSES", "FASHION_FOLDER", "Images", "load_fashion", "mean_pool"]

FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where the Debian package puts its four files."""

FASHION_CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")

INSTALL_HINT = (
    "run `apt-get install dataset-fashion-mnist`, or name a folder that holds train-images-idx3-ubyte.gz, "
    "train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz"
)
IMAGE_SHAPE = (28, 28)


class Images(NamedTuple):
    """Gray images in two parts.

    Args:
        x_train: Shape ``(examples, height, width)``, uint8.
        y_train: Classes, shape ``(examples,)``, int64.
        x_test: Images to report on.
        y_test: Their classes.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def load_fashion(folder: Path | None = None) -> Images:
    """Return the 60,000 training and 10,000 test images at 28x28.

    Args:
        folder: Where the four idx.gz files lie; None takes Debian's folder.

    Raises:
        DataError: If a file is missing or broken; the line says how to get it.
    """
    folder = FASHION_FOLDER if folder is None else folder
    parts: list[np.ndarray] = []
    for part in ("train", "t10k"):
        images, labels = folder / f"{part}-images-idx3-ubyte.gz", folder / f"{part}-labels-idx1-ubyte.gz"
        for path in (images, labels):
            if not path.is_file():
                raise DataError(f"Fashion-MNIST is not here: {path} is missing; {INSTALL_HINT}")
        x, y = read_images_and_labels(images, labels)
        if x.shape[1:] != IMAGE_SHAPE or len(y) == 0 or y.max() >= len(FASHION_CLASSES):
            raise DataError(f"{images} does not hold 28x28 images of 10 classes; {INSTALL_HINT}")
        parts += [x, y]
    return Images(*parts)


def mean_pool(images: np.ndarray) -> np.ndarray:
    """Halve height and width by the mean of every 2x2 square.

    Args:
        images: Shape ``(examples, height, width)``, even height and width, any real dtype.

    Returns:
        Shape ``(examples, height / 2, width / 2)``, float32, in the units of ``images``.

    Example:
        >>> mean_pool(np.array([[[0, 4], [8, 4]]], dtype=np.uint8))
        array([[[4.]]], dtype=float32)
    """
    examples, height, width = images.shape
    squares = images.reshape(examples, height // 2, 2, width // 2, 2)
    pooled: np.ndarray = squares.mean(axis=(2, 4), dtype=np.float32)
    return pooled
