"""The one seam to the network: MQTT 5 through paho-mqtt, as a ``Link`` that asyncio programs await.

A link reconnects by itself, with jitter, and subscribes again each time. Nothing depends on the broker's memory of a
session: whoever uses a link sends again what was not acknowledged by the other end itself.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import threading
import time
from collections.abc import AsyncIterator
from typing import NamedTuple, Protocol

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from wire.broker_address import BrokerAddress
from wire.errors import BrokerError
from wire.topics import QOS, Envelope, encode_payload, topic_of

__all__ = ["Connected", "Link", "MqttLink", "Received"]

CONTENT_TYPE = "application/vnd.fedlag.v1+msgpack"
KEEPALIVE_S = 30
MAX_INFLIGHT = 50
MAX_QUEUED = 20_000
MAX_RECEIVED = 20_000
MAX_RECEIVED_BYTES = 256 * 1024 * 1024
FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 120.0
RETRY_S = 0.2
PACKET_OVERHEAD = 100

log = logging.getLogger(__name__)


class Received(NamedTuple):
    """A message that came."""

    topic: str
    payload: bytes


class Connected(NamedTuple):
    """The link is up, for the first time or again: announce what the other end may have missed."""


class Link(Protocol):
    """A connection to the fleet's broker."""

    def publish(self, envelope: Envelope) -> None:
        """Send a message; it is queued while the broker is away."""
        ...

    def subscribe(self, topic_filter: str) -> None:
        """Receive what matches, and what is retained; again after every reconnect."""
        ...

    def unsubscribe(self, topic_filter: str) -> None:
        """Receive no more of it."""
        ...

    async def drained(self) -> None:
        """Return when the broker has acknowledged all that was published."""
        ...

    def messages(self) -> AsyncIterator[Received | Connected]:
        """Yield what comes, in order, without an end."""
        ...


