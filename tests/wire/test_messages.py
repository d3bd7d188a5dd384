"""Every message survives the wire, today's bytes are tomorrow's bytes, and what does not fit is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.codec import decode_message, encode_message
from wire.errors import WireError
from wire.messages import DeviceStatus, Invitation, Message, Part, RoundPlan, ServerStatus, Summary
from wire.topics import ROUTES

GOLDEN = Path(__file__).parent / "golden_v1.json"
MAX_BYTES = 2**20
BAD_IDS = ["", "A", "pi_1", "pi/1", "pi+1", "#", "a" * 65, "pi-1\n", "\u00fc", "pi 1", "\u0661"]


@given(st.data())
def test_every_message_survives_the_wire(any_message: st.SearchStrategy[Message], data: st.DataObject) -> None:
    message = data.draw(any_message)
    payload = encode_message(message)
    assert decode_message(payload, type(message), MAX_BYTES) == message
    assert encode_message(decode_message(payload, type(message), MAX_BYTES)) == payload


def test_golden_bytes_of_version_1(example: Message) -> None:
    golden = bytes.fromhex(json.loads(GOLDEN.read_text())[type(example).__name__])
    assert encode_message(example) == golden
    assert decode_message(golden, type(example), MAX_BYTES) == example


def test_every_message_has_an_example(examples: dict[str, Message]) -> None:
    carried = {route.message.__name__ for route in ROUTES} | {Summary.__name__}
    assert set(examples) == carried == set(json.loads(GOLDEN.read_text()))


def test_a_field_that_a_later_version_adds_is_ignored(example: Message) -> None:
    fields = msgspec.msgpack.decode(encode_message(example))
    later = {"before_all": [1, {"a": b"x"}], **fields, "color": "green"}
    assert decode_message(msgspec.msgpack.encode(later), type(example), MAX_BYTES) == example


def altered(message: Message, **fields: Any) -> bytes:
    """The message's bytes with other fields, whatever its type says."""
    return msgspec.msgpack.encode(msgspec.to_builtins(message, builtin_types=(bytes,)) | fields)


def refusal_of(payload: bytes, message_type: type[Message]) -> str:
    with pytest.raises(WireError) as refusal:
        decode_message(payload, message_type, MAX_BYTES)
    return refusal.value.reason


@pytest.mark.parametrize("name", BAD_IDS)
def test_a_fleet_of_a_hostile_name_is_refused(examples: dict[str, Message], name: str) -> None:
    assert refusal_of(altered(examples["RoundPlan"], fleet=name), RoundPlan) == "malformed"


@pytest.mark.parametrize("digest", ["", "a" * 63, "a" * 65, "A" * 64, "g" * 64, "a" * 64 + "\n", "../" * 21 + "a"])
def test_a_digest_that_is_none_is_refused(digest: str) -> None:
    assert refusal_of(altered(Invitation(plan="a" * 64), plan=digest), Invitation) == "malformed"


@pytest.mark.parametrize(
    "fields",
    [
        {"epoch": -1},
        {"epoch": 2**53 + 1},
        {"epoch": 1.5},
        {"epoch": True},
        {"round_number": 0},
        {"round_number": 2**31},
        {"duration_s": 0.0},
        {"duration_s": float("nan")},
        {"duration_s": float("inf")},
        {"sketch_width": 0},
        {"shared_layers": {"": "a" * 64}},
        {"shared_layers": {"x" * 201: "a" * 64}},
        {"shared_layers": {1: "a" * 64}},
        {"shared_layers": [["conv1", "a" * 64]]},
        {"training": {"learning_rate": float("nan")}},
        {"training": {"learning_rate": -0.1}},
        {"training": {"momentum": 1.0}},
        {"training": {"num_epochs": 1001}},
        {"training": {"batch_size": 0}},
        {"training": {"part_bytes": 0}},
        {"training": {"part_bytes": 2**20 + 1}},
        {"training": {"upload_dtype": "float64"}},
        {"training": {"upload_codec": "pickle"}},
        {"training": None},
    ],
    ids=str,
)
def test_a_plan_out_of_its_bounds_is_refused(examples: dict[str, Message], fields: dict[str, Any]) -> None:
    assert refusal_of(altered(examples["RoundPlan"], **fields), RoundPlan) == "malformed"


@pytest.mark.parametrize(
    "fields",
    [{"index": -1}, {"num_parts": 0}, {"size_bytes": 0}, {"size_bytes": 2**31}, {"data": bytes(2**20 + 1)}],
    ids=list,
)
def test_a_part_out_of_its_bounds_is_refused(examples: dict[str, Message], fields: dict[str, Any]) -> None:
    with pytest.raises(WireError, match="malformed"):
        decode_message(altered(examples["Part"], **fields), Part, 2 * MAX_BYTES)


def test_a_missing_field_is_refused() -> None:
    assert refusal_of(msgspec.msgpack.encode({"version": 1, "state": "online"}), ServerStatus) == "malformed"


def test_a_long_reason_is_refused() -> None:
    assert refusal_of(altered(DeviceStatus(state="waiting", session=1), reason="x" * 501), DeviceStatus) == "malformed"


def test_a_message_cannot_be_changed(example: Message) -> None:
    with pytest.raises(AttributeError):
        example.version = 2  # type: ignore[misc]
