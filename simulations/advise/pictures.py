"""A device's pictures: one folder for each class, whatever their size."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_client.dataset import Split
from simulations.advise.arrays import MOST_BYTES
from simulations.advise.splitting import WHOLE, cut_in_order, join_splits
from wire.errors import ConfigError, DataError

__all__ = ["SUFFIXES", "class_folders", "read_pictures"]

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp"})

MODES = {1: "L", 3: "RGB"}
BYTES_PER_VALUE = 4


def class_folders(folder: Path) -> dict[str, list[Path]]:
    """Return class -> its pictures in the order of their names; classes without pictures are left out."""
    classes = sorted(it for it in folder.iterdir() if it.is_dir() and not it.name.startswith("."))
    found = {it.name: sorted(file for file in it.iterdir() if file.suffix.lower() in SUFFIXES) for it in classes}
    return {name: files for name, files in found.items() if files}


def read_pictures(folder: Path, classes: Sequence[str], input_shape: tuple[int, ...]) -> dict[str, Split]:
    """Return a device's pictures, split class by class in the order of their names: 60, 20 and 20 percent.

    Args:
        folder: Holds one folder for each class that the device has seen.
        classes: Of all devices; a label is a place here.
        input_shape: Channels, height and width, to which every picture is brought; one channel is gray.

    Returns:
        ``train``, ``validation`` and ``test``, pixels in ``[0, 1]``; or ``whole`` where a class has too few.

    Raises:
        ConfigError: If the model does not take pictures, or Pillow is not installed.
        DataError: If a picture cannot be read.
    """
    if len(input_shape) != 3 or input_shape[0] not in MODES:  # noqa: PLR2004 - channels, height, width
        raise ConfigError(f"pictures need a model with inputs (1 or 3, height, width); this one takes {input_shape}")
    pillow = _pillow()
    by_class: list[Split] = []
    for label, files in ((classes.index(name), files) for name, files in class_folders(folder).items()):
        if len(files) * int(np.prod(input_shape)) * BYTES_PER_VALUE > MOST_BYTES:
            raise DataError(f"{folder} holds too many pictures for a trial; give it fewer")
        pixels = np.stack([_pixels(pillow, path, input_shape) for path in files])
        by_class.append(Split(pixels, np.full(len(files), label, dtype=np.int64)))
    cut = [cut_in_order(split, (3, 1, 1)) for split in by_class]
    if not by_class:
        return {WHOLE: Split(np.zeros((0, *input_shape), dtype=np.float32), np.zeros(0, dtype=np.int64))}
    if not all(any(len(pieces[place].targets) for pieces in cut) for place in range(3)):
        return {WHOLE: join_splits(by_class)}
    parts = ("train", "validation", "test")
    return {part: join_splits([pieces[place] for pieces in cut]) for place, part in enumerate(parts)}


def _pixels(pillow: Any, path: Path, input_shape: tuple[int, ...]) -> np.ndarray:
    """Return one picture, channels first, float32 in ``[0, 1]``."""
    channels, height, width = input_shape
    try:
        with pillow.open(path) as picture:
            fitted = picture.convert(MODES[channels]).resize((width, height))
            pixels = np.asarray(fitted, dtype=np.float32).reshape(height, width, channels)
    except (OSError, ValueError, SyntaxError, pillow.DecompressionBombError) as error:
        raise DataError(f"{path} is not a picture that can be read ({error}); replace it, or take it out") from error
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)) / np.float32(255)


def _pillow() -> Any:
    """Return Pillow's ``PIL.Image``."""
    try:
        return importlib.import_module("PIL.Image")
    except ImportError as error:
        raise ConfigError(
            "pictures in folders need Pillow: run `pip install pillow`, or write the pictures as .npz files"
        ) from error
