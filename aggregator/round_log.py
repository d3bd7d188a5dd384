"""The round log: the values that devices uploaded in one round, appended to one file before they are acknowledged.

Averaging reads it as rows of float32, mapped, never loaded as a whole.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from wire.durable import storage_error

__all__ = ["RoundLog"]


class RoundLog:
    """One round's uploads on disk.

    Args:
        path: The file; what an earlier, broken-off run of the same round left in it is dropped.

    Raises:
        StoreError: If the disk refuses; so do all its methods.
    """

    def __init__(self, path: Path) -> None:
        """Start empty."""
        self._path = path
        self._offsets: dict[tuple[str, str], tuple[int, int]] = {}
        try:
            self._file = path.open("wb")
        except OSError as error:
            raise storage_error(path, error) from error

    def append(self, device_id: str, layer: str, values: np.ndarray) -> None:
        """Append a device's values of one layer, shape ``(num_params,)``, float32."""
        self._offsets[device_id, layer] = (self._file.tell(), values.size)
        try:
            self._file.write(values.astype("<f4").tobytes())
        except OSError as error:
            raise storage_error(self._path, error) from error

    def commit(self) -> None:
        """Return when all that was appended survives a power cut."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise storage_error(self._path, error) from error

    def rows(self, layer: str, devices: tuple[str, ...]) -> dict[str, np.ndarray]:
        """Return device -> its values of a layer, as maps of the file."""
        rows: dict[str, np.ndarray] = {}
        for device_id in devices:
            offset, size = self._offsets[device_id, layer]
            rows[device_id] = np.memmap(self._path, dtype="<f4", mode="r", offset=offset, shape=(size,))
        return rows

    def delete(self) -> None:
        """Close and remove the file: the averages are durable, nobody needs it any more."""
        self._file.close()
        self._path.unlink(missing_ok=True)
