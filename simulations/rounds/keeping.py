"""Where workers find what clients keep: in files of this machine, or carried along with a chunk of clients.

A *kind* is what a client has one row of: its own version of layer ``fc1``, or ``ditto.fc1``, the same layer of its Ditto
model, or ``mix.fc1``, how much of the average FedALA mixes into it. What is carried makes a chunk's training a function of its arguments alone: it can run on any machine, and again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from simulations.rounds.job import MeasureJob, TrainJob
from simulations.rounds.store import ClientRows

__all__ = ["DITTO", "MIX", "CarriedRows", "KeptRows", "RowFolder", "rows_for"]

DITTO, MIX = "ditto.", "mix."


class KeptRows(Protocol):
    """What clients keep: of each kind one float32 row for each client, or none yet."""

    def known(self, kind: str, clients: Sequence[int]) -> np.ndarray:
        """Return which of these clients have a row, shape ``(clients,)``, bool."""
        ...

    def read(self, kind: str, clients: Sequence[int]) -> torch.Tensor:
        """Return the rows of clients that have one, shape ``(clients, row_size)``, float32."""
        ...

    def write(self, kind: str, clients: Sequence[int], rows: torch.Tensor) -> None:
        """Keep these rows, shape ``(clients, row_size)``, float32."""
        ...


class RowFolder:
    """Rows in files, one for each kind, made when it is first asked for.

    Args:
        folder: Where the files lie; several processes may share it.
        num_clients: Number of clients.
        layer_sizes: Layer -> number of its parameters.
    """

    def __init__(self, folder: Path, num_clients: int, layer_sizes: Mapping[str, int]) -> None:
        """Open no file yet."""
        self._folder = folder
        self._num_clients = num_clients
        self._layer_sizes = layer_sizes
        self._files: dict[str, ClientRows] = {}

    def known(self, kind: str, clients: Sequence[int]) -> np.ndarray:
        """Return which of these clients have a row, shape ``(clients,)``, bool."""
        return self._file(kind).known(clients)

    def read(self, kind: str, clients: Sequence[int]) -> torch.Tensor:
        """Return the rows of clients that have one, shape ``(clients, row_size)``, float32.

        Raises:
            StoreError: If the file is shorter than it was made.
        """
        return self._file(kind).read(clients)

    def write(self, kind: str, clients: Sequence[int], rows: torch.Tensor) -> None:
        """Keep these rows, shape ``(clients, row_size)``, float32.

        Raises:
            StoreError: If the disk refuses.
        """
        self._file(kind).write(clients, rows)

    def _file(self, kind: str) -> ClientRows:
        if kind not in self._files:
            size = self._layer_sizes[kind.removeprefix(DITTO).removeprefix(MIX)]
            self._files[kind] = ClientRows(self._folder / f"{kind}.rows", self._num_clients, size)
        return self._files[kind]


class CarriedRows:
    """Rows in memory: those that were carried here, and those to carry back.

    What is written is not read again: a client is written once in a job, after all that is read of it.

    Args:
        carried: Kind -> the clients that have a row, and the rows, shape ``(clients, row_size)``, float32.
    """

    def __init__(self, carried: Mapping[str, tuple[Sequence[int], np.ndarray]]) -> None:
        """Begin with nothing written."""
        self.written: dict[str, tuple[tuple[int, ...], np.ndarray]] = {}
        self._rows = {kind: rows for kind, (_, rows) in carried.items()}
        self._places = {
            kind: {client: place for place, client in enumerate(clients)} for kind, (clients, _) in carried.items()
        }

    def known(self, kind: str, clients: Sequence[int]) -> np.ndarray:
        """Return which of these clients have a row, shape ``(clients,)``, bool."""
        places = self._places[kind]
        return np.array([client in places for client in clients], dtype=np.bool_)

    def read(self, kind: str, clients: Sequence[int]) -> torch.Tensor:
        """Return the rows of clients that have one, shape ``(clients, row_size)``, float32; a copy."""
        places = self._places[kind]
        return torch.from_numpy(self._rows[kind][[places[client] for client in clients]])

    def write(self, kind: str, clients: Sequence[int], rows: torch.Tensor) -> None:
        """Keep these rows, shape ``(clients, row_size)``, float32."""
        self.written[kind] = (tuple(clients), rows.numpy())


def rows_for(
    job: TrainJob | MeasureJob, clients: Sequence[int], kept: KeptRows
) -> dict[str, tuple[tuple[int, ...], np.ndarray]]:
    """Return what ``CarriedRows`` needs for some of a job's clients: the rows that the job reads, and no others.

    Args:
        job: What will be done.
        clients: For whom.
        kept: Where their rows are.
    """
    carried = {}
    for kind, readers in _readers(job, clients).items():
        known = tuple(np.array(readers, dtype=np.int64)[kept.known(kind, readers)].tolist())
        carried[kind] = (known, kept.read(kind, known).numpy())
    return carried


def _readers(job: TrainJob | MeasureJob, clients: Sequence[int]) -> dict[str, Sequence[int]]:
    """Return kind -> those whose rows are read."""
    every_ditto = [DITTO + layer for layer in job.averages]
    adaptive = job.adaptation.layers if job.adaptation else ()
    mixing = dict.fromkeys([*adaptive, *(MIX + layer for layer in adaptive)], clients)
    if isinstance(job, MeasureJob):
        used = job.averages if job.chooses else job.personal_layers
        return mixing | dict.fromkeys(every_ditto if job.is_ditto else used, clients)
    testers = _among(clients, job.testers)
    kinds: dict[str, Sequence[int]] = dict.fromkeys(job.swap_candidates, testers)
    kinds |= dict.fromkeys(job.personal_layers, clients) | mixing
    return kinds if job.ditto is None else kinds | dict.fromkeys(every_ditto, clients)


def _among(clients: Sequence[int], chosen: Collection[int]) -> list[int]:
    return [client for client in clients if client in chosen]
