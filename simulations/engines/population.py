"""The data of all clients, resident: one tensor for each split, in which each client has a range of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from edge_client.dataset import Dataset, Split
from wire.errors import StoreError

__all__ = ["SPLITS", "Population", "ResidentSplit", "gather_population", "map_population", "save_population"]

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class ResidentSplit:
    """One split of all clients.

    Args:
        inputs: Client after client, shape ``(examples, *input_shape)``, float32.
        targets: Shape ``(examples,)``, int64.
        starts: Where each client's examples begin, shape ``(clients,)``, int64.
        counts: How many each client has, shape ``(clients,)``, int64; 0 where it has no such split.
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    starts: np.ndarray
    counts: np.ndarray

    def to(self, device: torch.device) -> ResidentSplit:
        """Return the split with its examples on a device."""
        return replace(self, inputs=self.inputs.to(device), targets=self.targets.to(device))


@dataclass(frozen=True, eq=False)
class Population:
    """All clients.

    Args:
        names: In ascending order; a client's number is its place here.
        train: What they train on.
        validation: What they choose on.
        test: What is reported; clients without a test split have 0 examples.
    """

    names: tuple[str, ...]
    train: ResidentSplit
    validation: ResidentSplit
    test: ResidentSplit

    @property
    def num_clients(self) -> int:
        """How many clients there are."""
        return len(self.names)

    def to(self, device: torch.device) -> Population:
        """Return the population with its examples on a device; on the processor that is itself."""
        return Population(self.names, self.train.to(device), self.validation.to(device), self.test.to(device))


def gather_population(clients: Mapping[str, Dataset]) -> Population:
    """Return the clients' data as one; it has been checked by whoever made it.

    Args:
        clients: Name -> data, at least one; all with the same input shape.
    """
    names = tuple(sorted(clients))
    empty = Split(clients[names[0]].train.inputs[:0], clients[names[0]].train.targets[:0])
    return Population(
        names,
        _resident([clients[name].train for name in names]),
        _resident([clients[name].validation for name in names]),
        _resident([clients[name].test or empty for name in names]),
    )


def _resident(splits: list[Split]) -> ResidentSplit:
    counts = np.array([len(split.targets) for split in splits], dtype=np.int64)
    inputs = torch.from_numpy(np.concatenate([split.inputs for split in splits]))
    targets = torch.from_numpy(np.concatenate([split.targets for split in splits]))
    return ResidentSplit(inputs, targets, np.cumsum(counts) - counts, counts)


def save_population(population: Population, folder: Path) -> None:
    """Write the data to files, from which other processes map it into their memory.

    Raises:
        StoreError: If the disk refuses.
    """
    try:
        (folder / "names.json").write_text(json.dumps(population.names))
        for name in SPLITS:
            split: ResidentSplit = getattr(population, name)
            parts = {"inputs": split.inputs.numpy(), "targets": split.targets.numpy()}
            for part, values in {**parts, "starts": split.starts, "counts": split.counts}.items():
                np.save(folder / f"{name}.{part}.npy", values, allow_pickle=False)
    except OSError as error:
        raise StoreError(f"cannot write the clients' data to {folder}: {error.strerror}") from error


def map_population(folder: Path) -> Population:
    """Return what ``save_population`` wrote; its pages are read when they are needed, and shared by all processes."""
    splits = []
    for name in SPLITS:
        inputs, targets, starts, counts = (
            np.load(folder / f"{name}.{part}.npy", mmap_mode="c", allow_pickle=False)
            for part in ("inputs", "targets", "starts", "counts")
        )
        splits.append(ResidentSplit(torch.from_numpy(inputs), torch.from_numpy(targets), starts, counts))
    return Population(tuple(json.loads((folder / "names.json").read_text())), *splits)
