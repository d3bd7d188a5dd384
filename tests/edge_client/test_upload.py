"""An upload is announced until the aggregator itself answers, and sends what it is asked for and nothing else."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_client.generation import Upload
from edge_client.upload import SUMMARY_PART_BYTES, UploadConversation
from wire.codec import decode_message
from wire.digest import content_digest
from wire.errors import WireError
from wire.messages import Acknowledgement, InventoryItem, LayerSummary, Measurement, Part, Summary, WantedPart
from wire.parts import Assembly
from wire.topics import SUMMARY, UPDATE, Address, Envelope

BLOB = bytes(range(250)) * 10
DIGEST = content_digest(BLOB)
MEASUREMENT = Measurement(0.5, 0.5, 10)


def upload(sketch_bytes: int = 4) -> Upload:
    summary = Summary(
        plan="a" * 64,
        epoch=1,
        round_number=3,
        num_examples=10,
        num_steps=1,
        train_loss=0.5,
        layers={"fc1": LayerSummary(1.0, bytes(sketch_bytes))},
        before=MEASUREMENT,
        after=MEASUREMENT,
        inventory=(InventoryItem("fc1", DIGEST, len(BLOB)),),
    )
    return Upload(summary, {DIGEST: BLOB}, 1024)


def conversation() -> UploadConversation:
    return UploadConversation("pi", upload())


def answer(state: Literal["wanted", "stored"] = "wanted", *wanted: WantedPart, inventory: str = "") -> Acknowledgement:
    return Acknowledgement(epoch=1, round_number=3, inventory=inventory or upload().digest, state=state, wanted=wanted)


def part_of(envelope: Envelope) -> Part:
    assert isinstance(envelope.message, Part)
    return envelope.message


def test_nothing_is_said_before_it_is_announced() -> None:
    assert conversation().tick(1e9) == []


@pytest.mark.parametrize("sketch_bytes", [4, 3 * SUMMARY_PART_BYTES])
def test_the_summarys_parts_give_the_summary(sketch_bytes: int) -> None:
    held = upload(sketch_bytes)
    envelopes = UploadConversation("pi", held).announce(0)
    assert {envelope.address for envelope in envelopes} == {Address(SUMMARY, "pi")}
    parts = [part_of(envelope) for envelope in envelopes]
    blob, assembly = None, Assembly(parts[0].digest, parts[0].size_bytes)
    for part in parts:
        blob = assembly.add(part)
    assert blob is not None
    assert decode_message(blob, Summary, len(blob)) == held.summary


def test_silence_is_answered_with_a_backoff_that_doubles_up_to_a_minute_or_two() -> None:
    talk = conversation()
    talk.announce(0)
    now, waits = 0.0, []
    for _ in range(12):
        start = now
        while not talk.tick(now):
            now += 0.25
        waits.append(now - start)
    for number, wait in enumerate(waits):
        delay = min(2.0 * 2**number, 60.0)
        assert delay <= wait <= 2 * delay + 0.25


def test_devices_spread_their_repeats_and_a_repeat_is_the_same() -> None:
    def first_repeat(device_id: str) -> float:
        talk = UploadConversation(device_id, upload())
        talk.announce(0)
        return next(tenth / 10 for tenth in range(100) if talk.tick(tenth / 10))

    delays = [first_repeat(f"pi-{i}") for i in range(20)]
    assert len(set(delays)) > 5
    assert delays == [first_repeat(f"pi-{i}") for i in range(20)]


def test_a_repeat_says_the_same() -> None:
    talk = conversation()
    assert talk.announce(0) == talk.tick(100)


@given(st.lists(st.integers(0, 2), max_size=3, unique=True))
def test_wanted_parts_and_they_alone_are_sent(indices: list[int]) -> None:
    wanted = [WantedPart(DIGEST, index) for index in indices]
    envelopes = conversation().answer(answer("wanted", *wanted), 0)
    assert [envelope.address for envelope in envelopes] == [Address(UPDATE, "pi", DIGEST, index) for index in indices]
    for envelope in envelopes:
        part = part_of(envelope)
        assert part.data == BLOB[part.index * 1024 : (part.index + 1) * 1024]


def test_an_acknowledgement_that_wants_a_part_twice_is_refused_before_it_takes_memory() -> None:
    with pytest.raises(WireError) as refusal:
        conversation().answer(answer("wanted", *[WantedPart(DIGEST, 0)] * 2), 0)
    assert refusal.value.reason == "malformed"


@pytest.mark.parametrize("wanted", [WantedPart(DIGEST, 3), WantedPart("d" * 64, 0)])
def test_a_part_that_is_not_in_the_upload_is_refused(wanted: WantedPart) -> None:
    with pytest.raises(WireError) as refusal:
        conversation().answer(answer("wanted", wanted), 0)
    assert refusal.value.reason == "wrong-digest"


def test_an_acknowledgement_of_another_upload_changes_nothing() -> None:
    talk = conversation()
    talk.announce(0)
    with pytest.raises(WireError) as refusal:
        talk.answer(answer("stored", inventory="d" * 64), 0)
    assert refusal.value.reason == "foreign-round"
    assert talk.tick(100) != []


def test_a_full_window_is_asked_again() -> None:
    talk = conversation()
    talk.announce(0)
    assert talk.answer(answer(), 1.0) == []
    assert talk.tick(2.9) == []
    assert talk.tick(10) != []


def test_a_stored_upload_is_silent_until_the_link_comes_back() -> None:
    talk = conversation()
    talk.announce(0)
    assert talk.answer(answer("stored"), 1.0) == []
    assert talk.tick(1e6) == []
    assert talk.announce(1e6) != []


def test_an_answer_that_wants_parts_starts_the_backoff_anew() -> None:
    talk = conversation()
    talk.announce(0)
    for now in (100.0, 200.0, 300.0):
        assert talk.tick(now)
    talk.answer(answer("wanted", WantedPart(DIGEST, 0)), 400.0)
    assert talk.tick(404.1) != []
