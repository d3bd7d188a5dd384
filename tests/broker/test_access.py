"""The access list grants what the protocol's table says, to every device alike, and nothing besides."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.access import access_list
from wire.topics import ROUTES, STATUS, Address, Route, topic_of, user_of

NAMES = st.from_regex(r"^[a-z0-9-]{1,64}\Z")
DIGEST = "a" * 64


def grants(text: str, user: str, action: str, topic: str) -> bool:
    """mosquitto's reading of an access list: lines of this user, and patterns with the user's name in them."""
    section = ""
    for line in text.splitlines():
        words = line.split()
        if not words or line.startswith("#"):
            continue
        if words[0] == "user":
            section = words[1]
            continue
        kind, right, topics = words
        is_mine = kind == "pattern" or section == user
        levels, names = topics.replace("%u", user).split("/"), topic.split("/")
        fits = len(levels) == len(names) and all(a in ("+", b) for a, b in zip(levels, names, strict=True))
        if is_mine and right == action and fits:
            return True
    return False


def topic(fleet: str, route: Route, device_id: str) -> str:
    return topic_of(fleet, Address(route, device_id, DIGEST, 3))


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
@given(fleet=NAMES, device_id=NAMES, other=NAMES)
def test_each_route_is_written_by_its_sender_and_read_by_the_other_end_alone(
    route: Route, fleet: str, device_id: str, other: str
) -> None:
    text, mine = access_list(fleet), topic(fleet, route, device_id)
    aggregator, device = user_of(fleet), user_of(fleet, device_id)
    is_devices = route.sender == "device"
    assert grants(text, device, "write", mine) is is_devices
    assert grants(text, device, "read", mine) is not is_devices
    assert grants(text, aggregator, "write", mine) is not is_devices
    assert grants(text, aggregator, "read", mine) or not is_devices
    is_for_all = "{device}" not in route.pattern
    if other != device_id:
        for action in ("read", "write"):
            allowed = is_for_all and action == "read"
            assert grants(text, user_of(fleet, other), action, mine) is allowed


@given(fleet=NAMES, other=NAMES, device_id=NAMES)
def test_another_fleets_topics_are_no_affair_of_a_device_or_an_aggregator(
    fleet: str, other: str, device_id: str
) -> None:
    if fleet == other:
        return
    text = access_list(fleet)
    for route in ROUTES:
        for user in (user_of(fleet), user_of(fleet, device_id)):
            for action in ("read", "write"):
                assert not grants(text, user, action, topic(other, route, device_id))


def test_a_route_that_is_added_to_the_table_is_in_the_list() -> None:
    added = Route("health", "d/{device}/health", STATUS.message, "device", False, 10, 0, "")
    text = access_list("home", [*ROUTES, added])
    assert "pattern write fedlag/v1/%u/health\n" in text
    assert "topic read fedlag/v1/home/d/+/health\n" in text


def test_no_line_holds_a_wildcard_over_levels() -> None:
    lines = [line for line in access_list("home").splitlines() if not line.startswith("#")]
    assert [line for line in lines if "#" in line or "readwrite" in line] == []
