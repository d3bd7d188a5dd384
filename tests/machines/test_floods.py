"""A device that floods is limited, and the others do not notice."""

from __future__ import annotations

from functools import partial

import pytest

import aggregator.intake
import aggregator.summaries
from aggregator.summaries import Summaries
from simulations.loopback.fleet import LoopbackFleet
from simulations.loopback.numpy_program import NumpyProgram
from tests.machines.conftest import MakeFleet
from wire.messages import Part
from wire.topics import decode_payload


def stored_at(fleet: LoopbackFleet, device_id: str) -> list[float]:
    """When the aggregator told a device that its upload is durable."""
    topic = f"d/{device_id}/down/ack"
    return [it.time_s for it in fleet.network.log if it.topic.endswith(topic) and b"stored" in it.payload]


def flood(fleet: LoopbackFleet, device_id: str, seconds: int, per_s: int) -> None:
    for second in range(seconds):
        fleet.network.at(second + 0.5, partial(fleet.devices[device_id].flood, per_s))


def test_honest_devices_beside_one_that_floods_are_counted_in_the_same_time(
    make_fleet: MakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm, flooded = (make_fleet(num_devices=4, quorum=3, duration_s=30.0) for _ in range(2))
    decoded = 0

    def counting(*given: object) -> object:
        nonlocal decoded
        decoded += 1
        return decode_payload(*given)  # type: ignore[arg-type]

    calm.run(4)
    monkeypatch.setattr(aggregator.intake, "decode_payload", counting)
    flood(flooded, "pi-0", seconds=30, per_s=1000)
    flooded.run(4)
    for name in ("pi-1", "pi-2", "pi-3"):
        assert stored_at(flooded, name)[:1] == stored_at(calm, name)[:1]
        assert all(name in report.counted for report in flooded.aggregator.reports)
    assert flooded.aggregator.limited == {"pi-0"}
    dropped = flooded.aggregator.reports[-1].refused_messages["flooding"]
    assert dropped > 1000 * (flooded.network.now_s - 1.5) - 500
    assert decoded < 500 + 20 * flooded.network.now_s


def test_a_device_that_has_stopped_to_flood_takes_part_again(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(num_devices=3, quorum=2, duration_s=30.0)
    flood(fleet, "pi-0", seconds=3, per_s=2000)
    assert "pi-0" in fleet.run(3)[-1].counted


def test_a_flood_makes_a_few_lines_in_the_log(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(num_devices=3)
    flood(fleet, "pi-0", seconds=2, per_s=2000)
    fleet.run(1)
    intake = fleet.aggregator._intake
    assert intake is not None
    lines = intake.complaints.lines(fleet.network.now_s)
    assert 0 < len(lines) <= 3  # one for each reason
    assert any("pi-0" in line and "flooding" in line for line in lines)


def test_summaries_that_are_begun_under_names_that_are_made_up_take_bounded_memory(
    program: NumpyProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aggregator.summaries, "MAX_BYTES", 0)
    summaries = Summaries(program.manifest, 1024)
    part = Part(digest="0" * 64, index=0, num_parts=2, size_bytes=2048, data=bytes(1024))
    for number in range(1000):
        assert summaries.add(f"made-up-{number}", part) is None
    assert len(summaries._begun) == 16
