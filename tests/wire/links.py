"""Links to a real broker for the tests: opened and closed as a block, and read with patience."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from broker.embedded import EmbeddedBroker
from wire.broker_address import BrokerAddress
from wire.messages import DeviceStatus, Message, Part
from wire.mqtt import Connected, MqttLink, Received
from wire.topics import STATUS, UPDATE, Address, Envelope, Route, decode_payload, parse_topic, subscription

FLEET = "home"
DIGEST = "a" * 64
PATIENCE_S = 20.0


def status(device_id: str, state: str = "lost", session: int = 1) -> Envelope:
    return Envelope(Address(STATUS, device_id), DeviceStatus(state=state, session=session))  # type: ignore[arg-type]


def part(index: int, data: bytes = b"x", device_id: str = "pi") -> Envelope:
    message = Part(digest=DIGEST, index=index, num_parts=10_000, size_bytes=10_000, data=data)
    return Envelope(Address(UPDATE, device_id, DIGEST, index), message)


def new_link(broker: EmbeddedBroker, device_id: str) -> MqttLink:
    address = BrokerAddress(broker.host, broker.port)
    link = MqttLink(address, f"{FLEET}.{device_id}", FLEET, status(device_id))
    link._client.reconnect_delay_set(0.05, 0.1)  # type: ignore[arg-type]
    return link


@asynccontextmanager
async def open_link(broker: EmbeddedBroker, device_id: str, *routes: Route) -> AsyncIterator[MqttLink]:
    link = new_link(broker, device_id)
    for route in routes:
        link.subscribe(subscription(FLEET, route))
    await link.connect()
    try:
        assert isinstance(await coming(link), Connected)
        yield link
    finally:
        await link.close()


async def coming(link: MqttLink) -> Received | Connected:
    """The next event."""
    return await asyncio.wait_for(anext(link.messages()), PATIENCE_S)


async def message_on(link: MqttLink) -> tuple[Address, Message | None]:
    """The next message, past reconnects."""
    while isinstance(event := await coming(link), Connected):
        pass
    address = parse_topic(FLEET, event.topic)
    return address, decode_payload(address, event.payload)


async def subscribed(link: MqttLink, number: int = 0) -> None:
    """Return when the broker serves the link's subscription to updates: its own message comes back."""
    link.publish(part(9_000 + number))
    while (await message_on(link))[0].part != 9_000 + number:
        pass


async def drained(link: MqttLink) -> None:
    await asyncio.wait_for(link.drained(), PATIENCE_S)


def lose_connection(link: MqttLink) -> None:
    """Close the socket under the client, as a power cut or a walk out of the house does."""
    sock = link._client.socket()
    assert isinstance(sock, socket.socket)
    sock.shutdown(socket.SHUT_RDWR)


async def state_of(link: MqttLink, device_id: str) -> str:
    """The device's next state."""
    while True:
        address, message = await message_on(link)
        if address.device_id == device_id and isinstance(message, DeviceStatus):
            return message.state
