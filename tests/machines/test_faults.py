"""Whatever happens on the way, a fleet in which all take part ends with the same bits."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from simulations.loopback.device import LoopbackDevice
from simulations.loopback.fleet import LoopbackAggregator, LoopbackFleet
from simulations.loopback.network import Faults, Loopback
from tests.machines.conftest import MakeFleet

NUM_SCHEDULES = 42
SELECTORS: tuple[tuple[str, dict[str, Any], int], ...] = (
    ("fedavg", {}, 4),
    ("fedper", {"num_personal": 1}, 4),
    ("local", {}, 3),
    ("fedlag-paper", {"num_personal": 1, "num_warmup_rounds": 2}, 4),
    ("fedlag-paper", {"num_personal": 1, "schedule": "every_round"}, 4),
    ("fedlag", {}, 10),
)


def trace(fleet: LoopbackFleet) -> tuple[Any, ...]:
    """All that must not depend on faults: every plan, who was counted, and the last layers' digests."""
    reports = fleet.aggregator.reports
    return (
        [report.plan for report in reports],
        [tuple(report.counted) for report in reports],
        [report.next_personal_layers for report in reports],
        fleet.aggregator.state.layers,
        [None if it.generation is None else it.generation.own for it in fleet.devices.values()],
    )


def disturb(fleet: LoopbackFleet, seed: int) -> None:
    """Plan power cuts, lost links and jumps of the clock, on devices and aggregator alike."""
    rng = np.random.default_rng([seed, 1])
    network: Loopback = fleet.network
    machines: list[LoopbackDevice | LoopbackAggregator] = [*fleet.devices.values(), fleet.aggregator]
    for time_s in np.cumsum(rng.exponential(20.0, size=30)).tolist():
        machine = machines[int(rng.integers(len(machines)))]
        pause_s = float(rng.exponential(5.0))
        match int(rng.integers(3)):
            case 0:
                network.at(time_s, machine.stop)
                network.at(time_s + pause_s, machine.start)
            case 1:
                network.at(time_s, machine.disconnect)
                network.at(time_s + pause_s, machine.connect)
            case _:
                network.at(time_s, partial(jump, network, pause_s * 100))


def jump(network: Loopback, seconds: float) -> None:
    network.now_s += seconds


@pytest.fixture(scope="module")
def calm_traces() -> dict[str, tuple[Any, ...]]:
    """What each selector's fleet gives without faults, once it is known."""
    return {}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(NUM_SCHEDULES))
def test_every_schedule_of_faults_ends_with_the_same_bits(
    seed: int, make_fleet: MakeFleet, calm_traces: dict[str, tuple[Any, ...]]
) -> None:
    selector, options, num_rounds = SELECTORS[seed % len(SELECTORS)]
    name = f"{selector} {options}"
    if name not in calm_traces:
        calm = make_fleet(selector, options, num_rounds=num_rounds, duration_s=120.0)
        calm.run(num_rounds + 1)
        calm_traces[name] = trace(calm)
    fleet = make_fleet(selector, options, num_rounds=num_rounds, duration_s=120.0)
    fleet.network.policy = Faults(seed, duplicated=0.2, delayed=0.2, lost=0.1, damaged=0.1)
    disturb(fleet, seed)
    fleet.run(num_rounds + 1)
    assert trace(fleet) == calm_traces[name]
