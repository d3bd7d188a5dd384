"""How fast an engine trains a workload: one run, in a process of its own.

``python -m simulations.bench.simulating ARGUMENTS`` prints one JSON object; ``fedlag bench simulate`` runs it for each
engine, so that memory and first rounds are each engine's own.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import torch

from aggregator.config import RoundSettings
from export.models import TrainableModel
from simulations.bench.workloads import WORKLOADS, Workload, cohort, make_clients, make_module
from simulations.engines.cuda import CUDA_ENGINES
from simulations.engines.engine import StepRule
from simulations.engines.model import simulate_model
from simulations.engines.population import Population, ResidentSplit
from simulations.rounds.job import MeasureJob
from simulations.rounds.method import LARGEST_NORM, Method
from simulations.rounds.opening import open_plan, plan_workers
from simulations.rounds.simulation import Simulation
from wire.messages import TrainingSettings

__all__ = ["CPU", "Order", "Run", "run"]

CPU = "cpu"

INPUT_SHAPE = (1, 28, 28)
NUM_CLASSES = 10


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be run.

    Args:
        workload: Its letter.
        engine: One of ``simulations.rounds.opening.ENGINE_NAMES``.
        num_rounds: Rounds that are timed; one more runs before.
        num_clients: Of the fleet; None is the workload's.
        cohort_size: Of a round; None is the workload's.
        personal_layers: Layers that each client keeps.
        started_s: When the process was started, in seconds of the Unix clock.
        has_loss: Whether the final loss is measured.
    """

    workload: str
    engine: str
    num_rounds: int
    num_clients: int | None = None
    cohort_size: int | None = None
    personal_layers: tuple[str, ...] = ()
    started_s: float
    has_loss: bool = True


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured.

    Args:
        workload: Its letter.
        engine: As it was asked for.
        device: What computed.
        plan: What the engine did.
        num_clients: Of the fleet.
        steps_per_s: Steps of one client in a second of the clock.
        cpu_s_per_round: Processor seconds of a round, all processes together.
        wall_s_per_round: Seconds of a round.
        first_round_s: From the start of the process to the end of its first round.
        peak_memory_mb: The sum of the processes' largest resident sizes, in MiB.
        loss: Mean training loss over all clients at the end, in nats; None if it was not measured.
    """

    workload: str
    engine: str
    device: str
    plan: str
    num_clients: int
    steps_per_s: float
    cpu_s_per_round: float
    wall_s_per_round: float
    first_round_s: float
    peak_memory_mb: float
    loss: float | None


def run(order: Order, clock: Callable[[], float] = time.perf_counter) -> Run:
    """Train the workload, and return what it took."""
    workload = WORKLOADS[order.workload]
    workload = replace(
        workload,
        num_clients=order.num_clients or workload.num_clients,
        cohort_size=order.cohort_size or workload.cohort_size,
    )
    model = simulate_model(TrainableModel(make_module(workload.name), INPUT_SHAPE, NUM_CLASSES))
    population = _population(workload)
    chosen = plan_workers(
        model,
        population,
        engine=order.engine,
        cohort_size=workload.cohort_size,
        batch_size=workload.batch_size,
        rule=StepRule(workload.learning_rate),
    )
    with tempfile.TemporaryDirectory(prefix="fedlag-bench-") as folder:
        workers = open_plan(chosen, model, population, Path(folder))
        simulation = Simulation(
            model,
            population,
            Method(name="bench", selector="fixed", options={"layers": list(order.personal_layers)}),
            RoundSettings(cohort_size=workload.cohort_size),
            TrainingSettings(
                learning_rate=workload.learning_rate,
                momentum=0.0,
                max_gradient_norm=LARGEST_NORM,
                num_epochs=workload.num_epochs,
                batch_size=workload.batch_size,
            ),
            workers,
            shuffles=False,  # the peers take them as they lie
            choose=lambda round_number: cohort(workload, round_number),
        )
        simulation.run_round()
        first_round_s = time.time() - order.started_s
        begin, cpu_begin = clock(), workers.usage().cpu_s
        for _ in range(order.num_rounds):
            simulation.run_round()
        wall_s, used = clock() - begin, workers.usage()
        loss = None
        if order.has_loss:
            job = MeasureJob(tuple(range(workload.num_clients)), "train", simulation.averages, order.personal_layers)
            loss = float(workers.measure(job).loss.mean())
        workers.close()
    return Run(
        workload=order.workload,
        engine=order.engine,
        device=torch.cuda.get_device_name() if chosen.engine in CUDA_ENGINES else CPU,
        plan=str(chosen),
        num_clients=workload.num_clients,
        steps_per_s=workload.num_client_steps * order.num_rounds / wall_s,
        cpu_s_per_round=(used.cpu_s - cpu_begin) / order.num_rounds,
        wall_s_per_round=wall_s / order.num_rounds,
        first_round_s=first_round_s,
        peak_memory_mb=used.peak_memory_mb,
        loss=loss,
    )


def _population(workload: Workload) -> Population:
    """Return the workload's clients, without a copy of their images."""
    inputs, targets = make_clients(workload)
    counts = np.full(workload.num_clients, workload.examples_per_client, dtype=np.int64)
    split = ResidentSplit(inputs.flatten(0, 1), targets.flatten(), np.cumsum(counts) - counts, counts)
    names = tuple(f"client-{number:05d}" for number in range(workload.num_clients))
    nothing = ResidentSplit(split.inputs[:0], split.targets[:0], np.zeros_like(counts), np.zeros_like(counts))
    return Population(names, split, nothing, nothing)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.stdout.buffer.write(msgspec.json.encode(run(msgspec.json.decode(sys.argv[1], type=Order))))
