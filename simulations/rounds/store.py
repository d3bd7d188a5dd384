"""What clients keep between rounds: rows of a sparse file, so that memory does not grow with their number.

A client's row of a kind, for example its own version of layer ``fc1``, is read when the client trains and written when it
has. Rows that were never written take no space on the disk.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from wire.errors import StoreError

__all__ = ["ClientRows"]

ITEM_BYTES = 4


class ClientRows:
    """One float32 vector for each client, or none yet.

    Several processes may open the same file, as long as a client's row is written by one of them at a time.

    Args:
        path: The file; made if it is missing.
        num_clients: Number of clients.
        row_size: Values in a row, at least 1.

    Raises:
        StoreError: If the file cannot be made.
    """

    def __init__(self, path: Path, num_clients: int, row_size: int) -> None:
        """Open the file; its first bytes say which clients have a row."""
        self.row_size = row_size
        self._path = path
        self._num_clients = num_clients
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.ftruncate(self._file, num_clients + num_clients * row_size * ITEM_BYTES)
        except OSError as error:
            raise StoreError(f"cannot keep what clients know in {path}: {error.strerror}") from error

    def __del__(self) -> None:
        """Close the file."""
        if hasattr(self, "_file"):
            os.close(self._file)

    def known(self, clients: Sequence[int]) -> np.ndarray:
        """Return which of these clients have a row, shape ``(clients,)``, bool.

        Raises:
            StoreError: If the file is shorter than it was made.
        """
        flags = np.frombuffer(os.pread(self._file, self._num_clients, 0), dtype=np.bool_)
        if len(flags) != self._num_clients:
            raise StoreError(f"{self._path} ends within the list of who has a row: the file was cut off")
        return flags[list(clients)]

    def read(self, clients: Sequence[int]) -> torch.Tensor:
        """Return the rows of clients that have one, shape ``(clients, row_size)``, float32.

        Raises:
            StoreError: If the file is shorter than it was made.
        """
        rows = np.empty((len(clients), self.row_size), dtype=np.float32)
        for row, client in zip(rows, clients, strict=True):
            if os.preadv(self._file, [row.data.cast("B")], self._offset(client)) != row.nbytes:
                raise StoreError(f"{self._path} ends within client {client}'s row: the file was cut off")
        return torch.from_numpy(rows)

    def write(self, clients: Sequence[int], rows: torch.Tensor) -> None:
        """Keep these rows, shape ``(clients, row_size)``, float32.

        Raises:
            StoreError: If the disk refuses.
        """
        for row, client in zip(np.ascontiguousarray(rows.numpy()), clients, strict=True):
            try:
                written = os.pwrite(self._file, row.data.cast("B"), self._offset(client))
            except OSError as error:
                raise StoreError(f"cannot write to {self._path}: {error.strerror}") from error
            if written != row.nbytes:
                raise StoreError(f"cannot write to {self._path}: the disk is full")
            os.pwrite(self._file, b"\x01", client)

    def _offset(self, client: int) -> int:
        return self._num_clients + client * self.row_size * ITEM_BYTES
