"""Buffered rounds: nobody waits for the slowest, whose update counts all the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from aggregator.config import AggregatorConfig
from simulations.faults.invariants import broken_invariants
from simulations.loopback.fleet import LoopbackFleet
from simulations.loopback.network import Crossing, Delivery
from tests.machines.conftest import MakeFleet, Works, make_config
from tests.machines.test_devices import told
from wire.codec import decode_message
from wire.errors import WireError
from wire.messages import LayerSummary, Part, Summary
from wire.topics import decode_payload, parse_topic


def make_buffered(make_fleet: MakeFleet, selector: str = "fedavg", *arguments: Any, **options: Any) -> LoopbackFleet:
    given: dict[str, Any] = {"mode": "buffered", "num_devices": 3, "quorum": 2, "buffer_size": 2, "cohort_size": 10}
    return make_fleet(selector, *arguments, **{**given, **options})


def sent(fleet: LoopbackFleet, device_id: str, since: int = 0) -> list[str]:
    """Topics of what a device has sent."""
    return [crossing.topic for crossing in fleet.network.log[since:] if crossing.sender == device_id]


def test_a_slow_devices_update_is_counted_in_a_later_version(make_fleet: MakeFleet, works: Works) -> None:
    fleet = make_buffered(make_fleet)
    fleet.devices["pi-2"].train_s = 4.0
    fleet.run_until(lambda: "pi-2" in fleet.aggregator.reports[-1].counted if fleet.aggregator.reports else False, 600)
    *before, last = fleet.aggregator.reports
    staleness = last.counted["pi-2"].staleness
    assert staleness == len(before) > 0
    assert ("pi-2", 1) in works
    assert all(tuple(report.counted) == ("pi-0", "pi-1") for report in before)
    assert all(report.duration_s < 4 for report in before)
    assert all(report.dropouts == () for report in fleet.aggregator.reports)
    fleet.run_until(lambda: (1, "counted", "") in told(fleet, "pi-2"), 60)
    fleet.run(6)
    assert [number for name, number in works if name == "pi-2"][1] == last.round_number + 1


def test_a_version_is_made_of_as_many_updates_as_the_buffer_holds(make_fleet: MakeFleet) -> None:
    fleet = make_buffered(make_fleet, num_devices=5, buffer_size=3)
    for index, device in enumerate(fleet.devices.values()):
        device.train_s = 1.0 + 0.7 * index
    reports = fleet.run(12)
    assert {len(report.counted) for report in reports} == {3}
    assert {name for report in reports for name in report.counted} == set(fleet.devices)
    assert max(figures.staleness for report in reports for figures in report.counted.values()) > 0


def test_where_all_are_as_fast_buffered_rounds_have_the_bits_of_synchronous_ones(make_fleet: MakeFleet) -> None:
    synchronous = make_fleet("fedlag", num_devices=3)
    buffered = make_buffered(make_fleet, "fedlag", buffer_size=3, quorum=3)
    for fleet in (synchronous, buffered):
        fleet.run(10)
    assert synchronous.aggregator.state.layers == buffered.aggregator.state.layers
    assert synchronous.aggregator.state.selector_state == buffered.aggregator.state.selector_state


def test_what_began_too_long_ago_is_refused_and_the_device_begins_anew(make_fleet: MakeFleet) -> None:
    fleet = make_buffered(make_fleet, max_staleness=1)
    fleet.devices["pi-2"].train_s = 30.0
    fleet.run_until(lambda: (1, "refused", "late") in told(fleet, "pi-2"), 600)
    fleet.devices["pi-2"].train_s = 1.0
    fleet.run_until(lambda: "pi-2" in fleet.aggregator.reports[-1].counted, 600)
    assert fleet.aggregator.reports[-1].counted["pi-2"].staleness <= 1


def test_an_aggregator_that_is_killed_in_the_middle_of_a_buffer_goes_on_with_it(make_fleet: MakeFleet) -> None:
    fleets = [make_buffered(make_fleet, num_devices=3, buffer_size=3, quorum=3) for _ in range(2)]
    for fleet in fleets:
        fleet.devices["pi-2"].train_s = 20.0
        fleet.run_until(lambda fleet=fleet: (1, "stored", "") in told(fleet, "pi-0"), 60)  # type: ignore[misc]
    calm, killed = fleets
    before = sum("/up/update/" in topic for topic in sent(killed, "pi-0"))
    killed.aggregator.stop()
    killed.run_for(5)
    killed.aggregator.start()
    for fleet in fleets:
        fleet.run(1)
    assert killed.aggregator.state == calm.aggregator.state
    assert sum("/up/update/" in topic for topic in sent(killed, "pi-0")) == before > 0


def test_an_aggregator_that_is_killed_still_counts_the_answer_to_an_earlier_plan(make_fleet: MakeFleet) -> None:
    fleet = make_buffered(make_fleet)
    fleet.devices["pi-2"].train_s = 6.0
    fleet.run(2)
    fleet.aggregator.stop()
    fleet.aggregator.start()
    fleet.run_until(lambda: "pi-2" in fleet.aggregator.reports[-1].counted, 600)
    assert fleet.aggregator.reports[-1].counted["pi-2"].staleness >= 2


def test_of_a_layer_that_has_become_personal_nothing_is_sent_and_the_rest_is_counted(make_fleet: MakeFleet) -> None:
    fleet = make_buffered(make_fleet, "fedlag-paper", {"num_personal": 1, "num_warmup_rounds": 2})
    fleet.devices["pi-2"].train_s = 6.0
    fleet.run(2)
    (layer,) = fleet.aggregator.state.plan.personal_layers
    fleet.run_until(lambda: "pi-2" in fleet.aggregator.reports[-1].counted, 600)
    generation, last = fleet.devices["pi-2"].generation, fleet.aggregator.reports[-1]
    assert generation is not None
    assert (generation.round_number, last.round_number) == (1, 1 + last.counted["pi-2"].staleness)
    assert layer in last.personal_layers
    uploaded = {topic.split("/")[-2] for topic in sent(fleet, "pi-2") if "/up/update/" in topic}
    expected = {item.digest for item in generation.upload.summary.inventory if item.layer != layer}
    assert uploaded == expected
    for crossing in fleet.network.log:
        if crossing.topic.endswith("/pi-2/up/summary"):
            part = decode_payload(parse_topic("home", crossing.topic), crossing.payload)
            assert isinstance(part, Part)
            told_of = decode_message(part.data, Summary, 1 << 20).layers
            assert told_of[layer] == LayerSummary(generation.upload.summary.layers[layer].norm)


def test_a_newcomer_takes_part_in_the_open_round(make_fleet: MakeFleet) -> None:
    fleet = make_buffered(make_fleet, num_devices=4, buffer_size=3)
    fleet.devices["pi-3"].stop()
    for name in ("pi-1", "pi-2"):
        fleet.devices[name].train_s = 50.0
    fleet.run_until(lambda: (1, "stored", "") in told(fleet, "pi-0"), 60)
    fleet.devices["pi-3"].start()
    fleet.run_until(lambda: (1, "stored", "") in told(fleet, "pi-3"), 10)


def test_a_round_that_cannot_fill_its_buffer_closes_with_a_quorum_at_the_deadline(make_fleet: MakeFleet) -> None:
    fleet = make_buffered(make_fleet, buffer_size=3, duration_s=60.0)
    fleet.devices["pi-2"].train_s = 1000.0
    report = fleet.run(1)[-1]
    assert tuple(report.counted) == ("pi-0", "pi-1")
    assert 60 <= report.duration_s < 62


def test_the_measuring_round_after_the_last_version_asks_everyone(make_fleet: MakeFleet) -> None:
    fleet = make_buffered(make_fleet, num_rounds=4)
    fleet.devices["pi-2"].train_s = 3.0
    last = fleet.run(5)[-1]
    assert tuple(last.counted) == ("pi-0", "pi-1", "pi-2")
    assert all(figures.train_loss == 0 for figures in last.counted.values())
    assert fleet.aggregator.state.is_finished


def test_a_fleet_that_becomes_buffered_goes_on_with_the_next_plan_and_back(make_fleet: MakeFleet) -> None:
    fleet = make_buffered(make_fleet, mode="synchronous")
    fleet.run(2)
    for mode in ("buffered", "synchronous"):
        rounds = msgspec.structs.replace(fleet.config.rounds, mode=mode)
        fleet.aggregator.stop()
        fleet.aggregator._config = msgspec.structs.replace(fleet.config, rounds=rounds)
        fleet.aggregator.start()
        fleet.run(3)
        assert (fleet.aggregator.state.plan.max_staleness is not msgspec.UNSET) is (mode == "buffered")
    assert fleet.aggregator.state.earlier_plans == ()
    assert [report.round_number for report in fleet.aggregator.reports] == list(range(1, 9))


@pytest.mark.parametrize("method", ["median", "trimmed-mean", "multi-krum"])
def test_robust_averages_hold_a_stale_liar_down(method: Any, make_fleet: MakeFleet) -> None:
    def run(lie: float) -> LoopbackFleet:
        fleet = make_buffered(make_fleet, num_devices=6, buffer_size=5, quorum=5, alike=True)
        averaging = msgspec.structs.replace(fleet.config.averaging, method=method, malicious_share=0.25)
        fleet.aggregator._config = msgspec.structs.replace(fleet.config, averaging=averaging)
        fleet.devices["pi-5"].train_s = 4.0
        fleet.devices["pi-5"].tamper = lambda _, outcome: outcome._replace(
            own={name: (values * lie).astype(np.float32) for name, values in outcome.own.items()}
        )
        fleet.run(6)
        return fleet

    honest, lying = run(1.0), run(1e6)
    assert any("pi-5" in it.counted and it.counted["pi-5"].staleness for it in lying.aggregator.reports)
    for layer in lying.aggregator.state.layers:
        assert np.abs(lying.aggregator.layer(layer) - honest.aggregator.layer(layer)).max() < 1.0


def test_a_buffer_that_contradicts_quorum_or_cohort_is_refused() -> None:
    wrong: list[dict[str, Any]] = [{"quorum": 3, "buffer_size": 2}, {"cohort_size": 5, "buffer_size": 6}]
    for sizes in wrong:
        make_config(**sizes)  # no matter while rounds are synchronous
        with pytest.raises(ValueError, match="must lie between the quorum"):
            make_config(mode="buffered", **sizes)
    config: AggregatorConfig = make_config(mode="buffered", cohort_size=5, buffer_size=5)
    assert config.rounds.max_staleness == 10


def test_a_summary_that_is_not_stale_must_hold_all_sketches(make_fleet: MakeFleet) -> None:
    fleet = make_buffered(make_fleet, buffer_size=3)
    fleet.devices["pi-2"].train_s = 1000.0
    fleet.run_until(lambda: fleet.devices["pi-0"].generation is not None, 60)
    generation, round_ = fleet.devices["pi-0"].generation, fleet.aggregator.fleet._round
    assert generation is not None
    assert round_ is not None
    summary = generation.upload.summary
    bare = msgspec.structs.replace(summary, layers={name: LayerSummary(it.norm) for name, it in summary.layers.items()})
    with pytest.raises(WireError, match="wrong-shape"):
        round_.receive_summary("pi-2", bare, fleet.network.now_s)


def test_an_upload_over_a_slow_link_goes_on_through_versions_that_close_meanwhile(make_fleet: MakeFleet) -> None:
    free_s = 0.0

    def slow_up(crossing: Crossing, receiver: str) -> Sequence[Delivery]:
        nonlocal free_s
        if crossing.sender != "pi-2" or receiver != "aggregator":
            return (Delivery(crossing.payload),)
        is_part = "/up/update/" in crossing.topic  # one after the other, 4 seconds each
        free_s = max(free_s, crossing.time_s) + (4.0 if is_part else 0.0)
        return (Delivery(crossing.payload, free_s - crossing.time_s),)

    fleet = make_buffered(make_fleet, policy=slow_up, max_staleness=50)
    fleet.run_until(lambda: bool(fleet.aggregator.reports) and "pi-2" in fleet.aggregator.reports[-1].counted, 600)
    assert fleet.aggregator.reports[-1].counted["pi-2"].staleness > 5
    parts = [topic for topic in sent(fleet, "pi-2") if "/up/update/" in topic]
    assert len(parts) <= 2 * len(set(parts))
    assert broken_invariants(fleet) == []
