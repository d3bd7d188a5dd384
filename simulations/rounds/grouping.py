"""Layer-wise groups: layers that are averaged among clients that are alike, instead of among all of them or not at all.

For evidence alone: the protocol keeps one set of personal layers for a whole fleet. Who is alike is given, not found: every
``num_groups``-th client, as the scenarios with four groups have it. So this is what groups could bring at best.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch

from simulations.rounds.job import Measured, MeasureJob, Trained, TrainJob
from simulations.rounds.keeping import KeptRows
from simulations.rounds.workers import Usage, Workers

__all__ = ["GroupedWorkers"]


class GroupedWorkers:
    """Workers whose clients share some of their personal layers within their group, after every round.

    Args:
        workers: Train; the grouped layers are among those that their clients keep.
        kept: What the clients keep.
        layers: The grouped ones.
        counts: Each client's number of training examples, its weight, shape ``(clients,)``.
        num_groups: Client ``i`` belongs to group ``i % num_groups``.
    """

    def __init__(
        self, workers: Workers, kept: KeptRows, layers: Collection[str], counts: np.ndarray, num_groups: int
    ) -> None:
        """Group nobody yet."""
        self._workers = workers
        self._kept = kept
        self._layers = tuple(layers)
        self._counts = counts
        self._num_groups = num_groups

    def train(self, job: TrainJob) -> Trained:
        """Return what the job's clients answer, after those of a group that trained have averaged their layers."""
        trained = self._workers.train(job)
        for group in range(self._num_groups):
            members = [client for client in range(len(self._counts)) if client % self._num_groups == group]
            present = [client for client in members if client in trained.clients]
            if not present:
                continue
            weights = torch.from_numpy(self._counts[present] / self._counts[present].sum())
            for layer in self._layers:
                average = (weights @ self._kept.read(layer, present).double()).float()
                self._kept.write(layer, members, average.expand(len(members), -1))
        return trained

    def measure(self, job: MeasureJob) -> Measured:
        """Return how good the job's clients' models are."""
        return self._workers.measure(job)

    def usage(self) -> Usage:
        """Return what they have used so far."""
        return self._workers.usage()

    def close(self) -> None:
        """Let go of processes and files."""
        self._workers.close()
