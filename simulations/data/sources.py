"""The sources that scenarios deal out: what they hold, how it becomes float32, and which model fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simulations.data.digits import load_digits
from simulations.data.fashion import FASHION_CLASSES, load_fashion, mean_pool
from simulations.data.pools import Pool
from simulations.data.tabular import TABLES, load_table

__all__ = ["DIGITS", "FASHION_14", "FASHION_28", "LETTER", "SATELLITE", "Source", "scale_images"]

BRIGHTEST = 255
NUM_TEST_DIGITS = 597


@dataclass(frozen=True, slots=True)
class Source:
    """A source of examples, as a scenario uses it.

    Args:
        load: The folder that a user named, the seed -> the pool.
        prepare: Makes examples of the pool float32.
        input_shape: One example's shape at the end.
        num_classes: Number of classes.
        model: The model that fits it.
        examples_per_client: How many a client has on average before the split; None deals out all.
    """

    load: Callable[[Path | None, int], Pool]
    prepare: Callable[[np.ndarray], np.ndarray]
    input_shape: tuple[int, ...]
    num_classes: int
    model: str
    examples_per_client: int | None = 150


def scale_images(images: np.ndarray) -> np.ndarray:
    """Return images with values in ``[0, 1]``, channels first.

    Args:
        images: Shape ``(examples, height, width)`` or ``(examples, channels, height, width)``, from 0 to 255.

    Returns:
        Shape ``(examples, channels, height, width)``, float32.
    """
    channels = images[:, None] if images.ndim == 3 else images  # noqa: PLR2004 - gray images without a channel axis
    scaled: np.ndarray = channels.astype(np.float32) / BRIGHTEST
    return scaled


def _fashion(folder: Path | None, _: int) -> Pool:
    return Pool(*load_fashion(folder), num_classes=len(FASHION_CLASSES))


def _halve(images: np.ndarray) -> np.ndarray:
    """Return the study's images: 14x14 in ``[0, 1]``."""
    return scale_images(mean_pool(images))


def _digits(folder: Path | None, seed: int) -> Pool:
    """Return the digits, a third of them, drawn by the seed, for tests."""
    x, y = load_digits(folder)
    order = np.random.default_rng(np.random.SeedSequence(seed)).permutation(len(y))
    test, train = order[:NUM_TEST_DIGITS], order[NUM_TEST_DIGITS:]
    return Pool(x[train], y[train], x[test], y[test], 10)


def _gray(images: np.ndarray) -> np.ndarray:
    """Return images that are in ``[0, 1]`` already with a channel axis."""
    return images[:, None]


def _table(name: str) -> Callable[[Path | None, int], Pool]:
    return lambda folder, _: Pool(*load_table(name, folder), num_classes=TABLES[name].num_classes)


def _keep(inputs: np.ndarray) -> np.ndarray:
    return inputs


FASHION_14 = Source(_fashion, _halve, (1, 14, 14), 10, "fashion14-cnn")
FASHION_28 = Source(_fashion, scale_images, (1, 28, 28), 10, "fashion28-cnn")
DIGITS = Source(_digits, _gray, (64,), 10, "digits-mlp", examples_per_client=60)
LETTER = Source(_table("letter"), _keep, (16,), 26, "letter-mlp")
SATELLITE = Source(_table("satellite"), _keep, (36,), 6, "satellite-mlp")
