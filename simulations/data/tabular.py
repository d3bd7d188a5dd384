"""Three tables of the UCI repository, as Debian's ``r-cran-mlbench`` packs them: letters, satellite pixels, a shuttle.

Each is scaled by constants, the same for every client: a client's own normalization would hide what sets it apart.

Sources: Frey and Slate, "Letter Recognition Using Holland-Style Adaptive Classifiers", Machine Learning 6 (1991);
Statlog (Landsat Satellite) and Statlog (Shuttle), UCI Machine Learning Repository.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from simulations.data.rdata import Factor, read_data_frame
from wire.errors import DataError

__all__ = ["MLBENCH_FOLDER", "TABLES", "Table", "TableFormat", "load_table"]

MLBENCH_FOLDER = Path("/usr/lib/R/site-library/mlbench/data")
"""Where the Debian package puts its files."""

INSTALL_HINT = (
    "run `apt-get install --no-install-recommends r-cran-mlbench`; or, without R, `apt-get download r-cran-mlbench` and "
    "`dpkg -x` it, and name its folder usr/lib/R/site-library/mlbench/data"
)


class TableFormat(NamedTuple):
    """What a file holds, and how its numbers are scaled.

    Args:
        file: The data frame's name, and its file's without ``.rda``.
        target: The column with the class.
        num_rows: Number of examples.
        num_features: Number of the other columns.
        num_classes: Number of classes.
        center: Subtracted from every feature.
        scale: Every feature is then divided by it.
        num_test: The last rows are for tests, as UCI's own division has it.
    """

    file: str
    target: str
    num_rows: int
    num_features: int
    num_classes: int
    center: float
    scale: float
    num_test: int


TABLES = {
    "letter": TableFormat("LetterRecognition", "lettr", 20_000, 16, 26, 7.5, 7.5, 4_000),
    "satellite": TableFormat("Satellite", "classes", 6_435, 36, 6, 80.0, 25.0, 2_000),
    "shuttle": TableFormat("Shuttle", "Class", 58_000, 9, 7, 40.0, 50.0, 14_500),
}
"""Name -> format. Satellite's features are 9 pixels of 4 spectral bands each, pixel by pixel. Shuttle is very skewed:
four fifths of its examples are of one class, 10 of the rarest."""


class Table(NamedTuple):
    """Examples to learn from, and others to report on.

    Args:
        x_train: Shape ``(examples, features)``, float32.
        y_train: Classes, shape ``(examples,)``, int64.
        x_test: Inputs to report on.
        y_test: Their classes.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def load_table(name: str, folder: Path | None = None) -> Table:
    """Return one of ``TABLES``, scaled.

    Args:
        name: ``letter``, ``satellite`` or ``shuttle``.
        folder: Where the ``.rda`` files lie; None takes Debian's folder.

    Raises:
        DataError: If the file is missing, or does not hold what it should; the line says how to get it.
    """
    known = TABLES[name]
    path = (MLBENCH_FOLDER if folder is None else folder) / f"{known.file}.rda"
    if not path.is_file():
        raise DataError(f"the {name} data is not here: {path} is missing; {INSTALL_HINT}")
    columns = read_data_frame(path, known.file)
    target = columns.pop(known.target, None)
    features = [column for column in columns.values() if not isinstance(column, Factor)]
    if (
        not isinstance(target, Factor)
        or len(target.levels) != known.num_classes
        or (len(target.codes), len(features), len(columns)) != (known.num_rows, known.num_features, known.num_features)
        or target.codes.min() < 0
    ):
        raise DataError(
            f"{path} does not hold {known.num_rows} examples of {known.num_features} numbers in {known.num_classes} "
            f"classes; {INSTALL_HINT}"
        )
    inputs = ((np.stack(features, axis=1) - known.center) / known.scale).astype(np.float32)
    cut = known.num_rows - known.num_test
    return Table(inputs[:cut], target.codes[:cut], inputs[cut:], target.codes[cut:])
