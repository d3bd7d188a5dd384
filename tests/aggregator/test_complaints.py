"""A log that a flood does not fill."""

from __future__ import annotations

from aggregator.complaints import MAX_TOPICS, Complaints
from wire.errors import WireError

FLOOD = WireError("flooding", "too much")


def test_a_thousand_messages_make_one_line_at_once_and_one_with_their_number_each_minute() -> None:
    complaints = Complaints()
    for _ in range(1000):
        complaints.note("kitchen", FLOOD, 0.0)
    assert complaints.lines(0.0) == ["refused a message of kitchen: flooding: too much"]
    assert complaints.lines(59.0) == []
    assert complaints.lines(60.0) == ["refused 999 more messages of kitchen in 60 s: flooding"]
    complaints.note("kitchen", FLOOD, 61.0)
    assert complaints.lines(61.0) == []
    assert complaints.lines(121.0) == ["refused 1 more messages of kitchen in 61 s: flooding"]
    assert complaints.lines(181.0) == []
    complaints.note("kitchen", FLOOD, 200.0)
    assert len(complaints.lines(200.0)) == 1


def test_devices_and_reasons_are_told_apart() -> None:
    complaints = Complaints()
    complaints.note("kitchen", FLOOD, 0.0)
    complaints.note("attic", FLOOD, 0.0)
    complaints.note("attic", WireError("malformed", "no message"), 0.0)
    assert len(complaints.lines(0.0)) == 3


def test_names_that_are_made_up_share_a_line() -> None:
    complaints = Complaints()
    for number in range(10 * MAX_TOPICS):
        complaints.note(f"made-up-{number}", FLOOD, 0.0)
    lines = complaints.lines(0.0)
    assert len(lines) == MAX_TOPICS + 1
    assert lines[-1] == "refused a message of other devices: flooding: too much"
    assert complaints.lines(60.0) == ["refused 8999 more messages of other devices in 60 s: flooding"]
