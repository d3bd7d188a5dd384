"""A device that drops out again and again is left alone for a while, also by an aggregator that was killed."""

from __future__ import annotations

from simulations.loopback.fleet import LoopbackFleet
from tests.machines.conftest import MakeFleet
from wire.messages import Invitation
from wire.topics import INVITATION, decode_payload, parse_topic


def asked(fleet: LoopbackFleet, device_id: str) -> list[int]:
    """The closed rounds in which this device was asked."""
    plans = {report.plan: report.round_number for report in fleet.aggregator.reports}
    rounds = set()
    for crossing in fleet.network.log:
        address = parse_topic("home", crossing.topic)
        if address.route is INVITATION and address.device_id == device_id:
            message = decode_payload(address, crossing.payload)
            assert isinstance(message, Invitation)
            rounds.add(plans.get(message.plan, 0))
    return sorted(rounds - {0})


def make_with_a_straggler(make_fleet: MakeFleet) -> LoopbackFleet:
    fleet = make_fleet(num_devices=3, quorum=2, duration_s=60.0)
    fleet.devices["pi-2"].train_s = 90.0
    return fleet


def test_a_device_that_drops_out_in_every_round_is_asked_ever_more_rarely(make_fleet: MakeFleet) -> None:
    fleet = make_with_a_straggler(make_fleet)
    reports = fleet.run(12)
    assert asked(fleet, "pi-2") == [1, 2, 4, 7, 12]
    assert [report.round_number for report in reports if report.dropouts] == [1, 2, 4, 7, 12]
    assert all(report.duration_s < 10 for report in reports if not report.dropouts)


def test_an_aggregator_that_was_killed_leaves_the_same_device_alone(make_fleet: MakeFleet) -> None:
    fleet = make_with_a_straggler(make_fleet)
    for _ in range(8):
        fleet.run(1)
        fleet.aggregator.stop()
        fleet.aggregator.start()
    assert asked(fleet, "pi-2") == [1, 2, 4, 7]


def test_one_success_and_it_is_asked_in_every_round_again(make_fleet: MakeFleet) -> None:
    fleet = make_with_a_straggler(make_fleet)
    fleet.run(6)
    fleet.devices["pi-2"].train_s = 1.0
    fleet.run_until(lambda: "pi-2" in fleet.aggregator.reports[-1].counted, 3600)
    assert fleet.aggregator.state.setbacks == {}
    assert all("pi-2" in report.counted for report in fleet.run(4))


def test_where_all_must_answer_nobody_is_left_out(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(num_devices=3, quorum=3, duration_s=60.0)
    fleet.devices["pi-2"].train_s = 90.0
    assert all(len(report.counted) == 3 for report in fleet.run(4))
