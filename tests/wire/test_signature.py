"""The bytes that are signed, as any other language must make them; recorded with keys that everyone knows (RFC 8410)."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from hypothesis import given
from hypothesis import strategies as st

from wire.codec import decode_message, encode_message, plan_digest
from wire.digest import content_digest
from wire.messages import Message, RoundPlan
from wire.signature import PLAN_CONTEXT, signed_bytes
from wire.topics import PLAN

GOLDEN = json.loads((Path(__file__).parent / "golden_signature_v1.json").read_text())


def test_golden_bytes_of_a_signed_plan(examples: dict[str, Message]) -> None:
    plan, received = examples["RoundPlan"], bytes.fromhex(GOLDEN["message"])
    assert isinstance(plan, RoundPlan)
    signature = bytes.fromhex(GOLDEN["signature"])
    assert encode_message(msgspec.structs.replace(plan, signature=signature)) == received
    assert signed_bytes(plan) == bytes.fromhex(GOLDEN["signed"])
    assert plan_digest(plan) == GOLDEN["digest"]


def test_the_golden_plan_is_checked_as_the_page_says_without_our_code() -> None:
    received = bytes.fromhex(GOLDEN["message"])
    plan = msgspec.msgpack.decode(received)
    signature = plan["signature"]
    unsigned = msgspec.msgpack.encode({**plan, "signature": b""})
    assert content_digest(unsigned) == GOLDEN["digest"]
    key = load_pem_public_key(GOLDEN["public_key"].encode())
    key.verify(signature, b"fedlag/v1 plan\n" + unsigned)  # type: ignore[union-attr, call-arg]
    secret = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(GOLDEN["secret_key"]))
    assert secret.public_key() == key
    assert secret.sign(b"fedlag/v1 plan\n" + unsigned) == signature


def test_the_signature_is_the_end_of_the_message() -> None:
    received, signature = bytes.fromhex(GOLDEN["message"]), bytes.fromhex(GOLDEN["signature"])
    assert received.endswith(b"\xa9signature\xc4\x40" + signature)
    assert PLAN_CONTEXT + received[:-66] + b"\xc4\x00" == bytes.fromhex(GOLDEN["signed"])


@given(st.data())
def test_what_is_signed_says_all_of_a_plan_but_its_signature(
    plans: st.SearchStrategy[RoundPlan], data: st.DataObject
) -> None:
    plan = data.draw(plans)
    assert signed_bytes(plan).startswith(PLAN_CONTEXT)
    read = decode_message(signed_bytes(plan).removeprefix(PLAN_CONTEXT), RoundPlan, PLAN.max_bytes)
    assert read == msgspec.structs.replace(plan, signature=b"")
    assert content_digest(signed_bytes(plan)[len(PLAN_CONTEXT) :]) == plan_digest(plan)


@given(st.data())
def test_what_is_signed_is_no_message_of_the_protocol(
    any_message: st.SearchStrategy[Message], data: st.DataObject
) -> None:
    assert not encode_message(data.draw(any_message)).startswith(PLAN_CONTEXT[:1])
