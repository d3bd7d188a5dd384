"""A broker and a network in one process, with simulated time: for machines that do no I/O themselves.

Messages cross as bytes. A policy says what becomes of each one on its way from the broker to a subscriber: it arrives
once and in order, or twice, late, altered or never. Nothing here draws at random but from a seed.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

__all__ = ["Crossing", "Delivery", "Faults", "Loopback", "Policy", "deliver_once", "matches"]

LATENCY_S = 0.01


class Crossing(NamedTuple):
    """A message that crossed the network.

    Args:
        time_s: When it was published.
        sender: Who published it.
        topic: Where.
        payload: What.
    """

    time_s: float
    sender: str
    topic: str
    payload: bytes


class Delivery(NamedTuple):
    """One copy of a message on its way to one subscriber.

    Args:
        payload: What arrives.
        delay_s: How much later than usual.
    """

    payload: bytes
    delay_s: float = 0.0


Policy = Callable[[Crossing, str], Sequence[Delivery]]
"""Given a message and the subscriber's name: the copies that arrive there."""


def deliver_once(crossing: Crossing, _receiver: str) -> Sequence[Delivery]:
    """Deliver every message once and in order: the policy of a network without faults."""
    return (Delivery(crossing.payload),)


class Faults:
    """A policy: duplicates, delays (hence another order), losses and damage, each with its own probability.

    Damage is a payload that is cut short or overwritten. It is one that a receiver can notice: a forged plan or status
    is no fault of a network, and only a signature tells it from a true one.

    Args:
        seed: Decides everything.
        duplicated: Share of messages that come twice.
        delayed: Share that come late.
        lost: Share that never come.
        damaged: Share that come altered.
        longest_delay_s: Of a late message or a second copy.
    """

    def __init__(
        self,
        seed: int,
        *,
        duplicated: float = 0.0,
        delayed: float = 0.0,
        lost: float = 0.0,
        damaged: float = 0.0,
        longest_delay_s: float = 30.0,
    ) -> None:
        """Start the generator."""
        self._rng = np.random.default_rng(seed)
        self._duplicated = duplicated
        self._delayed = delayed
        self._lost = lost
        self._damaged = damaged
        self._longest_delay_s = longest_delay_s

    def __call__(self, crossing: Crossing, _receiver: str) -> Sequence[Delivery]:
        """Return the copies that arrive."""
        duplicated, delayed, lost, damaged, delay, second_delay = self._rng.random(6).tolist()
        if lost < self._lost:
            return ()
        payload = self._damage(crossing.payload) if damaged < self._damaged else crossing.payload
        first = Delivery(payload, delay * self._longest_delay_s if delayed < self._delayed else 0.0)
        if duplicated < self._duplicated:
            return first, Delivery(crossing.payload, second_delay * self._longest_delay_s)
        return (first,)

    def _damage(self, payload: bytes) -> bytes:
        length = int(self._rng.integers(len(payload) + 1))
        return payload[:length] if self._rng.random() < 0.5 else self._rng.bytes(length)  # noqa: PLR2004 - either


class _Client:
    """One connection: who hears, what it follows, and what the broker says when it is lost."""

    def __init__(self, receive: Callable[[str, bytes], None], will: tuple[str, bytes] | None) -> None:
        self.receive = receive
        self.will = will
        self.filters: set[str] = set()
        self.is_open = True


class Loopback:
    """The broker, the network and the clock.

    Args:
        policy: What becomes of messages on the way to a subscriber.
    """

    def __init__(self, policy: Policy = deliver_once) -> None:
        """Start at time 0, with nothing retained."""
        self.policy = policy
        self.now_s = 0.0
        self.log: list[Crossing] = []
        self._retained: dict[str, Crossing] = {}
        self._clients: dict[str, _Client] = {}
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._num_planned = 0

    def attach(self, name: str, receive: Callable[[str, bytes], None], will: tuple[str, bytes] | None = None) -> None:
        """Open a connection without subscriptions; an older one of this name is lost.

        Args:
            name: The client.
            receive: Called with the topic and the payload of what arrives.
            will: Topic and payload that are published, retained, when the connection is lost.
        """
        self.detach(name)
        self._clients[name] = _Client(receive, will)

    def detach(self, name: str) -> None:
        """Lose a connection: what was on its way to it is lost, too, and its will is published."""
        client = self._clients.pop(name, None)
        if client is None:
            return
        client.is_open = False
        if client.will is not None:
            self.publish(name, *client.will, retained=True)

    def forget(self) -> None:
        """Be killed and come back without memory: all connections are lost without a will, and nothing is retained."""
        for client in self._clients.values():
            client.is_open = False
        self._clients.clear()
        self._retained.clear()

    def is_attached(self, name: str) -> bool:
        """Say whether this client's connection is up."""
        return name in self._clients

    def subscribe(self, name: str, topic_filter: str) -> None:
        """Follow the topics of a filter; what is retained there comes again."""
        client = self._clients.get(name)
        if client is None:
            return
        client.filters.add(topic_filter)
        for topic, crossing in self._retained.items():
            if matches(topic_filter, topic):
                self._deliver(crossing, name, client)

    def unsubscribe(self, name: str, topic_filter: str) -> None:
        """Follow them no more."""
        if name in self._clients:
            self._clients[name].filters.discard(topic_filter)

    def publish(self, sender: str, topic: str, payload: bytes, *, retained: bool = False) -> None:
        """Send a message to all who follow its topic; an empty payload clears what is retained there."""
        crossing = Crossing(self.now_s, sender, topic, payload)
        self.log.append(crossing)
        if retained:
            self._retained.pop(topic, None)
            if payload:
                self._retained[topic] = crossing
        for name, client in self._clients.items():
            if any(matches(topic_filter, topic) for topic_filter in client.filters):
                self._deliver(crossing, name, client)

    def at(self, time_s: float, action: Callable[[], None]) -> None:
        """Call something at a time, or as soon as possible after it."""
        self._num_planned += 1
        heapq.heappush(self._due, (time_s, self._num_planned, action))

    def step(self) -> None:
        """Go on to what happens next; of two things at one time, to what was planned first."""
        time_s, _, action = heapq.heappop(self._due)
        self.now_s = max(self.now_s, time_s)
        action()

    def _deliver(self, crossing: Crossing, name: str, client: _Client) -> None:
        for delivery in self.policy(crossing, name):
            self.at(
                self.now_s + LATENCY_S + delivery.delay_s, partial(_arrive, client, crossing.topic, delivery.payload)
            )


def _arrive(client: _Client, topic: str, payload: bytes) -> None:
    """Hand a copy over, if the connection that it was sent on is still there."""
    if client.is_open:
        client.receive(topic, payload)


def matches(topic_filter: str, topic: str) -> bool:
    """Say whether a topic is one of the filter's: ``+`` is any level, a final ``#`` all that follow.

    Example:
        >>> matches("home/+/up/#", "home/attic/up/update/1"), matches("home/+/up", "home/attic/down")
        (True, False)
    """
    if topic_filter == topic:
        return True
    wanted, levels = topic_filter.split("/"), topic.split("/")
    if wanted[-1] == "#":
        wanted, levels = wanted[:-1], levels[: len(wanted) - 1]
    return len(wanted) == len(levels) and all(it in ("+", level) for it, level in zip(wanted, levels, strict=True))