class MqttLink:
    """A ``Link`` over TCP, or over TLS where the broker's address names an authority.

    Args:
        broker: Where the broker is.
        client_id: The device's name, or ``aggregator``, with the fleet's name in front. A broker that asks for a certificate
            takes its common name instead.
        fleet: Whose topics it speaks.
        will: What the broker says for this link if it is lost without a word.

    Raises:
        ConfigError: If the address names files that cannot be used.
    """

    def __init__(self, broker: BrokerAddress, client_id: str, fleet: str, will: Envelope) -> None:
        """Prepare; ``connect`` opens it."""
        self.bytes_up = 0
        self.bytes_down = 0
        self.num_dropped = 0
        self._broker = broker
        self._fleet = fleet
        self._filters: dict[str, None] = {}
        self._pending: set[int] = set()
        self._largest_packet = 2**28
        self._queue: asyncio.Queue[Received | Connected] = asyncio.Queue()
        self._waiting = (0, 0)
        self._waiting_lock = threading.Lock()
        self._idle = asyncio.Event()
        self._idle.set()
        self._greeted = asyncio.Event()
        self._refusal = ""
        self._loop = asyncio.get_running_loop()
        client = Client(CallbackAPIVersion.VERSION2, client_id, protocol=MQTTProtocolVersion.MQTTv5)
        client.max_inflight_messages_set(MAX_INFLIGHT)
        client.max_queued_messages_set(MAX_QUEUED)
        jitter = random.uniform(1.0, 2.0)  # noqa: S311 - spreads reconnects, guards nothing
        client.reconnect_delay_set(FIRST_DELAY_S * jitter, LONGEST_DELAY_S / jitter)  # type: ignore[arg-type]
        context = broker.tls_context()
        if context is not None:
            client.tls_set_context(context)
        client.will_set(topic_of(fleet, will.address), encode_payload(will), QOS, will.address.route.retained)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        self._client = client

    async def connect(self, timeout_s: float = 10.0) -> None:
        """Open the link and return when the broker has welcomed it; from now on it reconnects by itself.

        Raises:
            BrokerError: If the broker cannot be reached within the time, or welcomes nobody.
        """
        where = f"{self._broker.host}:{self._broker.port}"
        advice = "start one with `fedlag broker` or correct the address"
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                attempt = self._loop.run_in_executor(None, self._connect_once)
                await asyncio.wait_for(attempt, max(deadline - time.monotonic(), RETRY_S))
                break
            except OSError as error:
                is_final = isinstance(error, ssl.SSLCertVerificationError)
                if is_final or time.monotonic() + RETRY_S >= deadline:
                    raise BrokerError(f"no broker at {where} ({str(error) or 'no answer'}); {advice}") from error
                await asyncio.sleep(RETRY_S)
        self._start()
        try:
            await asyncio.wait_for(self._greeted.wait(), max(deadline - time.monotonic(), RETRY_S))
        except TimeoutError as error:
            await self.close()
            why = f"it refuses: {self._refusal}" if self._refusal else "what listens there does not answer as one"
            why += " or refuses this certificate" if self._broker.certificate and not self._refusal else ""
            raise BrokerError(f"no broker at {where} ({why}); {advice}") from error

    def _connect_once(self) -> None:
        self._client.connect(self._broker.host, self._broker.port, KEEPALIVE_S, clean_start=True)

    async def close(self, farewell: Envelope | None = None) -> None:
        """Say a last word instead of the will, and close."""
        if farewell is not None:
            self.publish(farewell)
        if self._client.is_connected():
            try:
                await asyncio.wait_for(self.drained(), timeout=5.0)
            except TimeoutError:
                log.warning("the broker did not acknowledge the last messages; closing all the same")
        self._client.disconnect()
        await self._stop()

    def _start(self) -> None:
        """Let paho's network thread run from now on."""
        self._client.loop_start()

    async def _stop(self) -> None:
        """Return when the network thread has ended."""
        await self._loop.run_in_executor(None, self._client.loop_stop)
        # paho leaves its wake-up sockets to the garbage collector; its thread has ended, so they can be closed here.
        self._client._reset_sockets(sockpair_only=True)  # noqa: SLF001

    def publish(self, envelope: Envelope) -> None:
        """Send a message at QoS 1; it is queued while the broker is away.

        A message above its route's bound, which nobody would take, or above the broker's is dropped and counted: paho
        would send it for ever.
        """
        route = envelope.address.route
        topic, payload = topic_of(self._fleet, envelope.address), encode_payload(envelope)
        limit = min(route.max_bytes, self._largest_packet - len(topic) - PACKET_OVERHEAD)
        if len(payload) > limit:
            self.num_dropped += 1
            log.error("not sent: %s of %d bytes, at most %d", topic, len(payload), limit)
            return
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.ContentType = CONTENT_TYPE
        if route.expiry_s:
            properties.MessageExpiryInterval = route.expiry_s
        info = self._client.publish(topic, payload, QOS, route.retained, properties)
        if info.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:
            self.num_dropped += 1
            log.error("not sent: %s, since %d messages wait for the broker already", topic, MAX_QUEUED)
            return
        self.bytes_up += len(payload)
        self._pending.add(info.mid)
        self._idle.clear()

    def subscribe(self, topic_filter: str) -> None:
        """Receive what matches, and what is retained; again after every reconnect."""
        self._filters[topic_filter] = None
        if self._client.is_connected():
            self._client.subscribe(topic_filter, QOS)

    def unsubscribe(self, topic_filter: str) -> None:
        """Receive no more of it."""
        self._filters.pop(topic_filter, None)
        if self._client.is_connected():
            self._client.unsubscribe(topic_filter)

    async def drained(self) -> None:
        """Return when the broker has acknowledged all that was published."""
        await self._idle.wait()

    async def messages(self) -> AsyncIterator[Received | Connected]:
        """Yield what comes, in order, without an end."""
        while True:
            event = await self._queue.get()
            if isinstance(event, Received):
                self._count_waiting(-1, -len(event.payload))
            yield event

    # What follows runs on paho's network thread: it must neither fail nor take long.

    def _on_connect(
        self, client: Client, _data: object, _flags: ConnectFlags, code: ReasonCode, properties: Properties | None
    ) -> None:
        if code.is_failure:
            self._refusal = str(code)
            log.warning("the broker refused the connection: %s", code)
            return
        self._largest_packet = getattr(properties, "MaximumPacketSize", 2**28)
        for topic_filter in list(self._filters):
            client.subscribe(topic_filter, QOS)
        self._call(self._welcome, Connected())

    def _on_disconnect(
        self, _client: Client, _data: object, _flags: DisconnectFlags, code: ReasonCode, _properties: Properties | None
    ) -> None:
        if code.is_failure:
            log.warning("the link to the broker is lost (%s); trying again", code)

    def _on_message(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        self.bytes_down += len(message.payload)
        try:
            received = Received(message.topic, bytes(message.payload))
        except UnicodeDecodeError:
            self.num_dropped += 1
            log.warning("dropped a message: its topic is not text")
        else:
            self._take_in(received)

    def _take_in(self, event: Received) -> None:
        """Hand a message over, unless too much waits: also while the other thread does something long."""
        count, num_bytes = self._waiting
        if count >= MAX_RECEIVED or num_bytes + len(event.payload) > MAX_RECEIVED_BYTES:
            self.num_dropped += 1
            if self.num_dropped & (self.num_dropped - 1) == 0:  # the first, then twice as many
                log.warning("dropped a message: %d of %d bytes wait; %d so far", count, num_bytes, self.num_dropped)
            return
        self._count_waiting(1, len(event.payload))
        self._call(self._queue.put_nowait, event)

    def _count_waiting(self, messages: int, num_bytes: int) -> None:
        with self._waiting_lock:
            self._waiting = (self._waiting[0] + messages, self._waiting[1] + num_bytes)

    def _on_publish(self, _client: Client, _data: object, mid: int, _code: ReasonCode, _properties: Properties) -> None:
        self._call(self._settle, mid)

    def _call(self, function: object, argument: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, argument)  # type: ignore[arg-type]
        except RuntimeError:
            log.debug("the program ended before the link")

    # Back on the asyncio thread.

    def _welcome(self, event: Connected) -> None:
        self._greeted.set()
        self._queue.put_nowait(event)

    def _settle(self, mid: int) -> None:
        self._pending.discard(mid)
        if not self._pending:
            self._idle.set()
