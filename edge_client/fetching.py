"""Fetching content-addressed blobs: which topics to follow, and when a blob is whole. No I/O."""

from __future__ import annotations

from typing import NamedTuple

from wire.errors import WireError
from wire.messages import Part
from wire.parts import Assembly
from wire.topics import Address, Route, subscription

__all__ = ["Fetching", "Subscribe", "Unsubscribe"]


class Subscribe(NamedTuple):
    """Effect: receive what matches this topic filter."""

    topic_filter: str


class Unsubscribe(NamedTuple):
    """Effect: receive no more of it."""

    topic_filter: str


class Fetching:
    """The blobs that a device waits for.

    Args:
        fleet: Whose topics they are on.
    """

    def __init__(self, fleet: str) -> None:
        """Wait for nothing."""
        self._fleet = fleet
        self._wanted: dict[str, tuple[Route, Assembly]] = {}

    def __len__(self) -> int:
        """Return how many blobs are missing."""
        return len(self._wanted)

    def want(self, route: Route, digest: str, max_bytes: int) -> list[Subscribe]:
        """Ask for a blob of at most this size; asking again changes nothing."""
        if digest in self._wanted:
            return []
        self._wanted[digest] = (route, Assembly(digest, max_bytes))
        return [Subscribe(subscription(self._fleet, route, digest=digest))]

    def take(self, address: Address, part: Part) -> tuple[bytes | None, list[Unsubscribe]]:
        """Take a part; return the blob if it is whole now, and the topic that needs no following any more.

        Raises:
            WireError: If the part fits nothing that was asked for.
        """
        route, assembly = self._wanted.get(address.digest, (None, None))
        if assembly is None or route is not address.route:
            raise WireError("unknown-topic", f"nobody asked for {address.route.name} {address.digest[:12]}")
        blob = assembly.add(part)
        if blob is None:
            return None, []
        del self._wanted[address.digest]
        return blob, [Unsubscribe(subscription(self._fleet, address.route, digest=address.digest))]

    def forget(self, route: Route) -> list[Unsubscribe]:
        """Wait no more for the blobs of this route."""
        digests = [digest for digest, (wanted_on, _) in self._wanted.items() if wanted_on is route]
        for digest in digests:
            del self._wanted[digest]
        return [Unsubscribe(subscription(self._fleet, route, digest=digest)) for digest in digests]

    def ask_again(self) -> list[Subscribe | Unsubscribe]:
        """Follow the topics anew: the broker then sends again what it retains."""
        effects: list[Subscribe | Unsubscribe] = []
        for digest, (route, _) in self._wanted.items():
            topic_filter = subscription(self._fleet, route, digest=digest)
            effects += [Unsubscribe(topic_filter), Subscribe(topic_filter)]
        return effects
