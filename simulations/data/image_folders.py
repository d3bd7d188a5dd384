"""Pictures in folders: one folder a class, or Tiny-ImageNet's layout. Needs Pillow, which only this module imports."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from simulations.data.pools import Pool
from wire.errors import ConfigError, DataError

__all__ = ["load_image_folder", "load_tiny_imagenet"]

SUFFIXES = {".jpeg", ".jpg", ".png", ".bmp"}
TINY_SIDE = 64


def load_image_folder(folder: Path, side: int) -> Pool:
    """Return pictures from ``folder/train/CLASS/*`` and ``folder/test/CLASS/*`` (or ``val``).

    Args:
        folder: Holds both parts; classes are the names of the training part's folders, sorted.
        side: Pictures that are not square of this side are scaled to it.

    Returns:
        Images of shape ``(3, side, side)``, uint8.

    Raises:
        ConfigError: If Pillow is not installed, or ``side`` is not above 0.
        DataError: If a part is missing or empty, or a picture cannot be read.
    """
    if side < 1:
        raise ConfigError(f"side must be at least 1, not {side}")
    train = folder / "train"
    test = next((folder / name for name in ("test", "val") if (folder / name).is_dir()), folder / "test")
    for part in (train, test):
        if not part.is_dir():
            raise DataError(f"expected a folder {part} with one folder of pictures for each class")
    classes = sorted(path.name for path in train.iterdir() if path.is_dir())
    listed = [
        [(path, label) for label, name in enumerate(classes) for path in _pictures(part / name)]
        for part in (train, test)
    ]
    return _pool(folder, listed, len(classes), side)


def load_tiny_imagenet(folder: Path) -> Pool:
    """Return Tiny-ImageNet; its validation pictures, whose classes are known, are the test part.

    Args:
        folder: ``tiny-imagenet-200``, or the folder that holds it.

    Returns:
        Images of shape ``(3, 64, 64)``, uint8; classes in the order of their WordNet names.

    Raises:
        ConfigError: If Pillow is not installed.
        DataError: If ``train/n*/images/*.JPEG``, ``val/images`` or ``val/val_annotations.txt`` is missing or broken.
    """
    home = folder / "tiny-imagenet-200" if (folder / "tiny-imagenet-200").is_dir() else folder
    classes = sorted(path.name for path in (home / "train").glob("n*") if path.is_dir())
    annotations = home / "val" / "val_annotations.txt"
    if not classes or not annotations.is_file():
        raise DataError(
            f"Tiny-ImageNet is not here: expected {home}/train/n*/images/*.JPEG and {annotations}; unpack its zip there"
        )
    labels = {name: label for label, name in enumerate(classes)}
    train = [(path, labels[name]) for name in classes for path in _pictures(home / "train" / name / "images")]
    test = []
    for line in annotations.read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, rest = line.partition("\t")
        label = labels.get(rest.partition("\t")[0])
        if label is None or not name or Path(name).name != name:
            raise DataError(f"{annotations} names a picture or class that is not there: {line[:80]!r}; unpack it again")
        test.append((home / "val" / "images" / name, label))
    return _pool(home, [train, test], len(classes), TINY_SIDE)


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


def _pool(folder: Path, listed: list[list[tuple[Path, int]]], num_classes: int, side: int) -> Pool:
    """Read all pictures of both parts."""
    if not all(listed):
        raise DataError(f"{folder} has a part without pictures; expected {', '.join(sorted(SUFFIXES))} in it")
    pillow = _pillow()
    arrays: list[tuple[np.ndarray, np.ndarray]] = []
    for part in listed:
        images = np.empty((len(part), 3, side, side), dtype=np.uint8)
        for row, (path, _) in zip(images, part, strict=True):
            row[:] = _read(pillow, path, side)
        arrays.append((images, np.array([label for _, label in part], dtype=np.int64)))
    return Pool(*arrays[0], *arrays[1], num_classes=num_classes)


def _read(pillow: Any, path: Path, side: int) -> np.ndarray:
    """Return one picture, channels first."""
    try:
        with pillow.open(path) as picture:
            rgb = picture.convert("RGB")
            pixels = np.asarray(rgb if rgb.size == (side, side) else rgb.resize((side, side)), dtype=np.uint8)
    except (OSError, ValueError, SyntaxError, pillow.DecompressionBombError) as error:
        raise DataError(f"{path} is not a picture that can be read ({error}); replace it, or take it out") from error
    return pixels.transpose(2, 0, 1)


def _pillow() -> Any:
    """Return Pillow's ``PIL.Image``."""
    try:
        return importlib.import_module("PIL.Image")
    except ImportError as error:
        raise ConfigError("pictures in folders need Pillow: run `pip install pillow`") from error
