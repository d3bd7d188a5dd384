"""Chunks of clients on a Ray cluster, and back come partial sums, sketches and what the clients keep.

What clients keep lies in files beside the simulation: a chunk's rows travel to the machine that trains it, and the new ones
back. So a chunk is a function of its arguments, and when a worker dies Ray runs it again; its rows are written here, once.
The data goes to each machine once, the averages once a round. Chunks are those of a single process and are merged in its
order, whoever is fast: a result has the same bits on any cluster of equal machines.

Each machine needs the same Python, Ray and version of this project; a machine with other code is refused, since it would
give other results. Ray comes with the extra ``ray`` and is loaded on first use alone.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aggregator.averaging import WeightedSum
from simulations.engines.engine import Engine
from simulations.engines.model import SimulatedModel
from simulations.engines.planner import make_engine
from simulations.engines.population import SPLITS, Population, ResidentSplit
from simulations.rounds.job import Measured, MeasureJob, Trained, TrainJob, merge_measured, merge_trained
from simulations.rounds.keeping import CarriedRows, rows_for
from simulations.rounds.processes import WorkerRecipe
from simulations.rounds.worker import Worker, split_into_chunks
from simulations.rounds.workers import Usage, keep_freed_memory, usage_of_this_process
from wire.errors import ConfigError, FedlagError, FleetError

__all__ = ["RETRIES", "RayWorkers", "join_cluster", "num_cluster_cpus"]

RETRIES = 3
"""How often a chunk is run again because its worker died."""

RAY_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_NUM_REDIS_GET_RETRIES": "1",  # where nobody answers it would try for a quarter of an hour, not 16 s
    "RAY_py_gcs_connect_timeout_s": "5",
}
"""Ray reads them when it is loaded; what the environment says already holds."""

ROOMS = ("aggregator", "edge_client", "export", "simulations", "wire")

_opened: dict[str, tuple[Engine, Population, int]] = {}
"""What this process, if it is one of Ray's, opened last: a model is traced once, not once a chunk."""


@dataclass(frozen=True, eq=False)
class _Setup:
    """What makes a worker on any machine: arrays, which all of a machine's processes read in one place."""

    model: SimulatedModel
    names: tuple[str, ...]
    splits: tuple[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray], ...]
    engine: str
    chunk_size: int
    code: str


@dataclass(frozen=True, eq=False)
class _ChunkAnswer:
    """What comes back of a chunk: the answer, the rows to keep, and what its process has used so far."""

    answer: Trained | Measured
    written: dict[str, tuple[tuple[int, ...], np.ndarray]]
    process: tuple[str, int]
    usage: Usage


class RayWorkers:
    """The workers of a Ray cluster that runs already.

    The connection outlives the simulation, for the next one; Ray ends it with this process.

    Args:
        recipe: Of the workers; its folder is read and written here alone.

    Raises:
        ConfigError: If Ray is not installed, or there is no cluster.
    """

    def __init__(self, recipe: WorkerRecipe) -> None:
        """Join the cluster and hand it the data."""
        self._ray = join_cluster()
        self._recipe = recipe
        self._kept = recipe.kept_rows()
        self._setup = self._ray.put(_describe(recipe))
        self._run = self._ray.remote(num_cpus=1, max_retries=RETRIES)(_run_chunk)
        self._usages: dict[tuple[str, int], Usage] = {}

    def train(self, job: TrainJob) -> Trained:
        """Return what the job's clients answer.

        Raises:
            FleetError: If a chunk fails, or is lost again and again.
        """
        places = {client: place for place, client in enumerate(job.clients)}
        pieces = (
            {
                "clients": clients,
                "shares": job.shares[[places[client] for client in clients]],
                "testers": job.testers.intersection(clients),
            }
            for clients in split_into_chunks(job, self._recipe.population, self._recipe.chunk_size)
        )
        common = replace(job, clients=(), shares=np.zeros(0), testers=frozenset())
        # what comes from Ray is read-only, so the sums begin with ones of our own
        shared = {layer: len(values) for layer, values in job.averages.items() if layer not in job.personal_layers}
        nobody = Trained(sums={layer: WeightedSum(size) for layer, size in shared.items()})
        return merge_trained(chain([nobody], self._answers(job, common, pieces)))

    def measure(self, job: MeasureJob) -> Measured:
        """Return how good the job's clients' models are.

        Raises:
            FleetError: If a chunk fails, or is lost again and again.
        """
        size = self._recipe.chunk_size
        pieces = ({"clients": job.clients[begin : begin + size]} for begin in range(0, len(job.clients), size))
        return merge_measured(self._answers(job, replace(job, clients=()), pieces))

    def usage(self) -> Usage:
        """Return what this process and Ray's have used, those that died included."""
        usages = [usage_of_this_process(), *self._usages.values()]
        return Usage(sum(usage.cpu_s for usage in usages), sum(usage.peak_memory_mb for usage in usages))

    def close(self) -> None:
        """Let the cluster forget the data."""
        self._setup = None

    def _answers(
        self, job: TrainJob | MeasureJob, common: TrainJob | MeasureJob, pieces: Iterable[dict[str, Any]]
    ) -> Iterator[Any]:
        """Yield the pieces' answers in their order; as many are under way as the cluster has processors."""
        ray, limit = self._ray, num_cluster_cpus()
        shared, rest = ray.put(common), iter(pieces)
        running: list[Any] = []
        waiting: deque[Any] = deque()
        answers: dict[Any, Trained | Measured] = {}
        while True:
            for piece in islice(rest, limit - len(running)):
                carried = rows_for(job, piece["clients"], self._kept)
                task = self._run.remote([self._setup], shared, piece, carried)
                running.append(task)
                waiting.append(task)
            if not running:
                return
            done, running = ray.wait(running)
            answers.update((task, self._receive(task)) for task in done)
            while waiting and waiting[0] in answers:
                yield answers.pop(waiting.popleft())

    def _receive(self, task: Any) -> Trained | Measured:
        """Return a chunk's answer, after keeping its rows."""
        errors = self._ray.exceptions
        try:
            answer: _ChunkAnswer = self._ray.get(task)
        except errors.RayTaskError as error:
            if isinstance(error.cause, FedlagError):
                raise error.cause from error
            raise FleetError(
                f"a chunk of clients failed on the cluster: {type(error.cause).__name__}: {error.cause}"
            ) from error
        except errors.RayError as error:
            raise FleetError(
                f"the workers of a chunk of clients died {1 + RETRIES} times ({type(error).__name__}), perhaps for want of"
                f" memory: start Ray with fewer CPUs on each machine, or choose another engine"
            ) from error
        for kind, (clients, rows) in answer.written.items():
            self._kept.write(kind, clients, _tensor(rows))
        self._usages[answer.process] = answer.usage
        return answer.answer


