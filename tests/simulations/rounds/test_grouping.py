"""What only the evidence knows: layers that groups share, and clients that each choose for themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from simulations.rounds.methods import make_method
from simulations.rounds.simulation import Simulation
from tests.simulations.rounds.fleets import LAYERS, Run, furthest, make_clients, run, simulated_perceptron
from wire.errors import ConfigError

CLIENTS = make_clients(8)


@pytest.fixture
def grouped(tmp_path: Path) -> Run:
    return run(tmp_path / "grouped", "grouped", 3, CLIENTS)


def test_layers_shared_in_groups_are_those_of_four_fleets_of_their_own(grouped: Run, tmp_path: Path) -> None:
    names = sorted(CLIENTS)
    for group in range(4):
        members = {name: CLIENTS[name] for name in names[group::4]}
        alone = run(tmp_path / f"alone-{group}", "fedavg", 3, members)
        for layer in LAYERS:
            own = grouped.own(layer)
            for name in members:
                np.testing.assert_allclose(own[name], alone.averages[layer], atol=1e-5)


def test_a_layer_that_is_not_grouped_is_everybodys(tmp_path: Path) -> None:
    made = run(tmp_path, "grouped", 2, CLIENTS, options={"layers": ["head"]})
    heads = made.own("head")
    assert len({row.tobytes() for row in heads.values()}) == 4
    assert made.personal_layers == [("head",)] * 2


def test_a_client_that_was_not_asked_gets_its_groups_average_all_the_same(tmp_path: Path) -> None:
    made = run(tmp_path, "grouped", 1, CLIENTS, cohort_size=4)
    trained = {made.names[client] for client in made.records[0].cohort}
    assert set(made.own("head")) == {name for number, name in enumerate(made.names) if any(
        other in trained for other in made.names[number % 4 :: 4]
    )}  # fmt: skip


def test_groups_without_workers_that_know_them_are_refused(grouped: Run) -> None:
    model = simulated_perceptron()
    simulation = grouped.simulation
    with pytest.raises(ConfigError, match="give the simulation GroupedWorkers"):
        Simulation(
            model, simulation._population, make_method("grouped", model, 3), simulation._rounds, simulation._training,
            simulation._workers._workers,  # type: ignore[attr-defined]
        )  # fmt: skip


def test_a_client_that_chooses_is_never_worse_on_its_validation_examples(tmp_path: Path) -> None:
    shared = run(tmp_path / "shared", "fedavg", 4, CLIENTS)
    choosing = run(tmp_path / "choosing", "own-choice", 4, CLIENTS)
    assert furthest(shared.averages, choosing.averages) == 0
    before, after = (it.simulation.measure("validation") for it in (shared, choosing))
    assert (after.loss <= before.loss + 1e-6).all()
    assert (after.loss < before.loss - 0.01).any()


def test_clients_that_choose_start_their_rounds_as_the_others_do(tmp_path: Path) -> None:
    options = {"first_tested_round": 1, "rounds_between_tests": 1}
    plain = run(tmp_path / "plain", "fedlag-swap", 8, CLIENTS, options=options)
    choosing = run(tmp_path / "choosing", "fedlag+own-choice", 8, CLIENTS, options=options)
    assert choosing.personal_layers == plain.personal_layers
    assert furthest(plain.averages, choosing.averages) == 0
