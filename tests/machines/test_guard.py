"""A fleet with a guard: what poisons its averages is undone, and does not make it go round in circles."""

from __future__ import annotations

import msgspec
import pytest

from aggregator.config import AveragingSettings
from edge_client.training import RoundOutcome, RoundWork
from simulations.loopback.device import LoopbackDevice
from simulations.loopback.fleet import LoopbackFleet
from tests.machines.conftest import MakeFleet
from tests.machines.test_restored import go_back

GUARD = {"guard": 0.5, "duration_s": 60.0}


def poison(device: LoopbackDevice, round_number: int, *, is_stubborn: bool = False) -> None:
    """Let a device send its update reversed and a hundred times as long, once in this round or in all from it on."""
    poisoned = False

    def tamper(work: RoundWork, outcome: RoundOutcome) -> RoundOutcome:
        nonlocal poisoned
        number = work.plan.round_number
        if number < round_number if is_stubborn else poisoned or number != round_number:
            return outcome
        poisoned = True
        sent = {
            name: (work.installed[name] - 100 * (trained - work.installed[name])).astype("<f4")
            for name, trained in outcome.own.items()
        }
        return outcome._replace(own=sent)

    device.tamper = tamper


def places(fleet: LoopbackFleet) -> list[tuple[int, int, bool]]:
    return [(it.epoch, it.round_number, bool(it.held)) for it in fleet.aggregator.reports]


def test_averages_that_were_poisoned_once_are_undone_and_the_fleet_finishes(make_fleet: MakeFleet) -> None:
    fleet = make_fleet("fedavg", alike=True, num_devices=5, num_rounds=8, **GUARD)
    poison(fleet.devices["pi-0"], 4)
    fleet.run(10)
    assert places(fleet) == [
        *((0, number, False) for number in range(1, 5)),
        (0, 5, True),
        *((1, number, False) for number in range(4, 9)),
    ]
    held = fleet.aggregator.reports[4]
    assert held.held.startswith("back to 0-4 from 0-5: validation loss")
    assert held.counted == {}
    assert fleet.aggregator.version("1-4").layers == fleet.aggregator.version("0-4").layers
    fleet.run(1)
    last = fleet.aggregator.reports[-1]
    assert fleet.aggregator.state.is_finished
    assert sum(it.before.loss for it in last.counted.values()) / 5 < 0.4
    assert fleet.aggregator.state.guard
    assert fleet.aggregator.state.guard.num_returns == 0


def test_a_device_that_poisons_every_round_makes_it_go_back_twice_and_hold_until_an_operator_says_on(
    make_fleet: MakeFleet,
) -> None:
    fleet = make_fleet("fedavg", alike=True, num_devices=5, **GUARD)
    fleet.run(3)
    poison(fleet.devices["pi-0"], 4, is_stubborn=True)
    fleet.run_for(600)
    assert places(fleet)[3:] == [(0, 4, False), (0, 5, True), (1, 4, False), (1, 5, True)]
    held = fleet.aggregator.state
    assert (held.plan.epoch, held.plan.round_number) == (2, 4)
    assert held.layers == fleet.aggregator.version("0-4").layers
    assert "held" in fleet.aggregator.fleet.waiting_for

    fleet.aggregator.stop()
    fleet.aggregator.start()
    fleet.run_for(600)
    assert len(fleet.aggregator.reports) == 7, "a restart does not let it go on"

    fleet.devices["pi-0"].tamper = None
    go_back(fleet, msgspec.structs.replace(held, guard=msgspec.UNSET))  # `fedlag model rollback ... latest`
    reports = fleet.run(3)
    assert [(it.epoch, it.round_number, it.held) for it in reports] == [(3, number, "") for number in (4, 5, 6)]
    assert all(len(it.counted) == 5 for it in reports)


@pytest.mark.parametrize("num_effects", [0, 1, 2, 3])
def test_an_aggregator_killed_while_it_goes_back_goes_back_when_it_starts(
    make_fleet: MakeFleet, num_effects: int
) -> None:
    calm, fleet = (make_fleet("fedavg", alike=True, num_devices=5, num_rounds=7, **GUARD) for _ in range(2))
    for it in (calm, fleet):
        poison(it.devices["pi-0"], 4)
    calm.run(10)
    fleet.run(4)
    stored = [name for name in fleet.devices if name != "pi-4"]
    fleet.devices["pi-4"].train_s = 5.0
    fleet.run_until(lambda: set(fleet.aggregator._stored) == set(stored), 60)
    fleet.network.at(fleet.network.now_s + 0.5, lambda: fleet.aggregator.cut_power_after(num_effects, 1.0))
    fleet.run(6)
    assert places(fleet) == places(calm)
    assert fleet.aggregator.state.layers == calm.aggregator.state.layers


def test_the_last_averages_are_looked_at_too(make_fleet: MakeFleet) -> None:
    fleet = make_fleet("fedavg", alike=True, num_devices=5, num_rounds=4, **GUARD)
    poison(fleet.devices["pi-0"], 4)
    fleet.run(7)
    assert places(fleet)[4:] == [(0, 5, True), (1, 4, False), (1, 5, False)]
    assert fleet.aggregator.state.is_finished


def test_a_liar_about_its_loss_makes_a_believing_fleet_go_back_and_not_one_that_doubts(make_fleet: MakeFleet) -> None:
    def lie(work: RoundWork, outcome: RoundOutcome) -> RoundOutcome:
        awful = msgspec.structs.replace(outcome.before, loss=1e9)
        return outcome._replace(before=awful) if work.plan.round_number > 2 else outcome

    believing = make_fleet("fedavg", alike=True, num_devices=5, **GUARD)
    doubting = make_fleet(
        "fedavg", alike=True, num_devices=5, averaging=AveragingSettings(malicious_share=0.2), **GUARD
    )
    for fleet in (believing, doubting):
        fleet.devices["pi-0"].tamper = lie
        fleet.run(4)
    assert any(it.held for it in believing.aggregator.reports)
    assert not any(it.held for it in doubting.aggregator.reports)


@pytest.mark.parametrize("selector", ["fedavg", "fedper", "fedlag-swap"])
def test_a_fleet_whose_devices_differ_runs_with_a_guard_as_it_does_without(
    make_fleet: MakeFleet, selector: str
) -> None:
    plain, guarded = make_fleet(selector, num_devices=4), make_fleet(selector, num_devices=4, guard=0.5)
    for fleet in (plain, guarded):
        fleet.run(15)
    assert not any(it.held for it in guarded.aggregator.reports)
    assert guarded.aggregator.state.layers == plain.aggregator.state.layers
    assert guarded.aggregator.state.plan == plain.aggregator.state.plan
