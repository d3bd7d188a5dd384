"""Small fleets whose clients see the world through sensors of their own, as simulations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aggregator.config import RoundSettings
from edge_client.dataset import Dataset, Split
from simulations.engines.model import SimulatedModel
from simulations.engines.planner import make_engine
from simulations.engines.population import gather_population
from simulations.loopback.numpy_program import NumpyProgram, initial_values, perceptron_manifest
from simulations.rounds.grouping import GroupedWorkers
from simulations.rounds.keeping import RowFolder
from simulations.rounds.lying import Lie
from simulations.rounds.method import Method
from simulations.rounds.methods import make_method
from simulations.rounds.simulation import RoundRecord, Simulation
from simulations.rounds.worker import Worker
from simulations.rounds.workers import InProcess, Workers
from tests.simulations.engines.cases import tanh_perceptron
from wire.messages import TrainingSettings

SIZES = [4, 8, 6, 3]
PROGRAM = NumpyProgram(perceptron_manifest(SIZES))
INITIAL = initial_values(PROGRAM.manifest, np.random.default_rng(1))
TRAINING = TrainingSettings(learning_rate=0.1)
LAYERS = ("hidden", "middle", "head")


def make_clients(num_clients: int, *, alike: bool = False, seed: int = 3) -> dict[str, Dataset]:
    """Return clients with different numbers of examples, each with a sensor of its own unless they are alike."""
    rng = np.random.default_rng(seed)
    centers = np.eye(SIZES[-1], SIZES[0]) * 3

    def split(sensor: np.ndarray, num_examples: int) -> Split:
        targets = rng.integers(SIZES[-1], size=num_examples)
        inputs = (centers[targets] + rng.normal(0, 1, (num_examples, SIZES[0]))) @ sensor
        return Split(inputs.astype(np.float32), targets)

    clients = {}
    for index in range(num_clients):
        sensor = np.eye(SIZES[0]) if alike else np.linalg.qr(rng.normal(size=(SIZES[0], SIZES[0])))[0]
        splits = split(sensor, 30 + 7 * (index * 5 % num_clients)), split(sensor, 30), split(sensor, 30)
        clients[f"pi-{index:02d}"] = Dataset(*splits)
    return clients


def simulated_perceptron() -> SimulatedModel:
    """Return ``PROGRAM``'s model, with ``INITIAL`` as its values."""
    module = tanh_perceptron(SIZES)
    with torch.no_grad():
        for layer in PROGRAM.manifest.layers:
            sizes = [int(np.prod(it.shape)) for it in layer.parameters]
            parts = torch.split(torch.from_numpy(INITIAL[layer.name]), sizes)
            for parameter, values in zip(layer.parameters, parts, strict=True):
                module.get_parameter(parameter.name).copy_(values.view(parameter.shape))
    return SimulatedModel(module, PROGRAM.manifest.layers, (SIZES[0],), SIZES[-1])


@dataclass
class Run:
    """A simulation, what its rounds were, and what its clients keep."""

    simulation: Simulation
    records: list[RoundRecord]
    kept: RowFolder
    names: tuple[str, ...]

    @property
    def personal_layers(self) -> list[tuple[str, ...]]:
        return [record.personal_layers for record in self.records]

    @property
    def averages(self) -> dict[str, np.ndarray]:
        return self.simulation.averages

    def own(self, kind: str) -> dict[str, np.ndarray]:
        """Return what each client keeps of a kind, those who keep nothing left out."""
        known = np.flatnonzero(self.kept.known(kind, range(len(self.names)))).tolist()
        rows = self.kept.read(kind, known).numpy()
        return {self.names[client]: row for client, row in zip(known, rows, strict=True)}

    def go_on(self, num_rounds: int) -> None:
        self.records += [self.simulation.run_round() for _ in range(num_rounds)]


def run(
    folder: Path,
    method: str | Method,
    num_rounds: int,
    clients: Mapping[str, Dataset],
    *,
    options: Mapping[str, Any] | None = None,
    model: SimulatedModel | None = None,
    engine: str = "stacked",
    chunk_size: int = 4,
    training: TrainingSettings = TRAINING,
    watches_conflict: bool = False,
    lies: Lie | None = None,
    num_done: int | None = None,
    **rounds: Any,
) -> Run:
    """Return a simulation of so many rounds after them, or after ``num_done`` of them; its folder is made."""
    folder.mkdir(parents=True, exist_ok=True)
    model = model or simulated_perceptron()
    population = gather_population(clients)
    if isinstance(method, str):
        method = make_method(method, model, num_rounds, **(options or {}))
    kept = RowFolder(folder, len(clients), model.layer_sizes)
    settings = RoundSettings(**{"num_rounds": num_rounds, "cohort_size": len(clients), "sketch_width": 32, **rounds})
    workers: Workers = InProcess(Worker(make_engine(engine, model), population, kept, chunk_size))
    if method.local.grouped:
        workers = GroupedWorkers(workers, kept, method.local.grouped, population.train.counts, num_groups=4)
    simulation = Simulation(
        model, population, method, settings, training, workers, watches_conflict=watches_conflict, lies=lies
    )
    made = Run(simulation, [], kept, population.names)
    made.go_on(num_rounds if num_done is None else num_done)
    return made


def furthest(left: Mapping[str, np.ndarray], right: Mapping[str, np.ndarray]) -> float:
    """Return the largest difference between two sets of vectors of the same names."""
    assert left.keys() == right.keys()
    return max((float(np.abs(left[name] - right[name]).max()) for name in left), default=0.0)
