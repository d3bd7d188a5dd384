"""Batches: which examples a client sees in which step, the same as on a device of its name.

Examples are taken from the clients' data when their step comes, so that they are still in the cache when they are used,
and an epoch is never there twice. Their order is ``wire.random``'s permutation under the label that devices use, so a
simulated client and a deployed one see the same batches. Clients with more steps come first in a chunk; then those that
are still training are always the first ones, and nobody computes what is thrown away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from simulations.engines.population import ResidentSplit
from wire.random import WORDS_PER_BLOCK, key_from_label, philox_blocks

__all__ = ["Batches", "gather_batches", "num_steps"]


@dataclass(frozen=True, eq=False)
class Batches:
    """What several clients train on, step by step.

    Args:
        split: Whose examples they are.
        rows: Their places in it, shape ``(steps, clients, batch)``, int64; any place where there is none.
        weights: Of each example in its step's mean, shape ``(steps, clients, batch)``, float32; 0 where there is none.
        active: How many clients take part in each step; client ``i`` does if ``i < active[step]``.
    """

    split: ResidentSplit
    rows: torch.Tensor
    weights: torch.Tensor
    active: tuple[int, ...]

    @property
    def num_clients(self) -> int:
        """How many clients there are."""
        return self.rows.shape[1]

    @cached_property
    def num_steps(self) -> torch.Tensor:
        """In how many steps each client takes part, shape ``(clients,)``, of the weights' type."""
        steps = (torch.tensor(self.active) > torch.arange(self.num_clients).unsqueeze(1)).sum(1)
        return steps.to(self.weights)

    def of_step(self, step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return what the clients that take part in a step see in it.

        Returns:
            Inputs, shape ``(active, batch, *input_shape)``, targets and weights, both ``(active, batch)``.
        """
        rows = self.rows[step, : self.active[step]]
        taken = rows.flatten()
        inputs = self.split.inputs.index_select(0, taken).view(*rows.shape, *self.split.inputs.shape[1:])
        return inputs, self.split.targets.index_select(0, taken).view(rows.shape), self.weights[step, : len(rows)]

    @cached_property
    def sizes(self) -> list[list[int]]:
        """How many examples there are, step by step and client by client; they come first in their batch."""
        sizes: list[list[int]] = (self.weights > 0).sum(2).tolist()
        return sizes

    def of_client(self, client: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return inputs and targets of one client's step, those that are there alone."""
        taken = self.rows[step, client, : self.sizes[step][client]]
        return self.split.inputs.index_select(0, taken), self.split.targets.index_select(0, taken)


def num_steps(num_examples: np.ndarray, batch_size: int) -> np.ndarray:
    """Return how many steps an epoch over so many examples takes."""
    return -(-num_examples // batch_size)


def gather_batches(
    split: ResidentSplit, clients: Sequence[int], labels: Sequence[Sequence[str]], batch_size: int
) -> Batches:
    """Return the batches of one or several epochs.

    Args:
        split: Of all clients.
        clients: Their numbers, those with more steps first; each has an example.
        labels: Epoch by epoch the label of each client's order, for example ``batches/7/kitchen/0/12/0``; empty ones
            leave the examples as they lie.
        batch_size: Examples a step; an epoch's last step has what is left.

    Raises:
        ValueError: If the clients stand in another order, or one has nothing to train on.
    """
    counts = split.counts[list(clients)]
    steps = num_steps(counts, batch_size)
    if (np.diff(steps) > 0).any() or not counts.all():
        raise ValueError("clients with more steps must come first, and each must have an example")
    places = np.arange(int(steps[0]) * batch_size)
    is_there = np.tile(places < counts[:, None], (1, len(labels)))
    order = np.zeros((len(clients), len(labels), len(places)), dtype=np.int64)
    for epoch, names in enumerate(labels):
        order[:, epoch, : int(counts.max())] = _orders(names, counts) if any(names) else np.arange(int(counts.max()))
    rows = split.starts[list(clients)][:, None] + np.where(is_there, order.reshape(is_there.shape), 0)
    shape = (len(clients), len(labels) * int(steps[0]), batch_size)
    left = np.minimum(counts[:, None] - np.arange(int(steps[0])) * batch_size, batch_size)
    weights = np.where(is_there, np.tile(np.repeat(1 / np.maximum(left, 1), batch_size, axis=1), (1, len(labels))), 0)
    return Batches(
        split,
        torch.from_numpy(rows).view(shape).transpose(0, 1).contiguous().to(split.inputs.device),
        torch.from_numpy(weights).view(shape).transpose(0, 1).contiguous().to(split.inputs),
        tuple(int((steps > step).sum()) for step in range(int(steps[0]))) * len(labels),
    )


def _orders(labels: Sequence[str], counts: np.ndarray) -> np.ndarray:
    """Return ``random_permutation(key_from_label(label), count)`` of each client in a row, filled up behind."""
    longest = int(counts.max())
    num_blocks = -(-longest // WORDS_PER_BLOCK)
    keys = np.array([key_from_label(label) for label in labels], dtype=np.uint64)
    counters = np.zeros((len(labels) * num_blocks, WORDS_PER_BLOCK), dtype=np.uint32)
    counters[:, 0] = np.tile(np.arange(num_blocks, dtype=np.uint32), len(labels))
    per_block = np.repeat(keys, num_blocks, axis=0)
    words = philox_blocks(counters, (per_block[:, 0], per_block[:, 1])).reshape(len(labels), -1)[:, :longest]
    beyond = np.arange(longest) >= counts[:, None]
    return np.argsort(np.where(beyond, np.uint64(2**32), words.astype(np.uint64)), axis=1, kind="stable")