def join_cluster() -> Any:
    """Return Ray, connected to the cluster of RAY_ADDRESS, or to the one that runs on this machine; starts none.

    Raises:
        ConfigError: If Ray is not installed, or there is no cluster.
    """
    for name, value in RAY_SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import ray  # noqa: PLC0415 - an extra that this engine alone needs
    except ImportError as error:
        raise ConfigError(
            'the engine ray needs Ray, here and on each machine of the cluster: run `pip install "ray>=2.50"`'
        ) from error
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS") or "auto"
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError) as error:
            why = " ".join(str(error).split())
            place = "on this machine" if address == "auto" else f"at RAY_ADDRESS={address}"
            raise ConfigError(
                f"no Ray cluster can be joined {place}: start one with `ray start --head --disable-usage-stats`, or name"
                f" one in RAY_ADDRESS; Ray says: {why}"
            ) from error
    return ray


def num_cluster_cpus() -> int:
    """Return how many processors the cluster has now, at least 1.

    Raises:
        ConfigError: If Ray is not installed, or there is no cluster.
    """
    return max(1, int(join_cluster().cluster_resources().get("CPU", 1)))


def _run_chunk(
    setup: list[Any],
    common: TrainJob | MeasureJob,
    piece: dict[str, Any],
    carried: dict[str, tuple[tuple[int, ...], np.ndarray]],
) -> _ChunkAnswer:
    """Return what some clients answer: what Ray runs, on any machine, and again if its process dies.

    Args:
        setup: The object that holds a ``_Setup``; in a list Ray leaves it where it is.
        common: The job without its clients.
        piece: What the job says of these clients.
        carried: What ``CarriedRows`` takes.
    """
    engine, population, chunk_size = _open(setup[0])
    averages = {layer: values.copy() for layer, values in common.averages.items()}  # torch wants to write to them
    kept = CarriedRows(carried)
    worker, job = Worker(engine, population, kept, chunk_size), replace(common, averages=averages, **piece)
    answer = worker.train(job) if isinstance(job, TrainJob) else worker.measure(job)
    return _ChunkAnswer(answer, kept.written, (platform.node(), os.getpid()), usage_of_this_process())


def _describe(recipe: WorkerRecipe) -> _Setup:
    people = recipe.population
    splits = []
    for name in SPLITS:
        split: ResidentSplit = getattr(people, name)
        splits.append((split.inputs.numpy(), split.targets.numpy(), split.starts, split.counts))
    return _Setup(recipe.model, people.names, tuple(splits), recipe.engine, recipe.chunk_size, _digest_code())


def _open(reference: Any) -> tuple[Engine, Population, int]:
    """Return what a setup describes; only the last one is held."""
    key = reference.hex()
    if key not in _opened:
        _opened.clear()
        setup: _Setup = join_cluster().get(reference)
        if setup.code != _digest_code():
            raise FleetError(
                f"{platform.node()} has another version of this project: install the same one on each machine"
            )
        splits = (
            ResidentSplit(_tensor(inputs), _tensor(targets), starts, counts)
            for inputs, targets, starts, counts in setup.splits
        )
        torch.set_num_threads(1)
        keep_freed_memory()
        population = Population(setup.names, *splits)
        _opened[key] = make_engine(setup.engine, setup.model), population, setup.chunk_size
    return _opened[key]


@cache
def _digest_code() -> str:
    """Return the digest of all that a chunk's result depends on."""
    folder = Path(__file__).parents[2]
    files = sorted(file for room in ROOMS for file in (folder / room).rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _tensor(values: np.ndarray) -> torch.Tensor:
    """Return a tensor that shares the array's memory, read-only as it may be: nobody writes to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(values)
