"""A plan that was changed by a bit, or that another key has signed, is none."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import assume, given
from hypothesis import strategies as st

from aggregator.signing import sign_plan
from aggregator.signing_key import make_signing_key
from edge_client.aggregator_key import AggregatorKey
from edge_client.trust import Trust
from tests.wire.conftest import messages_of
from wire.codec import decode_message, encode_message, plan_digest
from wire.errors import ConfigError, WireError
from wire.messages import RoundPlan, TrainingSettings
from wire.topics import PLAN

replace = msgspec.structs.replace

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
TRUSTED = AggregatorKey(KEY.public_key())
PLANS: st.SearchStrategy[RoundPlan] = messages_of(RoundPlan)


def is_taken(plan: RoundPlan) -> bool:
    try:
        TRUSTED.check(plan)
    except WireError as error:
        return error.reason != "wrong-signature"
    return True


@given(PLANS)
def test_a_plan_is_taken_as_it_was_signed_and_its_digest_stays(plan: RoundPlan) -> None:
    signed = sign_plan(plan, KEY)
    received = decode_message(encode_message(signed), RoundPlan, PLAN.max_bytes)
    assert is_taken(received)
    assert plan_digest(received) == plan_digest(plan) == plan_digest(sign_plan(plan, None))
    assert not is_taken(sign_plan(signed, None))
    assert sign_plan(signed, KEY) == signed


@given(PLANS, st.data())
def test_a_changed_byte_is_refused_or_leaves_the_plan_as_it_was_signed(plan: RoundPlan, data: st.DataObject) -> None:
    signed = sign_plan(plan, KEY)
    payload = bytearray(encode_message(signed))
    index = data.draw(st.integers(0, len(payload) - 1))
    payload[index] ^= data.draw(st.integers(1, 255))
    try:
        received = decode_message(bytes(payload), RoundPlan, PLAN.max_bytes)
    except WireError:
        return
    assert not is_taken(received) or received == signed, "a name that is unknown now left a default as it was"


@given(PLANS, st.data())
def test_a_changed_signature_is_refused(plan: RoundPlan, data: st.DataObject) -> None:
    signature = sign_plan(plan, KEY).signature
    index = data.draw(st.integers(0, len(signature) - 1))
    flipped = bytearray(signature)
    flipped[index] ^= data.draw(st.integers(1, 255))
    longer = data.draw(st.binary(min_size=1, max_size=64))
    for changed in (bytes(flipped), signature[:index], signature + longer, longer + signature, longer):
        assert not is_taken(replace(plan, signature=changed))


@given(PLANS, PLANS, st.data())
def test_a_field_of_another_plan_is_refused(plan: RoundPlan, other: RoundPlan, data: st.DataObject) -> None:
    names = [name for name in plan.__struct_fields__ if name not in {"signature", "version"}]
    name = data.draw(st.sampled_from(names))
    changed = replace(sign_plan(plan, KEY), **{name: getattr(other, name)})
    assume(plan_digest(changed) != plan_digest(plan))
    assert not is_taken(changed)


@given(PLANS, st.binary(min_size=32, max_size=32))
def test_another_key_is_refused(plan: RoundPlan, seed: bytes) -> None:
    assume(seed != bytes(32))
    assert not is_taken(sign_plan(plan, Ed25519PrivateKey.from_private_bytes(seed)))


def plan_of(fleet: str) -> RoundPlan:
    return RoundPlan(
        fleet=fleet,
        epoch=2,
        round_number=7,
        model_id="0" * 64,
        shared_layers={},
        personal_layers={},
        training=TrainingSettings(),
        sketch_seed=0,
        sketch_width=1,
        duration_s=1.0,
    )


def test_the_last_plan_decides_what_a_device_complains_of() -> None:
    trust = Trust("home", TRUSTED.check)
    for plan, reason in (
        (sign_plan(plan_of("home"), None), "wrong-signature: it is not signed"),
        (sign_plan(plan_of("office"), KEY), "foreign-fleet: it is of fleet office"),
    ):
        with pytest.raises(WireError):
            trust.check(plan)
        assert trust.complaint.startswith(f"refused plan 2/7: {reason}")
    trust.check(sign_plan(plan_of("home"), KEY))
    assert trust.complaint == ""


def test_without_a_key_any_plan_of_the_fleet_is_taken() -> None:
    trust = Trust("home", None)
    trust.check(plan_of("home"))
    with pytest.raises(WireError, match="foreign-fleet"):
        trust.check(plan_of("office"))


def test_the_key_is_read_from_the_file_that_was_made_for_it(tmp_path: Path) -> None:
    make_signing_key(tmp_path / "signing.key", tmp_path / "aggregator.pub")
    key = AggregatorKey.load(tmp_path / "aggregator.pub")
    with pytest.raises(WireError, match="altered, or signed with another key"):
        key.check(sign_plan(plan_of("home"), KEY))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no public key in PEM"),
        (b"\x00\xff" * 20, "no public key in PEM"),
        (KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), "no public key in PEM"),
        (KEY.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw), "no public key in PEM"),
        (
            ec.generate_private_key(ec.SECP256R1())
            .public_key()
            .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
            "not of Ed25519",
        ),
    ],
    ids=["empty", "noise", "the private half", "raw", "of another kind"],
)
def test_what_is_no_public_key_is_refused_with_what_to_do(tmp_path: Path, data: bytes, why: str) -> None:
    (tmp_path / "aggregator.pub").write_bytes(data)
    with pytest.raises(ConfigError, match=rf"aggregator\.pub is {why}.*fedlag aggregator public-key"):
        AggregatorKey.load(tmp_path / "aggregator.pub")


def test_a_key_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"aggregator\.pub: No such file"):
        AggregatorKey.load(tmp_path / "aggregator.pub")
