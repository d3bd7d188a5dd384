"""What the aggregator promises of a round: when it closes, who is counted, and how much is under way."""

from __future__ import annotations

import numpy as np
import pytest

from aggregator.round import Round
from simulations.loopback.fleet import LoopbackFleet
from tests.machines.conftest import MakeFleet
from tests.machines.test_devices import told


def test_a_round_without_a_quorum_goes_on_and_asks_newcomers(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(num_devices=4, cohort_size=3, quorum=3, duration_s=60.0)
    fleet.run_until(lambda: open_round(fleet) is not None, 60)
    round_ = open_round(fleet)
    assert round_ is not None
    cohort = round_.cohort
    (newcomer,) = set(fleet.devices) - set(cohort)
    fleet.devices[cohort[0]].stop()
    report = fleet.run(1)[-1]
    assert report.duration_s > 60
    assert newcomer in report.counted
    assert report.dropouts == (cohort[0],)


def test_a_round_with_a_quorum_closes_at_its_deadline(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(num_devices=3, quorum=2, duration_s=60.0)
    fleet.devices["pi-1"].train_s = 1000.0
    report = fleet.run(1)[-1]
    assert tuple(report.counted) == ("pi-0", "pi-2")
    assert report.dropouts == ("pi-1",)
    assert 60 <= report.duration_s < 62


def test_a_round_does_not_wait_for_a_device_that_is_lost(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(num_devices=3, quorum=2)
    fleet.run_until(lambda: open_round(fleet) is not None, 60)
    fleet.devices["pi-1"].stop()
    assert fleet.run(1)[-1].duration_s < 10


def test_a_clock_that_jumps_past_the_deadline_loses_nobody_of_a_quorum_of_all(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(num_devices=3)
    fleet.run_until(lambda: open_round(fleet) is not None, 60)
    fleet.network.now_s += 100_000
    assert len(fleet.run(1)[-1].counted) == 3


def test_the_window_bounds_what_is_under_way(make_fleet: MakeFleet) -> None:
    window = 2500  # two uploads of about 1 KB
    fleet = make_fleet(num_devices=6, window_bytes=window)
    most, waited = 0, 0
    while len(fleet.aggregator.reports) < 2:
        fleet.network.step()
        round_ = fleet.aggregator.fleet._round
        answers = list(round_._answers.values()) if round_ else []
        granted = [it.missing_bytes for it in answers if it.granted_s is not None]
        most = max(most, sum(granted))
        waited += any(it.granted_s is None and not it.is_stored for it in answers)
    assert 0 < most <= window
    assert waited


@pytest.mark.parametrize("vanishing", ["pi-0", "pi-2"])
def test_who_vanishes_with_a_grant_does_not_hold_the_window(vanishing: str, make_fleet: MakeFleet) -> None:
    fleet = make_fleet(num_devices=3, quorum=2, window_bytes=1)
    for name, device in fleet.devices.items():
        device.train_s = 1.0 if name == vanishing else 2.0
    fleet.run_until(lambda: (1, "wanted", "") in told(fleet, vanishing), 60)
    fleet.devices[vanishing].disconnect()
    fleet.run_until(lambda: bool(fleet.aggregator.reports), 150)
    assert vanishing not in fleet.aggregator.reports[-1].counted


def test_who_comes_back_after_losing_its_grant_is_counted(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(num_devices=3, window_bytes=1)
    fleet.run_until(lambda: any(state == "wanted" for _, state, _ in told(fleet, "pi-0")), 60)
    fleet.devices["pi-0"].disconnect()
    fleet.run_for(200)
    fleet.devices["pi-0"].connect()
    assert tuple(fleet.run(1)[-1].counted) == ("pi-0", "pi-1", "pi-2")


def test_who_repeats_itself_after_the_close_hears_counted_again(make_fleet: MakeFleet) -> None:
    fleet = make_fleet()
    fleet.run(2)
    summaries = [it for it in fleet.network.log if it.topic.endswith("/pi-0/up/summary")]
    before = told(fleet, "pi-0").count((1, "counted", ""))
    weights = fleet.aggregator.state.layers
    fleet.network.publish("pi-0", summaries[0].topic, summaries[0].payload)
    fleet.run_for(0.05)
    assert told(fleet, "pi-0").count((1, "counted", "")) == before + 1
    assert fleet.aggregator.state.layers == weights


def test_an_aggregator_that_is_killed_goes_on_with_the_open_round(make_fleet: MakeFleet) -> None:
    calm, fleet = make_fleet(num_devices=3), make_fleet(num_devices=3)
    calm.run(2)
    fleet.devices["pi-2"].train_s = 30.0
    fleet.run_until(lambda: (1, "stored", "") in told(fleet, "pi-0"), 60)
    fleet.aggregator.stop()
    fleet.run_for(5)
    fleet.aggregator.start()
    fleet.run(2)
    assert fleet.aggregator.state == calm.aggregator.state


def test_who_was_stored_before_the_aggregator_was_killed_sends_no_part_again(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(num_devices=3)
    fleet.devices["pi-2"].train_s = 30.0
    fleet.run_until(lambda: (1, "stored", "") in told(fleet, "pi-0"), 60)
    before = sum("/d/pi-0/up/update/" in message.topic for message in fleet.network.log)
    fleet.aggregator.stop()
    fleet.aggregator.start()
    report = fleet.run(1)[-1]
    assert tuple(report.counted) == ("pi-0", "pi-1", "pi-2")
    assert sum("/d/pi-0/up/update/" in message.topic for message in fleet.network.log) == before > 0


def test_an_aggregator_that_is_killed_waits_for_those_it_has_not_heard_of_again(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(num_devices=3, quorum=1)
    fleet.devices["pi-2"].train_s = 30.0
    fleet.run_until(lambda: all((1, "stored", "") in told(fleet, name) for name in ("pi-0", "pi-1")), 60)
    fleet.aggregator.stop()
    fleet.network.detach("pi-2")  # its link comes back a moment later than the aggregator's
    fleet.aggregator.start()
    fleet.run_for(2)
    fleet.devices["pi-2"].connect()
    assert tuple(fleet.run(1)[-1].counted) == ("pi-0", "pi-1", "pi-2")


def test_who_repeats_itself_after_a_restart_hears_counted_again(make_fleet: MakeFleet) -> None:
    fleet = make_fleet()
    fleet.run(2)
    (summary, *_) = (it for it in fleet.network.log if it.topic.endswith("/pi-0/up/summary"))
    fleet.aggregator.stop()
    fleet.aggregator.start()
    fleet.run_for(2)
    before = told(fleet, "pi-0").count((1, "counted", ""))
    fleet.network.publish("pi-0", summary.topic, summary.payload)
    fleet.run_for(0.05)
    assert told(fleet, "pi-0").count((1, "counted", "")) == before + 1


def test_all_that_is_acknowledged_as_stored_is_in_the_average(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(num_devices=4, quorum=3, duration_s=60.0)
    rng = np.random.default_rng(0)
    for _ in range(6):
        slow = f"pi-{int(rng.integers(4))}"
        for name, device in fleet.devices.items():
            device.train_s = 59.9 if name == slow else 1.0
        report = fleet.run(1)[-1]
        stored = {name for name in fleet.devices if (report.round_number, "stored", "") in told(fleet, name)}
        assert stored == set(report.counted)


def open_round(fleet: LoopbackFleet) -> Round | None:
    return fleet.aggregator.fleet._round
