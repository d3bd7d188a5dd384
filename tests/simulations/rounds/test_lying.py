"""Liars among the clients: who they are, and that a fleet hears what they say instead of what they found."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulations.rounds.lying import Lie, choose_liars, tell
from tests.simulations.rounds.fleets import make_clients, run

EARLY = {"first_tested_round": 2, "rounds_between_tests": 1}


def test_one_client_in_five_lies_and_the_seed_decides_which() -> None:
    assert len(choose_liars(100, 1)) == 20
    assert choose_liars(100, 1) == choose_liars(100, 1) != choose_liars(100, 2)
    assert choose_liars(4, 1) == frozenset()


@pytest.mark.parametrize("lies", ["reversed", "inflated"])
def test_the_fleet_hears_a_liars_word_and_everyone_elses_gain(lies: Lie, tmp_path: Path) -> None:
    simulation = run(tmp_path, "fedlag-swap", 1, make_clients(6), lies=lies).simulation
    (liar,) = choose_liars(6, seed=0)
    gains = {client: 0.1 * (client + 1) for client in range(6)}
    heard = simulation._told(gains)
    assert [heard[client] for client in range(6)] == [
        tell(lies, gain) if client == liar else gain for client, gain in gains.items()
    ]


def test_three_liars_of_fifteen_can_make_every_layer_personal_where_a_mean_believes_them(tmp_path: Path) -> None:
    clients = make_clients(15, alike=True)

    def personal_layers(name: str, statistic: str, lies: Lie | None) -> tuple[str, ...]:
        options = {**EARLY, "statistic": statistic}
        return run(tmp_path / name, "fedlag-swap", 12, clients, options=options, lies=lies).personal_layers[-1]

    assert len(personal_layers("honest", "mean", None)) == 0
    assert len(personal_layers("mean", "mean", "inflated")) == 3
    assert len(personal_layers("median", "median", "inflated")) == 0
    trimmed = personal_layers("trimmed", "trimmed-mean", "inflated")
    assert len(trimmed) < 3  # what is cut off below is honest, so lies still push it up, by little
