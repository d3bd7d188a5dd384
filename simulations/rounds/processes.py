"""One single-threaded process a core: each trains its part of a cohort, and this process does its part, too.

Clients' data and the averages lie in files that all of them map into their memory, so they are there once; what a client
keeps lies in files, too. A process answers with partial sums, so what is sent grows with the model, not with the cohort.
"""

from __future__ import annotations

import multiprocessing
import pickle
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch

from simulations.engines.model import SimulatedModel
from simulations.engines.planner import make_engine
from simulations.engines.population import Population, map_population, save_population
from simulations.rounds.job import Measured, MeasureJob, Trained, TrainJob, merge_measured, merge_trained
from simulations.rounds.keeping import RowFolder
from simulations.rounds.worker import Worker
from simulations.rounds.workers import InProcess, Usage, keep_freed_memory, usage_of_this_process
from wire.errors import FedlagError, FleetError

__all__ = ["ProcessWorkers", "WorkerRecipe", "split_evenly"]

Job = TypeVar("Job", TrainJob, MeasureJob)
JOIN_S = 5.0
READY = "ready"


@dataclass(frozen=True, eq=False)
class WorkerRecipe:
    """What makes a worker, in whatever process.

    Args:
        model: What is trained.
        population: The clients' data.
        folder: Where clients keep their own layers.
        engine: A name in ``simulations.engines.planner.ENGINES``.
        chunk_size: Clients at once.
    """

    model: SimulatedModel
    population: Population
    folder: Path
    engine: str
    chunk_size: int

    def make(self) -> Worker:
        """Return the worker."""
        engine = make_engine(self.engine, self.model)
        return Worker(engine, self.population, self.kept_rows(), self.chunk_size)

    def kept_rows(self) -> RowFolder:
        """Return what the clients keep."""
        return RowFolder(self.folder, self.population.num_clients, self.model.layer_sizes)


class ProcessWorkers:
    """This process and others like it.

    The others need some seconds to import torch. Until one is ready, its part is done by those that are, so the first
    round does not wait.

    Args:
        recipe: Of the workers.
        num_processes: With this one, at least 1.
    """

    def __init__(self, recipe: WorkerRecipe, num_processes: int) -> None:
        """Start the other processes."""
        self._here = InProcess(recipe.make())
        save_population(recipe.population, recipe.folder)
        self._averages = _map_averages(recipe.folder, recipe.model, "w+")
        # its own pickle, so that tensors go by value and not through the system's shared memory, of which there is little
        parts = pickle.dumps((recipe.model, recipe.folder, recipe.engine, recipe.chunk_size))
        context = multiprocessing.get_context("spawn")
        self._others = []
        for _ in range(num_processes - 1):
            near, far = context.Pipe()
            process = context.Process(target=_serve, args=(parts, far), daemon=True)
            process.start()
            far.close()
            self._others.append(_Other(process, near))

    def train(self, job: TrainJob) -> Trained:
        """Return what the job's clients answer."""
        return merge_trained(self._share(job, self._here.train, _some_clients))

    def measure(self, job: MeasureJob) -> Measured:
        """Return how good the job's clients' models are."""
        return merge_measured(
            self._share(job, self._here.measure, lambda job, places: replace(job, clients=_taken(job, places)))
        )

    def usage(self) -> Usage:
        """Return what all the processes have used so far."""
        for other in self._others:
            other.ask("usage")
        usages = [usage_of_this_process(), *(other.answer() for other in self._others)]
        return Usage(sum(usage.cpu_s for usage in usages), sum(usage.peak_memory_mb for usage in usages))

    def close(self) -> None:
        """End the other processes."""
        for other in self._others:
            other.end()
        self._others = []

    def _share(self, job: Job, here: Callable[[Job], Any], some: Callable[[Job, list[int]], Job]) -> list[Any]:
        """Return the answers of all processes that are ready, each to its part of the job."""
        for layer, values in job.averages.items():
            self._averages[layer][:] = values
        ready = [other for other in self._others if other.is_ready]
        parts = split_evenly(len(job.clients), 1 + len(ready))
        asked: list[_Other] = []
        for other, places in zip(ready, parts[1:], strict=True):
            if places:
                other.ask(replace(some(job, places), averages={}))
                asked.append(other)
        return [here(some(job, parts[0])), *(other.answer() for other in asked)]


