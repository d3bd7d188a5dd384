"""1,797 handwritten digits of 8x8 pixels: the file that comes with scikit-learn, read without importing it.

Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository (1998).
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
from pathlib import Path

import numpy as np

from wire.errors import DataError

__all__ = ["DIGITS_SHAPE", "digits_file", "load_digits"]

DIGITS_SHAPE = (8, 8)
NUM_DIGITS = 1797
DIGITS_SHA256 = "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"
INSTALL_HINT = "run `pip install --no-deps scikit-learn`, or name a folder that holds its digits.csv.gz"
BRIGHTEST = 16


def digits_file() -> Path:
    """Return the path of the data file inside the installed scikit-learn, without importing it.

    Raises:
        DataError: If scikit-learn is not installed, or its file is missing.
    """
    spec = importlib.util.find_spec("sklearn")
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder, "datasets", "data", "digits.csv.gz")
        if path.is_file():
            return path
    raise DataError(f"the digits are not here: {INSTALL_HINT}")


def load_digits(folder: Path | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return all digits.

    Args:
        folder: Where ``digits.csv.gz`` lies; None takes scikit-learn's own.

    Returns:
        Images, shape ``(1797, 8, 8)``, float32 in ``[0, 1]``; classes, shape ``(1797,)``, int64.

    Raises:
        DataError: If the file is missing, or its bytes are not those that are known; the line says what to do.
    """
    path = digits_file() if folder is None else folder / "digits.csv.gz"
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}): {INSTALL_HINT}") from error
    if hashlib.sha256(raw).hexdigest() != DIGITS_SHA256:
        raise DataError(f"{path} is not scikit-learn's file of digits: {INSTALL_HINT}")
    rows = np.loadtxt(gzip.decompress(raw).decode("ascii").splitlines(), delimiter=",")
    images = (rows[:, :-1].reshape(NUM_DIGITS, *DIGITS_SHAPE) / BRIGHTEST).astype(np.float32)
    return images, rows[:, -1].astype(np.int64)
