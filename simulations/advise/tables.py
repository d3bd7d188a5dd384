"""Examples in a ``.csv`` file: a column that names the device, one with the label, and a feature in every other."""

from __future__ import annotations

import csv
import math
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edge_client.dataset import Split
from simulations.advise.arrays import MOST_BYTES, group_rows
from simulations.advise.splitting import WHOLE
from wire.errors import ConfigError, DataError

__all__ = ["Columns", "Table", "number_labels", "read_table"]

BYTES_PER_VALUE = 4
LARGEST_FLOAT = 3.4e38
SCALE_TO_MENTION = 20.0


class Columns(NamedTuple):
    """What the columns of a table mean.

    Args:
        device: Names the device of a row.
        label: Its class, a whole number from 0 or a word.
        ignored: Neither features nor anything else.
    """

    device: str
    label: str
    ignored: tuple[str, ...] = ()


class Table(NamedTuple):
    """What a table holds.

    Args:
        devices: Device -> its rows in the order of the file, not split yet; inputs have shape ``(rows, features)``.
        classes: The words behind the labels 0, 1 and so on; none where the labels are numbers already.
        notes: What one should know about it.
    """

    devices: dict[str, dict[str, Split]]
    classes: tuple[str, ...]
    notes: tuple[str, ...]


def read_table(path: Path, columns: Columns, num_features: int) -> Table:
    """Return the rows by device.

    Args:
        path: A file with a line of names at its top, comma-separated, UTF-8.
        columns: What they mean.
        num_features: How many the model takes.

    Raises:
        ConfigError: If a column that was named is not there.
        DataError: If the file cannot be read, a value is missing or no number, or the features are not as many as the
            model takes; the line names column and row.
    """
    devices: list[str] = []
    labels: list[str] = []
    values = array("f")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, strict=True)
            names = next(rows, [])
            places, features = _places(path, names, columns, num_features)
            for row in rows:
                if not row:
                    continue
                where = f"{path}, line {rows.line_num}"
                if len(row) != len(names):
                    raise DataError(f"{where} has {len(row)} values, the line of names {len(names)}")
                devices.append(_word(where, columns.device, row[places[0]]))
                labels.append(_word(where, columns.label, row[places[1]]))
                values.extend(_numbers(where, names, features, row))
                if len(values) * BYTES_PER_VALUE > MOST_BYTES:
                    raise DataError(f"{where}: a trial takes {MOST_BYTES / 1e9:.1f} GB at most; give it fewer rows")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a comma-separated table in UTF-8: {error}") from error
    inputs = np.frombuffer(values, dtype=np.float32).reshape(len(devices), num_features)
    targets, classes = number_labels(labels)
    by_device = {name: {WHOLE: Split(inputs[rows], targets[rows])} for name, rows in group_rows(devices).items()}
    return Table(by_device, classes, tuple(_notes(inputs, [names[place] for place in features], classes)))


def number_labels(labels: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the labels as numbers, and the words behind them: none where all labels are whole numbers already.

    Example:
        >>> number_labels(["sit", "run", "sit"])
        (array([1, 0, 1]), ('run', 'sit'))
        >>> number_labels(["2", "0.0"])
        (array([2, 0]), ())
    """
    try:
        numbers = [float(label) for label in labels]
        if all(number.is_integer() and abs(number) < LARGEST_FLOAT for number in numbers):
            return np.array([int(max(-(2.0**62), min(number, 2.0**62))) for number in numbers], dtype=np.int64), ()
    except (ValueError, OverflowError):
        pass
    classes = tuple(sorted(set(labels)))
    places = {word: number for number, word in enumerate(classes)}
    return np.array([places[label] for label in labels], dtype=np.int64), classes


def _places(
    path: Path, names: Sequence[str], columns: Columns, num_features: int
) -> tuple[tuple[int, int], tuple[int, ...]]:
    """Return where device and label stand, and the features."""
    told = ", ".join(names) or "nothing"
    for name in (columns.device, columns.label, *columns.ignored):
        if name not in names:
            raise ConfigError(f"{path} has no column {name!r}; it has {told}")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{path} has two columns {twice[0]!r}; give each a name of its own")
    if columns.device == columns.label:
        raise ConfigError(f"{columns.device!r} cannot be both the device and the label")
    special = {columns.device, columns.label, *columns.ignored}
    features = tuple(place for place, name in enumerate(names) if name not in special)
    if len(features) != num_features:
        told = ", ".join(names[place] for place in features[:12]) + (", ..." if len(features) > 12 else "")  # noqa: PLR2004
        raise DataError(
            f"{path} has {len(features)} feature columns ({told or 'none'}), and the model takes {num_features} numbers an "
            "example: leave columns out with --ignore-column, or name another model"
        )
    return (names.index(columns.device), names.index(columns.label)), features


def _word(where: str, column: str, text: str) -> str:
    if not text.strip():
        raise DataError(f"{where}: {column!r} is empty; fill it in, or leave the row out")
    return text.strip()


def _numbers(where: str, names: Sequence[str], features: Sequence[int], row: Sequence[str]) -> Iterator[float]:
    for place in features:
        try:
            value = float(row[place])
        except ValueError as error:
            what = "is empty" if not row[place].strip() else f"holds {row[place][:40]!r}, which is no number"
            raise DataError(
                f"{where}: column {names[place]!r} {what}; fill it in, leave the row out, or leave the column out with "
                f"--ignore-column {names[place]}"
            ) from error
        if not math.isfinite(value) or abs(value) > LARGEST_FLOAT:
            raise DataError(f"{where}: column {names[place]!r} holds {row[place]}; clean it, or leave the row out")
        yield value


def _notes(inputs: np.ndarray, names: Sequence[str], classes: Sequence[str]) -> Iterator[str]:
    if classes:
        yield "classes: " + ", ".join(f"{number} = {word}" for number, word in enumerate(classes))
    if inputs.size:
        sizes = np.abs(inputs).mean(axis=0)
        largest = int(sizes.argmax())
        if sizes[largest] > SCALE_TO_MENTION:
            yield (
                f"{names[largest]} is {sizes[largest]:.3g} on average, regardless of sign; models learn better from features "
                "near 1: scale them with constants that every device knows"
            )
