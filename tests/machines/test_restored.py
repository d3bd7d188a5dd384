"""An aggregator that has lost its latest rounds: its devices have seen more than it has."""

from __future__ import annotations

from tests.machines.conftest import MakeFleet
from wire.messages import DeviceStatus
from wire.topics import STATUS, Address, Envelope


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


def test_a_device_whose_claim_is_beyond_belief_is_refused_and_the_fleet_goes_on(make_fleet: MakeFleet) -> None:
    fleet = make_fleet("fedavg", num_rounds=4)
    fleet.run(1)

    claim = DeviceStatus(state="ready", session=9, epoch=2**53, round_number=1)
    fleet.devices["pi-0"].publish(Envelope(Address(STATUS, "pi-0"), claim))
    reports = fleet.run(4)
    assert {report.epoch for report in reports} == {0}
    assert reports[-1].refused_messages["foreign-round"] >= 1
