"""A simulation on the Ray cluster of RAY_ADDRESS, and the same one without: a program, because Ray stays with its process.

Usage: ``python -m tests.simulations.rounds.ray_driver SCENARIO FILE``: what it finds stands in FILE, as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aggregator.config import RoundSettings
from edge_client.dataset import Dataset, Split
from simulations.engines.model import SimulatedModel, simulate_model
from simulations.engines.population import Population, gather_population
from simulations.models import load_simulation_model
from simulations.rounds import ray_cluster
from simulations.rounds.method import LocalRule, Method
from simulations.rounds.opening import open_workers
from simulations.rounds.processes import WorkerRecipe
from simulations.rounds.ray_cluster import RayWorkers
from simulations.rounds.simulation import RoundRecord, Simulation
from simulations.rounds.workers import InProcess, Workers
from wire.errors import FedlagError
from wire.messages import TrainingSettings

NUM_CLIENTS, COHORT_SIZE, NUM_ROUNDS = 10, 7, 9
WAIT_S = 120.0
SWAP = Method(
    name="swap",
    selector="fedlag-swap",
    options={"first_tested_round": 1, "rounds_between_tests": 1, "standard_errors": 0},
)
DITTO = Method(name="ditto", selector="fedavg", local=LocalRule(ditto=0.1))


def make_population(model: SimulatedModel, examples: int) -> Population:
    """Half of the clients name the classes in reverse: they are better off with a head of their own."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(model.num_classes, *model.input_shape))

    def split(count: int, is_reversed: bool) -> Split:
        targets = rng.integers(model.num_classes, size=count)
        inputs = (centers[targets] + rng.normal(size=(count, *model.input_shape))).astype(np.float32)
        return Split(inputs, model.num_classes - 1 - targets if is_reversed else targets)

    clients = {}
    for number in range(NUM_CLIENTS):
        odd = number % 2 == 1
        clients[f"client-{number}"] = Dataset(split(examples + number, odd), split(40, odd), split(20, odd))
    return gather_population(clients)


def simulate(
    model: SimulatedModel,
    population: Population,
    method: Method,
    workers: Workers,
    before_round: Callable[[int], object] = lambda _: None,
) -> tuple[Simulation, list[RoundRecord], float]:
    """Run all rounds; return the simulation, what its rounds were, and the clients' mean loss at the end."""
    rounds = RoundSettings(cohort_size=COHORT_SIZE, num_rounds=NUM_ROUNDS + 4, seed=3)
    simulation = Simulation(model, population, method, rounds, TrainingSettings(learning_rate=0.05), workers)
    records = []
    for round_number in range(1, NUM_ROUNDS + 1):
        before_round(round_number)
        records.append(simulation.run_round())
    return simulation, records, float(simulation.measure("test").loss.mean())


def compare(method: Method, examples: int = 60, *, kill_in_round: int | None = None) -> dict[str, Any]:
    """Simulate here and on Ray, and tell the differences."""
    torch.manual_seed(0)
    model = simulate_model(load_simulation_model("letter-mlp"))
    population = make_population(model, examples)
    with tempfile.TemporaryDirectory() as here, tempfile.TemporaryDirectory() as there:
        alone = InProcess(WorkerRecipe(model, population, Path(here), "stacked", 2).make())
        expected, records, loss = simulate(model, population, method, alone)
        workers = RayWorkers(WorkerRecipe(model, population, Path(there), "stacked", 2))
        killer = Killer(workers)
        found, ray_records, ray_loss = simulate(
            model, population, method, workers, lambda number: killer.start() if number == kill_in_round else None
        )
        processes = sorted(pid for _, pid in workers._usages)
        workers.close()
    return {
        "difference": max(
            float(abs(found.averages[name] - expected.averages[name]).max()) for name in model.layer_sizes
        ),
        "has_same_decisions": [record.decision for record in records] == [it.decision for it in ray_records],
        "has_same_cohorts": [record.cohort for record in records] == [it.cohort for it in ray_records],
        "personal_layers": found.decision.personal_layers,
        "num_swap_tests": sum(bool(record.swap_gains) for record in ray_records),
        "loss_difference": abs(ray_loss - loss),
        "processes": processes,
        "killed": killer.killed,
        "cpu_s": workers.usage().cpu_s,
    }


class Killer(threading.Thread):
    """Kills a worker that has answered before, as soon as it trains again."""

    def __init__(self, workers: RayWorkers) -> None:
        super().__init__(daemon=True)
        self.killed: int | None = None
        self._workers = workers

    def run(self) -> None:
        victims = [pid for _, pid in self._workers._usages]
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            for pid in victims:
                if self._trains(pid):
                    time.sleep(0.03)  # into the middle
                    if self._trains(pid):
                        os.kill(pid, signal.SIGKILL)
                        self.killed = pid
                        return
            time.sleep(0.002)

    @staticmethod
    def _trains(pid: int) -> bool:
        """Say whether Ray has given the process a chunk: its title is then the function's name."""
        return b"run_chunk" in Path(f"/proc/{pid}/cmdline").read_bytes()


def lose_every_worker() -> dict[str, Any]:
    """Run a chunk whose worker may not die even once, and kill it."""
    ray_cluster.RETRIES = 0
    try:
        compare(SWAP, 4000, kill_in_round=2)
    except FedlagError as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {}


def meet_other_code() -> dict[str, Any]:
    """Run a chunk on machines that have another version of the project, as it seems."""
    vars(ray_cluster)["_digest_code"] = lambda: "another"
    try:
        compare(SWAP)
    except FedlagError as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {}


def open_by_name() -> dict[str, Any]:
    """Open workers as the command line does, and run a round."""
    torch.manual_seed(0)
    model = simulate_model(load_simulation_model("letter-mlp"))
    population = make_population(model, 60)
    try:
        with tempfile.TemporaryDirectory() as folder:
            workers = open_workers(model, population, Path(folder), engine="ray", cohort_size=COHORT_SIZE)
            simulation, _, _ = simulate(model, population, SWAP, workers)
            return {"kind": type(workers).__name__, "round_number": simulation.round_number}
    except FedlagError as error:
        return {"error": f"{type(error).__name__}: {error}"}


SCENARIOS: dict[str, Callable[[], dict[str, Any]]] = {
    "swap": lambda: compare(SWAP),
    "ditto": lambda: compare(DITTO),
    "killed": lambda: compare(SWAP, 4000, kill_in_round=3),
    "lost": lose_every_worker,
    "other-code": meet_other_code,
    "opened": open_by_name,
}

if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(SCENARIOS[sys.argv[1]]()))
