"""What a device may send of its own accord, and what it was asked for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.allowance import Allowance, Allowances, Load, allowance_of
from simulations.loopback.numpy_program import perceptron_manifest
from wire.errors import WireError
from wire.messages import Acknowledgement, Invitation, WantedPart
from wire.tensors import max_encoded_bytes
from wire.topics import ACKNOWLEDGEMENT, INVITATION, Address, Envelope

MANIFEST = perceptron_manifest([64, 300, 200, 10])
SMALL = Allowance(at_once=Load(10, 1000), per_s=Load(1, 100), per_round=Load(3, 300), part_bytes=50)
DIGEST = "0" * 64


def passes(allowances: Allowances, device_id: str, num_bytes: int, now_s: float) -> bool:
    try:
        allowances.take(device_id, num_bytes, now_s)
    except WireError as error:
        return error.reason != "flooding"
    return True


def wanted(device_id: str, num_parts: int) -> Envelope:
    parts = tuple(WantedPart(DIGEST, index) for index in range(num_parts))
    message = Acknowledgement(epoch=0, round_number=1, inventory=DIGEST, state="wanted", wanted=parts)
    return Envelope(Address(ACKNOWLEDGEMENT, device_id), message)


@given(messages=st.lists(st.tuples(st.floats(0, 5), st.integers(0, 2000)), max_size=200))
def test_what_passes_is_at_most_a_full_bucket_and_what_time_has_added(messages: list[tuple[float, int]]) -> None:
    allowances, now_s, count, total = Allowances(SMALL), 0.0, 0, 0
    for pause_s, num_bytes in messages:
        now_s += pause_s
        if passes(allowances, "mad", num_bytes, now_s):
            count, total = count + 1, total + num_bytes
        assert count <= 10 + now_s + 1e-6
        assert total <= 1000 + 100 * now_s + 1e-6


@given(others=st.lists(st.tuples(st.text("ab", min_size=1, max_size=3), st.integers(0, 2000)), max_size=200))
def test_what_others_send_takes_nothing_from_a_device(others: list[tuple[str, int]]) -> None:
    allowances = Allowances(SMALL)
    for name, num_bytes in others:
        passes(allowances, name, num_bytes, 0.0)
    assert all(passes(allowances, "kitchen", 100, 0.0) for _ in range(10))


@pytest.mark.parametrize("part_bytes", [1024, 16 * 1024, 128 * 1024])
def test_a_device_that_says_its_summary_every_two_seconds_and_sends_all_that_is_wanted_is_never_limited(
    part_bytes: int,
) -> None:
    allowances = Allowances(allowance_of(MANIFEST, 1024, part_bytes))
    sizes = [max_encoded_bytes(layer) for layer in MANIFEST.layers]
    parts = [min(part_bytes, size - begin) for size in sizes for begin in range(0, size, part_bytes)]
    for turn in range(40):
        now_s = 2.0 * turn
        assert passes(allowances, "kitchen", 60_000, now_s)
        allowances.grant(wanted("kitchen", len(parts)), now_s)
        assert all(passes(allowances, "kitchen", size + 200, now_s) for size in parts)


def test_a_fleet_whose_rounds_take_no_time_is_never_limited() -> None:
    allowances = Allowances(allowance_of(MANIFEST, 1024, 128 * 1024))
    for _ in range(1000):
        allowances.grant(Envelope(Address(INVITATION, "kitchen"), Invitation(plan=DIGEST)), 0.0)
        assert all(passes(allowances, "kitchen", 200, 0.0) for _ in range(3))
        assert all(passes(allowances, "kitchen", 60_000, 0.0) for _ in range(2))
        allowances.grant(wanted("kitchen", 3), 0.0)
        assert all(passes(allowances, "kitchen", 100_000, 0.0) for _ in range(3))


def test_what_was_asked_for_fills_a_bucket_and_no_more() -> None:
    allowances = Allowances(SMALL)
    assert sum(passes(allowances, "mad", 0, 0.0) for _ in range(100)) == 10
    for _ in range(100):
        allowances.grant(wanted("mad", 5), 0.0)
    assert sum(passes(allowances, "mad", 0, 0.0) for _ in range(100)) == 10
    allowances.grant(wanted("mad", 0), 0.0)
    assert not passes(allowances, "mad", 0, 0.0)


@given(names=st.lists(st.integers(0, 10_000), max_size=300))
def test_whatever_names_are_made_up_no_more_buckets_are_kept_than_there_is_room_for(names: list[int]) -> None:
    allowances = Allowances(SMALL, max_devices=5)
    count = sum(passes(allowances, f"pi-{name}", 0, 0.0) for name in names)
    assert allowances.num_devices <= 5
    assert count <= 10 * 6  # those who found no room share a bucket
    assert passes(allowances, "later", 0, 100.0)
    assert allowances.num_devices == 1  # the others are full again, and forgotten


def test_time_that_goes_back_adds_nothing() -> None:
    allowances = Allowances(SMALL)
    assert sum(passes(allowances, "mad", 0, 50.0) for _ in range(100)) == 10
    assert not passes(allowances, "mad", 0, 0.0)
