"""The idx format of MNIST and its descendants: a short header with the sizes, then the bytes of every example.

A header is a claim. The file's real size is checked against it before any memory is taken; a compressed file is read up
to one byte more than it claims.
"""

from __future__ import annotations

import gzip
import io
import math
import zlib
from pathlib import Path

import numpy as np

from wire.errors import DataError

__all__ = ["read_idx", "read_images_and_labels"]

UNSIGNED_BYTES = b"\x00\x00\x08"
SIZE_BYTES = 4
MAX_FILE_BYTES = 1 << 30
"""EMNIST's largest file has 547 million bytes."""

COMPRESSION_RATIO = 1032
"""The most that deflate can shrink; a file that claims more than this lies."""


def read_idx(path: Path, num_axes: int) -> np.ndarray:
    """Return the array of unsigned bytes in a file, compressed where its name ends in ``.gz``.

    Args:
        path: The file.
        num_axes: Number of axes: 1 for labels, 3 for images.

    Returns:
        Shape as the header says, uint8.

    Raises:
        DataError: If the file cannot be read, is none of this kind, or its size is not what its header claims.
    """
    try:
        file_bytes = path.stat().st_size
        if path.suffix == ".gz":
            with gzip.open(path, "rb") as packed:
                return _read(path, packed, num_axes, file_bytes * COMPRESSION_RATIO)
        with path.open("rb") as plain:
            return _read(path, plain, num_axes, file_bytes)
    except (OSError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DataError(f"cannot read {path} ({reason}); fetch the file again") from error


def read_images_and_labels(images: Path, labels: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return images and their classes.

    Args:
        images: An idx file with three axes.
        labels: An idx file with one.

    Returns:
        Images, shape ``(examples, height, width)``, uint8 from 0 to 255; classes, shape ``(examples,)``, int64.

    Raises:
        DataError: If either file is missing or broken, or they differ in their number of examples.
    """
    pixels, classes = read_idx(images, 3), read_idx(labels, 1)
    if len(pixels) != len(classes):
        raise DataError(
            f"{images} holds {len(pixels)} images, {labels} {len(classes)} labels; both must be of one download"
        )
    return pixels, classes.astype(np.int64)


def _read(path: Path, file: io.BufferedIOBase, num_axes: int, most_bytes: int) -> np.ndarray:
    """Return the array; ``most_bytes`` bounds what the file can hold."""
    header = file.read(4 + SIZE_BYTES * num_axes)
    if len(header) != 4 + SIZE_BYTES * num_axes or header[:4] != UNSIGNED_BYTES + bytes([num_axes]):
        raise DataError(f"{path} is not an idx file of unsigned bytes with {num_axes} axes; fetch the file again")
    shape = tuple(int(size) for size in np.frombuffer(header, dtype=">u4", offset=4))
    num_bytes = math.prod(shape)
    if num_bytes > min(most_bytes, MAX_FILE_BYTES):
        raise DataError(f"{path} claims {num_bytes} bytes in shape {shape}, more than it can hold; fetch it again")
    content = file.read(num_bytes + 1)
    if len(content) != num_bytes:
        came = "more" if len(content) > num_bytes else str(len(content))
        raise DataError(f"{path} claims {num_bytes} bytes in shape {shape}, and holds {came}; fetch the file again")
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)