def split_evenly(num_items: int, num_parts: int) -> list[list[int]]:
    """Return the numbers below ``num_items``, dealt out in turn.

    Example:
        >>> split_evenly(5, 2)
        [[0, 2, 4], [1, 3]]
    """
    return [list(range(part, num_items, num_parts)) for part in range(num_parts)]


class _Other:
    """Another process, seen from here."""

    def __init__(self, process: Any, link: Connection) -> None:
        self._process = process
        self._link = link
        self._has_started = False

    @property
    def is_ready(self) -> bool:
        """Whether it has said that it is."""
        if not self._has_started and self._link.poll():
            self._receive()
        return self._has_started

    def ask(self, request: Any) -> None:
        """Send a job, or the word ``usage``."""
        try:
            self._link.send(request)
        except OSError as error:
            raise self._lost() from error

    def answer(self) -> Any:
        """Return the answer to what was asked first, and raise it if it is an error."""
        answer = self._receive()
        while answer == READY:
            answer = self._receive()
        if isinstance(answer, FedlagError):
            raise answer
        return answer

    def _receive(self) -> Any:
        try:
            received = self._link.recv()
        except (EOFError, OSError) as error:
            raise self._lost() from error
        self._has_started = True
        return received

    def end(self) -> None:
        """Close its link, at which it ends, and wait for that."""
        self._link.close()
        self._process.join(JOIN_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _lost(self) -> FleetError:
        self._process.join(JOIN_S)
        code = self._process.exitcode
        how = f"by signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"with exit code {code}"
        return FleetError(
            f"a training process ended {how}, perhaps for want of memory: take fewer processes or clients at once"
        )


def _some_clients(job: TrainJob, places: Sequence[int]) -> TrainJob:
    return replace(job, clients=_taken(job, places), shares=job.shares[list(places)])


def _taken(job: TrainJob | MeasureJob, places: Sequence[int]) -> tuple[int, ...]:
    return tuple(job.clients[place] for place in places)


def _map_averages(folder: Path, model: SimulatedModel, mode: Literal["r+", "w+"]) -> dict[str, np.ndarray]:
    """Return layer -> the averages, in a file that all processes map."""
    values = np.memmap(folder / "averages.f4", dtype=np.float32, mode=mode, shape=(model.num_params,))
    ends = np.cumsum(list(model.layer_sizes.values())).tolist()
    return dict(zip(model.layer_sizes, np.split(values, ends[:-1]), strict=True))


def _serve(parts: bytes, link: Connection) -> None:
    """Do jobs until the link is closed: what another process runs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    keep_freed_memory()
    model, folder, engine, chunk_size = pickle.loads(parts)  # noqa: S301 - from the process that started this one
    worker = WorkerRecipe(model, map_population(folder), folder, engine, chunk_size).make()
    shared = _map_averages(folder, model, "r+")
    answer: Any = READY
    while True:
        try:
            link.send(answer)
            request = link.recv()
        except (EOFError, OSError):
            return
        try:
            answer = _do(worker, request, shared)
        except FedlagError as error:
            answer = error
        except Exception as error:  # noqa: BLE001 - whatever it is, the process that asked must hear of it
            answer = FleetError(f"a training process failed: {type(error).__name__}: {error}")


def _do(worker: Worker, request: Any, shared: dict[str, np.ndarray]) -> Any:
    match request:
        case TrainJob():
            return worker.train(replace(request, averages=shared))
        case MeasureJob():
            return worker.measure(replace(request, averages=shared))
    return usage_of_this_process()
