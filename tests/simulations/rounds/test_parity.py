"""The vectorized simulation is the fleet: the same decisions, averages and personal layers, round by round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator.config import AggregatorConfig, RoundSettings, SelectorSettings
from aggregator.planning import choose_cohort
from simulations.loopback.fleet import LoopbackFleet
from simulations.rounds.method import Method
from simulations.rounds.simulation import RoundRecord
from tests.simulations.rounds.fleets import INITIAL, PROGRAM, TRAINING, Run, furthest, make_clients, run
from wire.messages import TrainingSettings

TOLERANCE = 1e-4
NUM_CLIENTS = 6
EARLY = {"first_tested_round": 2, "rounds_between_tests": 1}

CASES: dict[str, tuple[str, dict[str, Any], int, int]] = {
    "fedlag-swap": ("fedlag-swap", EARLY, NUM_CLIENTS, 12),
    "fedlag-swap as it comes": ("fedlag-swap", {}, NUM_CLIENTS, 16),
    "fedlag-swap with few candidates": ("fedlag-swap", {**EARLY, "max_candidates": 1}, NUM_CLIENTS, 12),
    "fedlag-swap of two thirds": ("fedlag-swap", EARLY, 4, 14),
    "fedlag-paper": ("fedlag-paper", {"num_personal": 1}, NUM_CLIENTS, 8),
    "fedlag-paper of half": ("fedlag-paper", {"num_warmup_rounds": 3}, 3, 8),
    "fedlag-paper every round": ("fedlag-paper", {"schedule": "every_round", "num_personal": 1}, NUM_CLIENTS, 8),
    "fedlag-paper every round of half": ("fedlag-paper", {"schedule": "every_round", "num_personal": 1}, 3, 10),
    "fedper": ("fedper", {}, NUM_CLIENTS, 5),
    "fedper of half": ("fedper", {"num_personal": 2}, 3, 8),
    "fedavg then local, of half": ("fedavg-then-local", {}, 3, 8),
    "fedavg of two": ("fedavg", {}, 2, 5),
}
DECIDING = {name for name, (selector, *_) in CASES.items() if selector in ("fedlag-swap", "fedlag-paper")}


def make_fleet(
    selector: str,
    options: dict[str, Any],
    cohort_size: int,
    num_rounds: int,
    training: TrainingSettings = TRAINING,
    **more: Any,
) -> LoopbackFleet:
    rounds = RoundSettings(
        num_rounds=num_rounds, cohort_size=cohort_size, quorum=cohort_size, sketch_width=32, seed=5, **more
    )
    config = AggregatorConfig(
        fleet="home",
        program=Path("program"),
        folder=Path("folder"),
        selector=SelectorSettings(name=selector, options=options),
        rounds=rounds,
        training=training,
    )
    clients = make_clients(NUM_CLIENTS)
    # A fleet's first round opens as soon as enough devices are there; a simulation has them all. So the first cohort comes first.
    first = choose_cohort(clients.keys(), cohort_size, rounds.seed, 0, 1)
    in_order = sorted(clients, key=lambda name: (name not in first, name))
    return LoopbackFleet(config, PROGRAM, INITIAL, {name: clients[name] for name in in_order})


def own_of_devices(fleet: LoopbackFleet, layer: str) -> dict[str, np.ndarray]:
    kept = {name: device.generation for name, device in fleet.devices.items()}
    return {name: generation.own_layers()[layer] for name, generation in kept.items() if generation is not None}


def assert_same_round(fleet: LoopbackFleet, simulated: Run, record: RoundRecord) -> None:
    report, state = fleet.aggregator.reports[-1], fleet.aggregator.state
    assert tuple(report.counted) == tuple(simulated.names[client] for client in record.cohort)
    assert report.personal_layers == record.personal_layers
    assert (state.decision.personal_layers, state.decision.swap_candidates) == (
        record.decision.personal_layers,
        record.decision.swap_candidates,
    )
    if record.conflict_scores:
        assert report.conflict_scores == pytest.approx(record.conflict_scores)
    gains = {layer: gain for layer, gain in record.swap_gains.items() if layer in report.swap_gains}
    assert report.swap_gains == pytest.approx(gains, abs=TOLERANCE)
    averages = {name: fleet.aggregator.layer(name) for name in INITIAL}
    assert furthest(averages, simulated.averages) < TOLERANCE
    for layer in record.decision.personal_layers:
        assert furthest(own_of_devices(fleet, layer), simulated.own(layer)) < TOLERANCE
    losses = [figures.train_loss for figures in report.counted.values()]
    assert record.train_loss == pytest.approx(np.mean(losses), abs=TOLERANCE)


@pytest.mark.parametrize("case", CASES)
def test_a_simulation_decides_and_averages_as_a_fleet_of_sessions_does(case: str, tmp_path: Path) -> None:
    selector, options, cohort_size, num_rounds = CASES[case]
    fleet = make_fleet(selector, options, cohort_size, num_rounds)
    method = Method(name=case, selector=selector, options=options)
    clients = make_clients(NUM_CLIENTS)
    simulated = run(tmp_path, method, num_rounds, clients, num_done=0, cohort_size=cohort_size, seed=5)
    for _ in range(num_rounds):
        fleet.run()
        simulated.go_on(1)
        assert_same_round(fleet, simulated, simulated.records[-1])
    if case in DECIDING:
        assert simulated.personal_layers[0] == ()
        assert simulated.personal_layers[-1] != ()
    measured = {name: simulated.simulation.measure(name) for name in ("validation", "test")}
    fleet.run()  # the measuring round
    for name, figures in fleet.aggregator.reports[-1].counted.items():
        client = simulated.names.index(name)
        assert figures.test is not None
        for split, found in (("validation", figures.before), ("test", figures.test)):
            assert measured[split].loss[client] == pytest.approx(found.loss, abs=TOLERANCE)
            assert measured[split].accuracy[client] == found.accuracy


@pytest.mark.parametrize(
    ("training", "schedule"),
    [
        (TrainingSettings(learning_rate=0.01, optimizer="adamw", weight_decay=0.1, proximal=0.1), "cosine"),
        (TrainingSettings(learning_rate=0.1, nesterov=True, weight_decay=0.01), "linear"),
    ],
    ids=["adamw, cosine", "nesterov, linear"],
)
def test_a_fleets_optimizer_and_schedule_are_simulated_too(
    training: TrainingSettings, schedule: str, tmp_path: Path
) -> None:
    falling: dict[str, Any] = {"schedule": schedule, "warmup_rounds": 2}
    fleet = make_fleet("fedlag-swap", EARLY, NUM_CLIENTS, 8, training, **falling)
    method = Method(name="swap", selector="fedlag-swap", options=EARLY)
    simulated = run(tmp_path, method, 8, make_clients(NUM_CLIENTS), num_done=0, training=training, seed=5, **falling)
    rates = []
    for _ in range(8):
        rates.append(fleet.aggregator.state.plan.training.learning_rate)
        fleet.run()
        simulated.go_on(1)
        assert_same_round(fleet, simulated, simulated.records[-1])
    assert rates[0] < rates[1] == max(rates)
    assert rates[-1] < rates[2]


def test_a_fleet_of_devices_that_are_alike_shares_everything_in_both(tmp_path: Path) -> None:
    clients = make_clients(NUM_CLIENTS, alike=True)
    simulated = run(tmp_path, Method(name="swap", selector="fedlag-swap", options=EARLY), 12, clients)
    assert set(simulated.personal_layers) == {()}
    assert any(record.swap_gains for record in simulated.records)
