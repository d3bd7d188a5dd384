"""A topic names one address and an address one topic; whatever else a broker hands over is refused."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.errors import WireError
from wire.messages import Invitation, Part
from wire.topics import (
    INVITATION,
    MODEL,
    PLAN,
    ROOT,
    ROUTES,
    SUMMARY,
    UPDATE,
    Address,
    Envelope,
    Route,
    decode_payload,
    encode_payload,
    parse_topic,
    subscription,
    topic_of,
)

NAMES = st.from_regex(r"^[a-z0-9-]{1,64}\Z")
DIGESTS = st.from_regex(r"^[0-9a-f]{64}\Z")
DIGEST = "a" * 64


def address_of(route: Route, device_id: str, digest: str, part: int) -> Address:
    """An address with the fields that the route's pattern has."""
    has = set(re.findall(r"{(\w+)}", route.pattern))
    return Address(
        route, device_id if "device" in has else "", digest if "digest" in has else "", part if "part" in has else 0
    )


ADDRESSES = st.builds(address_of, st.sampled_from(ROUTES), NAMES, DIGESTS, st.integers(0, 999_999_999))


def matches(topic_filter: str, topic: str) -> bool:
    """MQTT's rule for a filter with single-level wildcards."""
    levels, names = topic_filter.split("/"), topic.split("/")
    return len(levels) == len(names) and all(a in ("+", b) for a, b in zip(levels, names, strict=True))


@given(NAMES, ADDRESSES)
def test_parsing_is_the_inverse_of_naming(fleet: str, address: Address) -> None:
    assert parse_topic(fleet, topic_of(fleet, address)) == address


@given(NAMES, ADDRESSES)
def test_a_subscription_matches_its_routes_topics_and_no_other(fleet: str, address: Address) -> None:
    topic = topic_of(fleet, address)
    assert [route for route in ROUTES if matches(subscription(fleet, route), topic)] == [address.route]
    own = subscription(fleet, address.route, address.device_id or "+", address.digest or "+")
    assert matches(own, topic)
    if address.digest:
        assert not matches(subscription(fleet, address.route, digest="0" * 64), topic) or address.digest == "0" * 64


@given(NAMES, NAMES, ADDRESSES)
def test_a_foreign_fleets_topic_is_refused(fleet: str, other: str, address: Address) -> None:
    topic = topic_of(other, address)
    if fleet == other:
        return
    with pytest.raises(WireError) as refusal:
        parse_topic(fleet, topic)
    assert refusal.value.reason == "foreign-fleet"


@given(st.text() | st.text().map(f"{ROOT}/home/".__add__) | st.text().map(f"{ROOT}/home/d/pi/".__add__))
def test_arbitrary_topics_are_read_back_or_refused(topic: str) -> None:
    try:
        address = parse_topic("home", topic)
    except WireError:
        return
    assert topic_of("home", address) == topic


@pytest.mark.parametrize(
    "below",
    [
        "",
        "/",
        "plan/",
        "/plan",
        "plan\n",
        "plan\0",
        "PLAN",
        "plan/1",
        "d/+/status",
        "d/#",
        "d//status",
        "d/PI/status",
        "d/pi_1/status",
        "d/pi/1/status",
        "d/pi\n/status",
        "d/pi/status\n",
        f"d/{'a' * 65}/status",
        "d/p\u00ef/status",
        "d/\u0661/status",
        f"model/{DIGEST}",
        f"model/{DIGEST}/",
        f"model/{DIGEST}/00",
        f"model/{DIGEST}/01",
        f"model/{DIGEST}/1000000000",
        f"model/{DIGEST}/-1",
        f"model/{DIGEST}/+1",
        f"model/{DIGEST}/1\n",
        f"model/{DIGEST}/\u0661",
        f"model/{DIGEST}/\u00b2",
        f"model/{'A' * 64}/1",
        f"model/{'a' * 63}/1",
        f"model/{'a' * 65}/1",
        f"d/pi/up/update/{DIGEST}/1/2",
        "d/pi/up/ack",
        "d/pi/down/summary",
    ],
)
def test_a_topic_that_is_not_in_the_table_is_refused(below: str) -> None:
    with pytest.raises(WireError) as refusal:
        parse_topic("home", f"{ROOT}/home/{below}")
    assert refusal.value.reason == "unknown-topic"


@pytest.mark.parametrize(
    "topic", ["", "plan", "fedlag/v2/home/plan", "fedlag/v1/homes/plan", "fedlag/v1/home", "$SYS/x"]
)
def test_a_topic_of_elsewhere_is_refused(topic: str) -> None:
    with pytest.raises(WireError) as refusal:
        parse_topic("home", topic)
    assert refusal.value.reason == "foreign-fleet"


def test_a_huge_topic_is_not_repeated_in_the_refusal() -> None:
    with pytest.raises(WireError) as refusal:
        parse_topic("home", f"{ROOT}/home/{'x' * 60_000}")
    assert len(str(refusal.value)) < 300


def test_device_and_aggregator_never_write_to_the_same_topic() -> None:
    assert len({route.pattern for route in ROUTES}) == len(ROUTES)
    for route in ROUTES:
        if route.sender == "device":
            assert route.pattern.startswith(("d/{device}/up/", "d/{device}/status"))
        else:
            assert route.pattern.startswith(("server", "plan", "model/", "program/", "d/{device}/down/"))


def test_an_envelope_survives_its_payload() -> None:
    envelope = Envelope(Address(INVITATION, "pi"), Invitation(plan=DIGEST))
    assert decode_payload(envelope.address, encode_payload(envelope)) == envelope.message


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_an_empty_payload_clears_a_retained_topic_and_is_refused_elsewhere(route: Route) -> None:
    address = address_of(route, "pi", DIGEST, 0)
    assert encode_payload(Envelope(address, None)) == b""
    if route.retained:
        assert decode_payload(address, b"") is None
    else:
        with pytest.raises(WireError):
            decode_payload(address, b"")


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_a_payload_above_the_routes_bound_is_refused(route: Route) -> None:
    with pytest.raises(WireError) as refusal:
        decode_payload(address_of(route, "pi", DIGEST, 0), bytes(route.max_bytes + 1))
    assert refusal.value.reason == "oversized"


@pytest.mark.parametrize(("digest", "index"), [("b" * 64, 1), (DIGEST, 2)])
@pytest.mark.parametrize("route", [MODEL, UPDATE], ids=lambda route: route.name)
def test_a_part_on_the_topic_of_another_is_refused(route: Route, digest: str, index: int) -> None:
    part = Part(digest=digest, index=index, num_parts=3, size_bytes=9, data=b"abc")
    with pytest.raises(WireError) as refusal:
        decode_payload(Address(route, "pi", DIGEST, 1), encode_payload(Envelope(Address(PLAN), part)))
    assert refusal.value.reason == "wrong-digest"


def test_a_summarys_parts_share_one_topic() -> None:
    part = Part(digest=DIGEST, index=2, num_parts=3, size_bytes=9, data=b"abc")
    envelope = Envelope(Address(SUMMARY, "pi"), part)
    assert decode_payload(envelope.address, encode_payload(envelope)) == part
