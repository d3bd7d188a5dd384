"""Examples in ``.npz`` files: one file for a device, or one for all with the device of every row."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from edge_client.dataset import BROKEN, Split
from simulations.advise.splitting import WHOLE, join_splits
from wire.errors import DataError

__all__ = ["MOST_BYTES", "group_rows", "read_device_files", "read_grouped_file"]

MOST_BYTES = 4 * 1024**3
"""Of all arrays together, unpacked: a trial keeps them in memory."""

PARTS = ("train", "validation", "test")
LARGEST_FLOAT_LABEL = 2.0**31


def read_device_files(paths: Iterable[Path]) -> dict[str, Split]:
    """Return one device's examples by part; several files are joined in their order.

    Args:
        paths: Files with ``x`` and ``y``, or with ``x_train``, ``y_train`` and maybe the other splits; at least one.

    Raises:
        DataError: If a file is broken, holds neither, or other parts than the file before it.
    """
    found: list[dict[str, Split]] = []
    for path in paths:
        parts = _parts(path, _read(path))
        if found and set(parts) != set(found[0]):
            raise DataError(f"{path} holds {', '.join(parts)}, the device's other files {', '.join(found[0])}")
        if found and any(parts[part].inputs.shape[1:] != found[0][part].inputs.shape[1:] for part in parts):
            raise DataError(f"{path} holds examples of another shape than the device's other files")
        found.append(parts)
    return {part: join_splits([parts[part] for parts in found]) for part in found[0]}


def read_grouped_file(path: Path) -> dict[str, dict[str, Split]]:
    """Return device -> its examples, from one file with ``x``, ``y`` and ``device``.

    Raises:
        DataError: If the file is broken, or its arrays do not go together.
    """
    arrays = _read(path)
    if "device" not in arrays:
        raise DataError(
            f"{path} has no array `device`: name a folder with one .npz for each device, or add the device of every row"
        )
    devices = arrays["device"]
    whole = _parts(path, {name: values for name, values in arrays.items() if name in {"x", "y"}})[WHOLE]
    if devices.dtype.kind not in "USiu" or devices.shape != whole.targets.shape:
        raise DataError(
            f"{path}: device is {devices.dtype} of shape {devices.shape}; it must name a device, in a word or a whole "
            f"number, for each of the {len(whole.targets)} rows"
        )
    names = [name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in devices.tolist()]
    return {name: {WHOLE: Split(whole.inputs[rows], whole.targets[rows])} for name, rows in group_rows(names).items()}


def group_rows(names: Iterable[str]) -> dict[str, np.ndarray]:
    """Return name -> the numbers of its rows, ascending.

    Example:
        >>> {name: rows.tolist() for name, rows in group_rows(["b", "a", "b"]).items()}
        {'a': [1], 'b': [0, 2]}
    """
    rows: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        rows.setdefault(name, []).append(number)
    return {name: np.array(rows[name], dtype=np.int64) for name in sorted(rows)}


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as packed:
            unpacked = sum(member.file_size for member in packed.infolist())
        if unpacked > MOST_BYTES:
            raise DataError(
                f"{path} unpacks to {unpacked / 1e9:.1f} GB, and a trial takes {MOST_BYTES / 1e9:.1f}: "
                "give it fewer examples"
            )
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except FileNotFoundError as error:
        raise DataError(f"no data file at {path}") from error
    except BROKEN as error:
        why = str(error).partition("\n")[0]
        raise DataError(f"{path} is not an .npz file of plain arrays ({why}); write it with numpy.savez") from error


def _parts(path: Path, arrays: dict[str, np.ndarray]) -> dict[str, Split]:
    if "x" in arrays and "y" in arrays:
        return {WHOLE: _split(f"{path}: x", arrays["x"], arrays["y"])}
    parts = {
        part: _split(f"{path}: x_{part}", arrays[f"x_{part}"], arrays[f"y_{part}"])
        for part in PARTS
        if f"x_{part}" in arrays and f"y_{part}" in arrays
    }
    if not parts:
        raise DataError(
            f"{path} holds neither x and y nor x_train and y_train; it has {', '.join(arrays) or 'nothing'}"
        )
    return parts


def _split(where: str, inputs: np.ndarray, targets: np.ndarray) -> Split:
    if inputs.dtype.kind not in "fiub":
        raise DataError(f"{where} holds {inputs.dtype}, expected real numbers")
    if targets.ndim != 1 or inputs.ndim < 1 or len(inputs) != len(targets):
        raise DataError(f"{where} has shape {inputs.shape}, its labels {targets.shape}; expected one label an example")
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and refused later with the device's name
        inputs = np.ascontiguousarray(inputs, dtype=np.float32)
    return Split(inputs, _labels(where, targets))


def _labels(where: str, targets: np.ndarray) -> np.ndarray:
    is_whole = targets.dtype.kind in "iu" or (
        targets.dtype.kind == "f"
        and bool(np.all(np.isfinite(targets) & (np.abs(targets) < LARGEST_FLOAT_LABEL)))
        and bool(np.all(targets == np.floor(targets)))
    )
    if not is_whole:
        raise DataError(f"{where}: its labels are {targets.dtype} and not all whole numbers; number the classes from 0")
    return targets.astype(np.int64)
