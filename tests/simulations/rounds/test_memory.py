"""Memory that runs out: smaller chunks, the same result, and a line that says so."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from aggregator.config import RoundSettings
from simulations.engines.batches import Batches
from simulations.engines.engine import StepRule
from simulations.engines.model import Stack
from simulations.engines.planner import make_engine
from simulations.engines.population import gather_population
from simulations.engines.stacked import StackedEngine
from simulations.rounds.job import MeasureJob, Phase, Trained, TrainJob
from simulations.rounds.keeping import RowFolder
from simulations.rounds.methods import make_method
from simulations.rounds.simulation import Simulation
from simulations.rounds.worker import Worker
from simulations.rounds.workers import InProcess
from tests.simulations.engines.cases import make_case
from tests.simulations.rounds.fleets import TRAINING, furthest, make_clients, run, simulated_perceptron
from wire.errors import FleetError


class SmallEngine(StackedEngine):
    """Has memory for so many clients."""

    most_clients = 2

    def train(
        self, params: Stack, batches: Batches, rule: StepRule, anchor: Stack | None = None
    ) -> tuple[Stack, torch.Tensor]:
        if batches.num_clients > self.most_clients:
            raise torch.OutOfMemoryError("Tried to allocate 20.00 GiB")
        return super().train(params, batches, rule, anchor)

    def predict(self, params: Stack, inputs: torch.Tensor) -> torch.Tensor:
        if len(inputs) > self.most_clients:
            raise torch.OutOfMemoryError("Tried to allocate 20.00 GiB")
        return super().predict(params, inputs)


def simulate(folder: Path, method: str, most_clients: int) -> tuple[Simulation, Worker]:
    folder.mkdir()
    model, population = simulated_perceptron(), gather_population(make_clients(7))
    engine = SmallEngine(model)
    engine.most_clients = most_clients
    worker = Worker(engine, population, RowFolder(folder, 7, model.layer_sizes), chunk_size=7)
    rounds = RoundSettings(num_rounds=4, cohort_size=7, sketch_width=32)
    return Simulation(model, population, make_method(method, model, 4), rounds, TRAINING, InProcess(worker)), worker


@pytest.mark.parametrize("method", ["fedper", "ditto", "fedala"])
def test_a_chunk_too_large_for_the_memory_is_halved_until_it_fits_and_nothing_is_lost(
    method: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    simulation, worker = simulate(tmp_path / "small", method, most_clients=2)
    with caplog.at_level(logging.WARNING):
        records = [simulation.run_round() for _ in range(4)]
    whole = run(tmp_path / "whole", method, 4, make_clients(7), chunk_size=7)
    assert furthest(simulation.averages, whole.averages) < 1e-6
    assert [record.cohort for record in records] == [record.cohort for record in whole.records]
    assert worker.chunk_size == 2
    assert [record.getMessage() for record in caplog.records] == [
        "memory ran out with 7 clients at once: going on with 4",
        "memory ran out with 4 clients at once: going on with 2",
        *["memory ran out with 3 clients at once: going on with 2"],
    ]


def test_a_chunk_too_large_to_be_measured_is_halved_too(tmp_path: Path) -> None:
    simulation, worker = simulate(tmp_path / "small", "fedavg", most_clients=3)
    job = MeasureJob(tuple(range(7)), "test", simulation.averages, ())
    found = worker.measure(job)
    assert worker.chunk_size == 2
    _, whole = simulate(tmp_path / "whole", "fedavg", most_clients=7)
    expected = whole.measure(job)
    assert found.clients == expected.clients
    assert np.allclose(found.loss, expected.loss, atol=1e-6, rtol=0)


def test_memory_for_not_even_one_client_is_refused(tmp_path: Path) -> None:
    simulation, _ = simulate(tmp_path / "none", "fedavg", most_clients=0)
    with pytest.raises(FleetError, match="does not suffice for one client"):
        simulation.run_round()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_with_too_little_memory_trains_fewer_clients_at_once_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    case = make_case("image-cnn", (16,) * 256)
    clients = tuple(range(case.num_clients))
    shares = np.full(len(clients), 1 / len(clients))
    job = TrainJob(1, 0, clients, shares, case.model.initial_values(), (), (Phase(1, 16, StepRule(0.05, 0.9, 5.0)),))

    def train(name: str) -> Trained:
        rows = RowFolder(tmp_path, len(clients), case.model.layer_sizes)
        torch.cuda.empty_cache()
        return Worker(make_engine(name, case.model), case.population, rows, len(clients)).train(job)

    before = torch.cuda.memory_allocated()
    expected = train("cuda")
    needed = torch.cuda.max_memory_allocated() - before
    torch.cuda.empty_cache()
    capacity = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 0.75 * needed) / capacity)
    try:
        with caplog.at_level(logging.WARNING):
            found = train("cuda")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert caplog.records[0].getMessage() == "memory ran out with 256 clients at once: going on with 128"
    assert sorted(found.clients) == sorted(expected.clients)
    averages = ({layer: total.average() for layer, total in it.sums.items()} for it in (found, expected))
    assert furthest(*averages) < 1e-4
