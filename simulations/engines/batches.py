"""Batches: which examples a client sees in which step, the same as on a device of its name.

The order of an epoch is ``wire.random``'s permutation under the label that devices use, so a simulated client and a
deployed one see the same batches. Clients with more steps come first in a chunk; then those that are still training are
always the first ones, and nobody computes what is thrown away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from simulations.engines.population import ResidentSplit
from wire.random import WORDS_PER_BLOCK, key_from_label, philox_blocks

__all__ = ["Batches", "gather_batches", "num_steps"]


@dataclass(frozen=True, eq=False)
class Batches:
    """What several clients train on, step by step.

    Args:
        inputs: Shape ``(clients, steps, batch, *input_shape)``, float32.
        targets: Shape ``(clients, steps, batch)``, int64.
        weights: Of each example in its step's mean, shape ``(clients, steps, batch)``, float32; 0 where there is none.
        active: How many clients take part in each step; client ``i`` does if ``i < active[step]``.
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    active: tuple[int, ...]


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
        labels: Epoch by epoch the label of each client's order, for example ``batches/7/kitchen/0/12/0``.
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
        order[:, epoch, : int(counts.max())] = _orders(names, counts)
    rows = split.starts[list(clients)][:, None] + np.where(is_there, order.reshape(is_there.shape), 0)
    shape = (len(clients), len(labels) * int(steps[0]), batch_size)
    left = np.minimum(counts[:, None] - np.arange(int(steps[0])) * batch_size, batch_size)
    weights = np.where(is_there, np.tile(np.repeat(1 / np.maximum(left, 1), batch_size, axis=1), (1, len(labels))), 0)
    taken = torch.from_numpy(rows.ravel())
    return Batches(
        split.inputs.index_select(0, taken).view(*shape, *split.inputs.shape[1:]),
        split.targets.index_select(0, taken).view(shape),
        torch.from_numpy(weights.astype(split.inputs.numpy().dtype)).view(shape),
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
