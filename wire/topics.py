"""The protocol in one table: message type, topic, quality of service, retained, sender.

The codec's bounds, the broker's access list and the page in docs/ are derived from ``ROUTES``. Topics live below
``fedlag/v1/<fleet>/``; QoS is 1 everywhere, since the acknowledgement that counts is the aggregator's own.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

import msgspec

from wire.codec import decode_message, encode_message
from wire.errors import WireError
from wire.messages import Acknowledgement, DeviceStatus, Invitation, Message, Part, RoundPlan, ServerStatus

__all__ = [
    "ACKNOWLEDGEMENT",
    "INVITATION",
    "LARGEST_PACKET",
    "MODEL",
    "PLAN",
    "PROGRAM",
    "ROUTES",
    "SERVER",
    "STATUS",
    "SUMMARY",
    "UPDATE",
    "Address",
    "Envelope",
    "Route",
    "decode_payload",
    "encode_payload",
    "parse_topic",
    "subscription",
    "topic_of",
    "user_of",
]

ROOT = "fedlag/v1"
DEVICE = "d/{device}"
QOS = 1
SMALL = 64 * 1024
PART = 1024 * 1024 + 1024
PLAN_BYTES = 4 * 1024 * 1024


class Route(msgspec.Struct, frozen=True):
    """One row of the table.

    Args:
        name: How people call it.
        pattern: The topic below the fleet's root; ``{device}``, ``{digest}`` and ``{part}`` stand for themselves.
        message: The type of its messages.
        sender: Who alone may publish.
        retained: The broker keeps the last message for late subscribers; an empty one clears it.
        max_bytes: The most that a payload may take.
        expiry_s: How long the broker keeps an undelivered message; 0 without end.
        about: What it carries, for the page in docs/.
    """

    name: str
    pattern: str
    message: type[Message]
    sender: Literal["aggregator", "device"]
    retained: bool
    max_bytes: int
    expiry_s: int
    about: str


SERVER = Route("server", "server", ServerStatus, "aggregator", True, SMALL, 0, "presence; its last will says lost")
PLAN = Route("plan", "plan", RoundPlan, "aggregator", True, PLAN_BYTES, 0, "the round, the same for every device")
MODEL = Route("model", "model/{digest}/{part}", Part, "aggregator", True, PART, 0, "a layer's values, by content")
PROGRAM = Route("program", "program/{digest}/{part}", Part, "aggregator", True, PART, 0, "manifest and program files")
STATUS = Route("status", "d/{device}/status", DeviceStatus, "device", True, SMALL, 0, "birth, state and last will")
SUMMARY = Route("summary", "d/{device}/up/summary", Part, "device", False, PART, 3600, "report and inventory, in parts")
UPDATE = Route("update", "d/{device}/up/update/{digest}/{part}", Part, "device", False, PART, 3600, "a shared layer")
INVITATION = Route("invitation", "d/{device}/down/invite", Invitation, "aggregator", True, SMALL, 0, "in the cohort")
ACKNOWLEDGEMENT = Route(
    "acknowledgement", "d/{device}/down/ack", Acknowledgement, "aggregator", False, PLAN_BYTES, 3600, "wanted, counted"
)

ROUTES = (SERVER, PLAN, MODEL, PROGRAM, STATUS, SUMMARY, UPDATE, INVITATION, ACKNOWLEDGEMENT)
LARGEST_PACKET = max(route.max_bytes for route in ROUTES) + 64 * 1024
"""The most bytes of a packet; a broker drops the connection of who sends more."""

_FIELDS = {
    "{device}": r"(?P<device>[a-z0-9-]{1,64})",
    "{digest}": r"(?P<digest>[0-9a-f]{64})",
    "{part}": r"(?P<part>0|[1-9][0-9]{0,8})",
}


def _expression(route: Route) -> re.Pattern[str]:
    pattern = route.pattern
    for field, expression in _FIELDS.items():
        pattern = pattern.replace(field, expression)
    return re.compile(pattern)


_EXPRESSIONS = tuple((route, _expression(route)) for route in ROUTES)


class Address(NamedTuple):
    """A topic of one fleet, taken apart.

    Args:
        route: Its row in the table.
        device_id: Where the pattern has ``{device}``.
        digest: Where the pattern has ``{digest}``.
        part: Where the pattern has ``{part}``.
    """

    route: Route
    device_id: str = ""
    digest: str = ""
    part: int = 0


class Envelope(NamedTuple):
    """A message and where it goes.

    Args:
        address: Its topic.
        message: What is published; ``None`` clears a retained topic.
    """

    address: Address
    message: Message | None


def topic_of(fleet: str, address: Address) -> str:
    """Return the topic of an address.

    Example:
        >>> topic_of("home", Address(STATUS, "pi-1"))
        'fedlag/v1/home/d/pi-1/status'
    """
    route, device_id, digest, part = address
    return f"{ROOT}/{fleet}/{route.pattern.format(device=device_id, digest=digest, part=part)}"


def subscription(fleet: str, route: Route, device_id: str = "+", digest: str = "+") -> str:
    """Return the topic filter for every message of a route, of one device or digest where one is named.

    Example:
        >>> subscription("home", UPDATE)
        'fedlag/v1/home/d/+/up/update/+/+'
    """
    return f"{ROOT}/{fleet}/{route.pattern.format(device=device_id, digest=digest, part='+')}"


def user_of(fleet: str, device_id: str = "") -> str:
    """Return who a device is to a broker that asks for certificates, or the aggregator where no device is named.

    It is the certificate's common name, which the broker takes for the user's name and, whatever the client says, for the client
    id. A device's is the place of its topics: so no two fleets and no device and aggregator share one, and the access list is
    the same lines for all devices. The embedded broker asks for none, and lets in no client id with a ``/``.

    Example:
        >>> user_of("home", "kitchen"), user_of("home")
        ('home/d/kitchen', 'home')
    """
    return f"{fleet}/{DEVICE}".format(device=device_id) if device_id else fleet


def parse_topic(fleet: str, topic: str) -> Address:
    """Return the address that a topic of this fleet names.

    Raises:
        WireError: ``foreign-fleet`` or ``unknown-topic``.
    """
    prefix = f"{ROOT}/{fleet}/"
    if not topic.startswith(prefix):
        raise WireError("foreign-fleet", f"topic {topic[:100]!r} is not below {prefix}")
    for route, expression in _EXPRESSIONS:
        match = expression.fullmatch(topic, len(prefix))
        if match:
            found = match.groupdict()
            return Address(route, found.get("device", ""), found.get("digest", ""), int(found.get("part", 0)))
    raise WireError("unknown-topic", f"topic {topic[:100]!r} is not in the protocol")


def encode_payload(envelope: Envelope) -> bytes:
    """Return the payload of an envelope; empty to clear a retained topic."""
    return b"" if envelope.message is None else encode_message(envelope.message)


def decode_payload(address: Address, payload: bytes) -> Message | None:
    """Return the message that came on this address; ``None`` for a cleared topic.

    Raises:
        WireError: If the payload is not what the address promises.
    """
    if not payload and address.route.retained:
        return None
    message = decode_message(payload, address.route.message, address.route.max_bytes)
    if isinstance(message, Part) and address.digest and (message.digest, message.index) != address[2:]:
        raise WireError("wrong-digest", f"part {message.index} of {message.digest[:12]} on the topic of another")
    return message
