"""Who does a round's jobs: this process, or others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch

from simulations.rounds.job import Measured, MeasureJob, Trained, TrainJob
from simulations.rounds.worker import Worker

__all__ = ["InProcess", "Workers", "one_thread"]


class Workers(Protocol):
    """Do a job, however they share it out; the result does not depend on it."""

    def train(self, job: TrainJob) -> Trained:
        """Return what the job's clients answer."""
        ...

    def measure(self, job: MeasureJob) -> Measured:
        """Return how good the job's clients' models are."""
        ...

    def close(self) -> None:
        """Let go of processes and files."""
        ...


class InProcess:
    """Does everything here, on one thread: products this small are slower on two.

    Args:
        worker: Does it.
    """

    def __init__(self, worker: Worker) -> None:
        """Keep the worker."""
        self._worker = worker

    def train(self, job: TrainJob) -> Trained:
        """Return what the job's clients answer."""
        with one_thread():
            return self._worker.train(job)

    def measure(self, job: MeasureJob) -> Measured:
        """Return how good the job's clients' models are."""
        with one_thread():
            return self._worker.measure(job)

    def close(self) -> None:
        """Do nothing: there is nothing of others."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread, and then as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
