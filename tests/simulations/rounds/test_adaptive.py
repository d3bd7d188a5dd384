"""FedALA: how much of the average a client takes, learned parameter by parameter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edge_client.dataset import Dataset, Split
from simulations.engines.model import Stack, install
from simulations.engines.planner import CPU_ENGINES, make_engine
from simulations.engines.population import gather_population
from simulations.rounds import adaptive
from simulations.rounds.adaptive import learn_mixes, mixed
from simulations.rounds.job import Adaptation
from simulations.rounds.keeping import CarriedRows, rows_for
from simulations.rounds.worker import Worker
from tests.simulations.rounds.fleets import INITIAL, furthest, make_clients, run, simulated_perceptron

HEAD = ("head.weight", "head.bias")
ORDER = Adaptation(("head",), 1.0, 0.8, seed=0, round_number=3, batch_size=10)


def conflicting(num_clients: int) -> dict[str, Dataset]:
    """Return clients of which the last has its classes the other way round."""
    clients = make_clients(num_clients, alike=True)
    odd = max(clients)
    turned = [Split(split.inputs, (split.targets + 1) % 3) for split in clients[odd] if split is not None]
    return clients | {odd: Dataset(*turned)}


def mixes_of(folder: Path, num_rounds: int = 8) -> dict[str, np.ndarray]:
    return run(folder, "fedala", num_rounds, conflicting(5)).own("mix.head")


def start(num_clients: int) -> tuple[Stack, Stack, Stack]:
    model = simulated_perceptron()
    average = install(model, {name: torch.from_numpy(values) for name, values in INITIAL.items()}, num_clients)
    generator = torch.Generator().manual_seed(4)
    own = {name: values + 0.5 * torch.randn(values.shape, generator=generator) for name, values in average.items()}
    return average, own, {name: torch.ones_like(average[name]) for name in HEAD}


def test_with_mixes_of_ones_a_client_takes_the_averages_bits() -> None:
    average, own, ones = start(3)
    installed = mixed(average, own, ones)
    assert all(torch.equal(installed[name], average[name]) for name in average)


def test_with_mixes_of_zeros_it_keeps_its_own_adaptive_layers_and_no_others() -> None:
    average, own, ones = start(3)
    installed = mixed(average, own, {name: torch.zeros_like(mix) for name, mix in ones.items()})
    assert all(torch.equal(installed[name], (own if name in HEAD else average)[name]) for name in average)


def test_without_a_step_fedala_is_fedavg(tmp_path: Path) -> None:
    clients = conflicting(5)
    fedavg = run(tmp_path / "fedavg", "fedavg", 5, clients)
    fedala = run(tmp_path / "fedala", "fedala", 5, clients, options={"adaptive_rate": 1e-30})
    assert furthest(fedala.averages, fedavg.averages) == 0
    measured, expected = fedala.simulation.measure("test"), fedavg.simulation.measure("test")
    assert np.array_equal(measured.loss, expected.loss)


def test_a_client_whose_data_conflict_moves_toward_its_own_values_and_gains(tmp_path: Path) -> None:
    mixes = mixes_of(tmp_path / "mixes")
    shares = {name: float(mix.mean()) for name, mix in mixes.items()}
    assert min(shares, key=shares.__getitem__) == "pi-04"
    assert all(((mix >= 0) & (mix <= 1)).all() for mix in mixes.values())
    fedavg = run(tmp_path / "fedavg", "fedavg", 8, conflicting(5)).simulation.measure("test")
    fedala = run(tmp_path / "fedala", "fedala", 8, conflicting(5)).simulation.measure("test")
    assert fedala.loss[4] < 0.8 * fedavg.loss[4]


def test_the_other_layers_are_the_average(tmp_path: Path) -> None:
    fleet = run(tmp_path, "fedala", 4, conflicting(4))
    assert len(fleet.own("head")) == 4
    assert fleet.own("hidden") == fleet.own("middle") == fleet.own("mix.middle") == {}


@pytest.mark.parametrize("engine", CPU_ENGINES)
def test_engines_and_chunks_learn_the_same_mixes(engine: str, tmp_path: Path) -> None:
    expected = mixes_of(tmp_path / "expected", 4)
    found = run(tmp_path / "found", "fedala", 4, conflicting(5), engine=engine, chunk_size=2).own("mix.head")
    assert furthest(found, expected) < 1e-4


def test_nobody_learns_a_mix_before_it_has_an_own_version(tmp_path: Path) -> None:
    fleet = run(tmp_path, "fedala", 4, conflicting(6), num_done=0, cohort_size=2)
    seen: set[str] = set()
    for _ in range(4):
        fleet.go_on(1)
        asked = {fleet.names[client] for client in fleet.records[-1].cohort}
        assert fleet.own("mix.head").keys() >= seen & asked
        seen |= asked
        assert fleet.own("head").keys() == seen
        assert fleet.own("mix.head").keys() < seen


def test_measuring_is_what_the_next_round_begins_with_and_leaves_no_trace(tmp_path: Path) -> None:
    clients = conflicting(5)
    measured, plain = (run(tmp_path / name, "fedala", 6, clients, num_done=3) for name in ("measured", "plain"))
    first, again = measured.simulation.measure("test"), measured.simulation.measure("test")
    assert np.array_equal(first.loss, again.loss)
    for fleet in (measured, plain):
        fleet.go_on(1)
    assert furthest(measured.own("mix.head"), plain.own("mix.head")) == 0
    assert furthest(measured.averages, plain.averages) == 0


def test_a_chunk_that_carries_its_rows_along_does_the_same(tmp_path: Path) -> None:
    fleet = run(tmp_path, "fedala", 5, conflicting(5), num_done=3)
    population, engine = gather_population(conflicting(5)), make_engine("stacked", simulated_perceptron())
    job, clients = fleet.simulation._job(fleet.simulation.decision), (3, 1)
    job = replace(job, clients=clients, shares=np.array([0.5, 0.5]))
    carried = CarriedRows(rows_for(job, clients, fleet.kept))
    answer = Worker(engine, population, carried, 2).train(job)
    expected = Worker(engine, population, fleet.kept, 2).train(job)
    averages = [{layer: sums.average() for layer, sums in it.sums.items()} for it in (answer, expected)]
    assert furthest(*averages) == 0
    assert carried.written.keys() == {"head", "mix.head"}
    for kind, (written, rows) in carried.written.items():
        assert torch.equal(torch.from_numpy(rows), fleet.kept.read(kind, written))


def test_the_first_time_goes_on_until_the_loss_settles_and_later_times_are_one_epoch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    epochs: list[list[float]] = []
    one_epoch = adaptive._one_epoch

    def counted(*arguments: object) -> torch.Tensor:
        epochs.append(arguments[-1].tolist())  # type: ignore[attr-defined]
        return one_epoch(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(adaptive, "_one_epoch", counted)
    clients = make_clients(3)
    population = gather_population(clients)
    numbers = sorted(range(3), key=lambda client: -int(population.train.counts[client]))
    is_first = np.array([True, False, True])
    average, own, ones = start(3)
    engine = make_engine("stacked", simulated_perceptron())
    mixes = learn_mixes(engine, population, numbers, ORDER, average, own, ones, is_first)
    assert epochs[0] == [1, 1, 1]
    assert epochs[1] == [1, 0, 1]
    assert adaptive.EPOCHS_COMPARED < len(epochs) <= adaptive.MOST_EPOCHS
    assert all(bool((mix == 1).all()) for mix in ones.values())
    assert all(bool((mix < 1).any()) for mix in mixes["head.weight"])
    epochs.clear()
    alone = learn_mixes(engine, population, numbers, ORDER, average, own, ones, ~np.ones(3, dtype=np.bool_))
    assert len(epochs) == 1
    assert all(torch.allclose(alone[name][1], mixes[name][1], atol=1e-6) for name in HEAD)


def test_mixes_follow_the_gradient_of_the_mixed_models_loss() -> None:
    population, engine = gather_population(make_clients(1)), make_engine("serial", simulated_perceptron())
    average, own, ones = start(1)
    half = {name: torch.full_like(mix, 0.5) for name, mix in ones.items()}
    order = Adaptation(("head",), 1e-3, 1.0, seed=0, round_number=1, batch_size=1000)
    learned = learn_mixes(engine, population, [0], order, average, own, half, np.array([False]))
    leaves = {name: mix.clone().requires_grad_() for name, mix in half.items()}
    params = {name: values[0] for name, values in mixed(average, own, leaves).items()}
    train = population.train
    logits = torch.func.functional_call(engine.model.module, params, (train.inputs,))
    torch.autograd.backward(torch.nn.functional.cross_entropy(logits, train.targets))
    for name, leaf in leaves.items():
        assert leaf.grad is not None
        assert torch.allclose(learned[name], 0.5 - 1e-3 * leaf.grad, atol=1e-6)
