"""Who does a round's jobs: this process, or others."""

from __future__ import annotations

import ctypes
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch

from simulations.rounds.job import Measured, MeasureJob, Trained, TrainJob
from simulations.rounds.worker import Worker

__all__ = ["InProcess", "Usage", "Workers", "keep_freed_memory", "one_thread", "usage_of_this_process"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_MMAP_THRESHOLD = 32 * 1024 * 1024
KIB_PER_MIB = 1024


@dataclass(frozen=True)
class Usage:
    """What workers have used so far.

    Args:
        cpu_s: Processor seconds of all of them.
        peak_memory_mb: The sum of their largest resident sizes, in MiB.
    """

    cpu_s: float
    peak_memory_mb: float


class Workers(Protocol):
    """Do a job, however they share it out; the result does not depend on it."""

    def train(self, job: TrainJob) -> Trained:
        """Return what the job's clients answer."""
        ...

    def measure(self, job: MeasureJob) -> Measured:
        """Return how good the job's clients' models are."""
        ...

    def usage(self) -> Usage:
        """Return what they have used so far."""
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
        keep_freed_memory()
        self._worker = worker

    def train(self, job: TrainJob) -> Trained:
        """Return what the job's clients answer."""
        with one_thread():
            return self._worker.train(job)

    def measure(self, job: MeasureJob) -> Measured:
        """Return how good the job's clients' models are."""
        with one_thread():
            return self._worker.measure(job)

    def usage(self) -> Usage:
        """Return what this process has used so far."""
        return usage_of_this_process()

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


def keep_freed_memory() -> None:
    """Ask the C library to keep what is freed for the next step.

    By default it gives large blocks back to the system after each operation and takes new ones for the next, which must
    be zeroed, page by page: an eighth of a convolutional network's step. Does nothing where the library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def usage_of_this_process() -> Usage:
    """Return what this process has used so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Usage(time.process_time(), peak / KIB_PER_MIB if sys.platform == "linux" else peak / KIB_PER_MIB**2)
