"""Who may publish and read what, for mosquitto: lines derived from the protocol's table.

A user is named as ``wire.topics.user_of`` says, ``home`` or ``home/d/kitchen``; ``%u`` stands for it. So one line holds for
all devices, those who join later included, and the broker need not be told of them. Whatever no line grants is denied: a
publication is dropped, and what others publish is not delivered, though the broker grants every subscription.
"""

from __future__ import annotations

from collections.abc import Iterable

from wire.topics import DEVICE, ROUTES, Route, subscription, user_of

__all__ = ["access_list"]

HEADING = """\
# Made by `fedlag init` from the protocol's table, docs/protocol.md: who may publish and read what.
# A device reads what the aggregator says to all and to it, and writes below its own name; %u is its certificate's name.
# mosquitto warns of lines without %u: they are meant, all devices read the same plans and layers.
"""


def access_list(fleet: str, routes: Iterable[Route] = ROUTES) -> str:
    """Return the text of mosquitto's ``acl_file`` for a fleet.

    Args:
        fleet: The fleet's name.
        routes: The protocol's table.
    """
    aggregator, devices = [], []
    for route in routes:
        is_devices = route.sender == "device"
        topics = subscription(fleet, route)
        aggregator.append(f"topic {'read' if is_devices else 'write'} {topics}")
        own = topics.replace(user_of(fleet, "+"), "%u") if DEVICE in route.pattern else topics
        devices.append(f"pattern {'write' if is_devices else 'read'} {own}")
    return "\n".join([HEADING, f"user {user_of(fleet)}", *aggregator, "", *devices, ""])
