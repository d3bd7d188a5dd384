"""Twenty natural devices: seven shoulder exercises, on both arms of ten people, recorded by a smartwatch.

The data is ``watch_dataset.npy`` of PyPI's ``seglearn`` 1.2.5, cited below; only the file is used, the package is never
imported. The file is a pickle, and a pickle runs code: its digest is checked first, on the very bytes that are loaded.

Source: Burns, Leung, Hardisty, Whyne, Henry and McLachlin, "Shoulder Physiotherapy Exercise Recognition: Machine
Learning the Inertial Signals from a Smartwatch", Physiological Measurement 39 (2018) 075007, arXiv:1802.01489.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wire.errors import DataError, StoreError

__all__ = [
    "EXERCISES",
    "INPUT_SHAPE",
    "LICENSE_LINE",
    "DeviceData",
    "Recording",
    "load_recordings",
    "load_watch_devices",
    "save_device_data",
    "time_blocks",
    "watch_file",
]

EXERCISES = ("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW")
"""The classes: pendulum, abduction, forward elevation, internal and external rotation, trapezius extension, row."""

WINDOW = 100
STEP = 50
INPUT_SHAPE = (6, WINDOW)
"""A window of two seconds at 50 Hz: acceleration in x, y, z, then rotation about x, y, z."""

LICENSE_LINE = (
    "Smartwatch data: PyPI seglearn 1.2.5, copyright (c) 2018 David M. Burns, BSD 3-clause license; "
    "Burns et al., Physiological Measurement 39 (2018) 075007, arXiv:1802.01489"
)

WATCH_SHA256 = "eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537"
INSTALL_HINT = "run `pip install --no-deps seglearn==1.2.5`"
SIDES = ("left", "right")
SHARES = {"train": 55, "validation": 15, "test": 30}
"""Percent of a recording's time."""

UNITS = np.array([1.0, 1.0, 1.0, 2.0, 2.0, 2.0])
"""1 g and 2 rad/s, the same for every device: a device's own normalization would hide what sets it apart."""


@dataclass(frozen=True, slots=True, eq=False)
class DeviceData:
    """All that one device knows, in three splits.

    Args:
        device_id: Its name in the fleet, for example ``person-03-left``.
        x_train: Inputs to train on, shape ``(examples, *input_shape)``, float32.
        y_train: Their classes, shape ``(examples,)``, int64.
        x_validation: Inputs to choose on: learning rates, stopping, swap tests.
        y_validation: Their classes.
        x_test: Inputs to report on, and for nothing else.
        y_test: Their classes.
    """

    device_id: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_validation: np.ndarray
    y_validation: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


class Recording(NamedTuple):
    """One exercise on one arm of one person, about twenty repetitions.

    Args:
        signal: Shape ``(samples, 6)``, float32, 50 Hz, in units of 1 g and of 2 rad/s.
        label: The exercise, an index into ``EXERCISES``.
        device_id: Person and arm.
    """

    signal: np.ndarray
    label: int
    device_id: str


def watch_file() -> Path:
    """Return the path of the data file inside the installed ``seglearn``, without importing it.

    Raises:
        DataError: If ``seglearn`` is not installed, or its file is missing.
    """
    spec = importlib.util.find_spec("seglearn")
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder, "data", "watch_dataset.npy")
        if path.is_file():
            return path
    raise DataError(f"the smartwatch data is not here: {INSTALL_HINT}")


def load_recordings(path: Path) -> tuple[Recording, ...]:
    """Read the 140 recordings; unpickle nothing but the one file that is known.

    Args:
        path: The file, as ``watch_file`` finds it.

    Returns:
        The recordings in the order of the file.

    Raises:
        DataError: If the file cannot be read, or its bytes are not those of ``seglearn`` 1.2.5.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}): {INSTALL_HINT}") from error
    if hashlib.sha256(raw).hexdigest() != WATCH_SHA256:
        raise DataError(f"{path} is not the file of seglearn 1.2.5, so it is not opened: {INSTALL_HINT}")
    data = np.load(io.BytesIO(raw), allow_pickle=True).item()
    return tuple(
        Recording((signal / UNITS).astype(np.float32), int(label), f"person-{int(person):02d}-{SIDES[int(side)]}")
        for signal, label, person, side in zip(data["X"], data["y"], data["subject"], data["side"], strict=True)
    )


def time_blocks(num_samples: int, rng: np.random.Generator) -> dict[str, range]:
    """Cut a recording's time into one block each for train, validation and test, in an order that ``rng`` draws.

    A gap of one window lies between neighboring blocks: no sample is in two splits, nor right beside another's.

    Args:
        num_samples: Length of the recording.
        rng: Draws which block comes first, second and last.

    Returns:
        Split -> its samples; 55, 15 and 30 percent of what the two gaps leave, rounded down.

    Raises:
        DataError: If the recording is too short for a window in every split.

    Example:
        >>> time_blocks(1200, np.random.default_rng(1))
        {'train': range(0, 550), 'validation': range(650, 800), 'test': range(900, 1200)}
    """
    blocks: dict[str, range] = {}
    begin = 0
    for name in rng.permutation(list(SHARES)):
        size = SHARES[name] * (num_samples - 2 * WINDOW) // 100
        if size < WINDOW:
            raise DataError(f"a recording of {num_samples} samples is too short: its {name} block would hold no window")
        blocks[str(name)] = range(begin, begin + size)
        begin += size + WINDOW
    return blocks


def load_watch_devices(seed: int) -> tuple[DeviceData, ...]:
    """Return the 20 devices, person by person, left arm first.

    Args:
        seed: Decides, recording by recording, which part of its time is for training, validation and test.

    Returns:
        Windows of 100 samples every 50, channels first, shape ``(windows, 6, 100)``; every split of every device holds
        each of the 7 exercises.

    Raises:
        DataError: If the data is missing or altered; the line says what to do.
    """
    parts: dict[str, dict[str, list[np.ndarray]]] = {}
    for index, recording in enumerate(load_recordings(watch_file())):
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index,)))
        part = parts.setdefault(recording.device_id, {})
        for split, block in time_blocks(len(recording.signal), rng).items():
            x = _cut_windows(recording.signal[block.start : block.stop])
            part.setdefault(f"x_{split}", []).append(x)
            part.setdefault(f"y_{split}", []).append(np.full(len(x), recording.label, dtype=np.int64))
    return tuple(
        DeviceData(device_id, **{key: np.concatenate(arrays) for key, arrays in parts[device_id].items()})
        for device_id in sorted(parts)
    )


def save_device_data(data: DeviceData, path: Path) -> None:
    """Write one device's data as ``.npz``, keys ``x_train`` to ``y_test``, without pickles.

    Args:
        data: What the device knows.
        path: The file, replaced if it exists; its folder exists.

    Raises:
        StoreError: If the disk refuses.
    """
    arrays = {
        "x_train": data.x_train,
        "y_train": data.y_train,
        "x_validation": data.x_validation,
        "y_validation": data.y_validation,
        "x_test": data.x_test,
        "y_test": data.y_test,
    }
    try:
        with path.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from error


def _cut_windows(signal: np.ndarray) -> np.ndarray:
    """Return the windows of one block, channels first, shape ``(windows, 6, 100)``, contiguous."""
    view = np.lib.stride_tricks.sliding_window_view(signal, WINDOW, axis=0)[::STEP]
    return np.ascontiguousarray(view)
