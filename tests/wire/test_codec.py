"""Payloads are bounded before they are decoded, refused by a reason, and named by digests that mean what they say."""

from __future__ import annotations

from contextlib import suppress

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from wire.codec import decode_message, encode_message, inventory_digest, plan_digest
from wire.errors import WireError
from wire.messages import InventoryItem, Invitation, Message, RoundPlan, Summary
from wire.topics import PLAN, ROUTES, Address, decode_payload

TYPES = sorted({route.message for route in ROUTES} | {Summary}, key=lambda kind: kind.__name__)
DIGEST = "a" * 64


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.integers(-9, 9) | st.text(), st.lists).map(msgspec.msgpack.encode),
    st.sampled_from(TYPES),
)
def test_arbitrary_bytes_raise_nothing_but_a_refusal(payload: bytes, message_type: type[Message]) -> None:
    with pytest.raises(WireError):
        decode_message(payload, message_type, 10_000)


@given(st.data())
def test_a_damaged_message_raises_nothing_but_a_refusal(
    any_message: st.SearchStrategy[Message], data: st.DataObject
) -> None:
    message = data.draw(any_message)
    payload = bytearray(encode_message(message))
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    with suppress(WireError):
        decode_message(bytes(payload), type(message), len(payload))


def test_a_message_truncated_anywhere_is_refused(example: Message) -> None:
    payload = encode_message(example)
    for length in range(len(payload)):
        with pytest.raises(WireError):
            decode_message(payload[:length], type(example), len(payload))


def test_an_oversized_message_is_refused_before_it_is_decoded() -> None:
    payload = b"\xc1" * 101
    with pytest.raises(WireError) as refusal:
        decode_message(payload, Invitation, 100)
    assert refusal.value.reason == "oversized"
    with pytest.raises(WireError) as refusal:
        decode_message(payload, Invitation, 101)
    assert refusal.value.reason == "malformed"


@pytest.mark.parametrize("version", [0, 2, 2**63, 2**64 - 1])
def test_a_version_of_the_future_is_refused_by_that_reason_whatever_else_it_holds(version: int) -> None:
    with pytest.raises(WireError) as refusal:
        decode_message(msgspec.msgpack.encode({"version": version, "plan": 1}), Invitation, 1000)
    assert refusal.value.reason == "unknown-version"


@pytest.mark.parametrize("version", ["1", None, -1.5, [1]])
def test_a_version_that_is_no_number_is_malformed(version: object) -> None:
    with pytest.raises(WireError) as refusal:
        decode_message(msgspec.msgpack.encode({"version": version, "plan": DIGEST}), Invitation, 1000)
    assert refusal.value.reason == "malformed"


@pytest.mark.parametrize("level", [b"\x91", b"\x81\xa1x", b"\x81\x91"], ids=["lists", "maps", "keys"])
def test_a_payload_of_a_million_levels_is_refused(level: bytes) -> None:
    payload = b"\x82\xa7version\x01\xa1x" + level * 1_000_000
    with pytest.raises(WireError) as refusal:
        decode_payload(Address(PLAN), payload[: PLAN.max_bytes])
    assert refusal.value.reason == "malformed"


@pytest.mark.parametrize(
    "claim", [b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff"]
)
def test_a_claim_of_4_billion_values_takes_no_memory(claim: bytes) -> None:
    with pytest.raises(WireError):
        decode_message(b"\x82\xa7version\x01\xa4plan" + claim, Invitation, 1000)
    with pytest.raises(WireError):
        decode_message(b"\x82\xa7version\x01\xa1x" + claim, Invitation, 1000)


@given(st.data())
def test_the_plans_digest_ignores_the_signature_and_nothing_else(
    plans: st.SearchStrategy[RoundPlan], data: st.DataObject
) -> None:
    plan, other = data.draw(plans), data.draw(plans)
    assert plan_digest(msgspec.structs.replace(plan, signature=b"another")) == plan_digest(plan)
    name = data.draw(st.sampled_from([name for name in plan.__struct_fields__ if name not in {"signature", "version"}]))
    changed = msgspec.structs.replace(plan, **{name: getattr(other, name)})
    assume(changed != plan)
    assert plan_digest(changed) != plan_digest(plan)


def test_the_plans_digest_depends_on_the_order_of_its_layers_no_less(examples: dict[str, Message]) -> None:
    plan = examples["RoundPlan"]
    assert isinstance(plan, RoundPlan)
    turned = msgspec.structs.replace(plan, shared_layers=dict(reversed(plan.shared_layers.items())))
    assert plan_digest(turned) != plan_digest(plan)


def test_an_upload_is_named_by_its_plan_and_its_inventory_alone(examples: dict[str, Message]) -> None:
    summary = examples["Summary"]
    assert isinstance(summary, Summary)
    said_again = msgspec.structs.replace(summary, bytes_up=9, train_loss=9.0)
    assert inventory_digest(said_again) == inventory_digest(summary)
    for change in ({"plan": "d" * 64}, {"inventory": ()}, {"inventory": (InventoryItem("conv1", DIGEST, 1027),)}):
        assert inventory_digest(msgspec.structs.replace(summary, **change)) != inventory_digest(summary)
