"""An aggregator that has lost its latest rounds: its devices have seen more than it has."""

from __future__ import annotations

import msgspec

from aggregator.planning import FleetState
from simulations.loopback.fleet import LoopbackFleet
from tests.machines.conftest import MakeFleet
from tests.machines.test_devices import told
from wire.messages import DeviceStatus
from wire.topics import STATUS, Address, Envelope


def go_back(fleet: LoopbackFleet, version: FleetState) -> None:
    """Do what the server does when it is asked to go back."""
    plan = msgspec.structs.replace(version.plan, epoch=fleet.aggregator.state.plan.epoch + 1)
    layers = {digest: fleet.aggregator._layers[digest] for digest in version.layers.values()}
    state = msgspec.structs.replace(version, plan=plan)
    fleet.aggregator._perform(fleet.aggregator.fleet.go_on_from(state, layers))


def test_an_aggregator_restored_from_a_backup_rises_above_what_its_devices_have_seen(make_fleet: MakeFleet) -> None:
    fleet = make_fleet("fedavg", num_rounds=12)
    fleet.run(2)
    backup, layers = fleet.aggregator._checkpoint, dict(fleet.aggregator._layers)
    fleet.run(4)
    fleet.aggregator.stop()
    fleet.aggregator._checkpoint, fleet.aggregator._layers = backup, layers
    fleet.aggregator.start()
    reports = fleet.run(11)
    assert [(report.epoch, report.round_number) for report in reports] == [(1, number) for number in range(3, 14)]
    assert all(len(report.counted) == 3 for report in reports)


def test_a_rollback_goes_on_with_the_layers_and_the_personal_set_of_then(make_fleet: MakeFleet) -> None:
    fleet = make_fleet("fedlag-paper", {"num_personal": 1, "num_warmup_rounds": 2})
    fleet.run(1)
    before = fleet.aggregator.state
    fleet.run(5)
    assert fleet.aggregator.state.plan.personal_layers
    assert not before.plan.personal_layers
    go_back(fleet, before)
    report = fleet.run(1)[-1]
    assert (report.epoch, report.round_number, report.personal_layers) == (1, 2, ())
    assert len(report.counted) == 3
    published = [it.topic for it in fleet.network.log if "/model/" in it.topic]
    for digest in before.layers.values():
        assert any(digest in topic for topic in published)
    fleet.run(3)
    assert fleet.aggregator.state.plan.personal_layers


def test_a_rollback_in_the_middle_of_a_round_refuses_what_was_trained_for_it(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(num_devices=3)
    fleet.run(2)
    before = fleet.aggregator.state
    fleet.run(1)
    fleet.run_until(lambda: any((4, "stored", "") in told(fleet, name) for name in fleet.devices), 60)
    go_back(fleet, before)
    reports = fleet.run(2)
    assert [(report.epoch, report.round_number) for report in reports] == [(1, 3), (1, 4)]
    assert all(len(report.counted) == 3 for report in reports)


def test_a_device_whose_claim_is_beyond_belief_is_refused_and_the_fleet_goes_on(make_fleet: MakeFleet) -> None:
    fleet = make_fleet("fedavg", num_rounds=4)
    fleet.run(1)

    claim = DeviceStatus(state="ready", session=9, epoch=2**53, round_number=1)
    fleet.devices["pi-0"].publish(Envelope(Address(STATUS, "pi-0"), claim))
    reports = fleet.run(4)
    assert {report.epoch for report in reports} == {0}
    assert reports[-1].refused_messages["foreign-round"] >= 1
