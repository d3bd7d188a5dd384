"""A link without a thread keeps what a link promises: order, large messages over TLS, reconnects, and descriptors of any height."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

import wire.polled
from broker.embedded import EmbeddedBroker
from tests.broker.secured import SecuredBroker
from tests.wire.links import (
    FLEET,
    PATIENCE_S,
    coming,
    drained,
    lose_connection,
    message_on,
    part,
    state_of,
    status,
    subscribed,
)
from wire.broker_address import BrokerAddress
from wire.mqtt import Connected
from wire.polled import PolledLink
from wire.topics import STATUS, UPDATE, Route, subscription

SELECT_ENDS = 1024


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerAddress]:
    running = EmbeddedBroker(tmp_path_factory.mktemp("broker"))
    running.start()
    yield BrokerAddress(running.host, running.port)
    running.stop()


async def open_polled(address: BrokerAddress, name: str, route: Route | None = None) -> PolledLink:
    link = PolledLink(address, f"{FLEET}.{name}", FLEET, status(name))
    if route is not None:
        link.subscribe(subscription(FLEET, route))
    await link.connect()
    assert isinstance(await coming(link), Connected)
    return link


async def exchange(reader: PolledLink, writer: PolledLink, num_messages: int, size: int) -> None:
    await subscribed(reader)
    for index in range(num_messages):
        writer.publish(part(index, bytes(size)))
    await drained(writer)
    assert [(await message_on(reader))[0].part for _ in range(num_messages)] == list(range(num_messages))


def test_messages_arrive_in_order(plain: BrokerAddress) -> None:
    async def scenario() -> None:
        reader, writer = await open_polled(plain, "a", UPDATE), await open_polled(plain, "pi")
        await exchange(reader, writer, 300, 100)
        await writer.close(status("pi"))
        await reader.close()

    asyncio.run(scenario())


def test_large_messages_arrive_over_tls(tmp_path: Path) -> None:
    async def scenario() -> None:
        reader = await open_polled(place.address("a"), "a", UPDATE)
        writer = await open_polled(place.address("pi"), "pi")
        await exchange(reader, writer, 60, 128 * 1024)
        await exchange(reader, writer, 8, 1024 * 1024)
        await writer.close(status("pi"))
        await reader.close()

    place = SecuredBroker(tmp_path)
    place.broker.start()
    try:
        asyncio.run(scenario())
    finally:
        place.broker.stop()


def test_a_lost_connection_is_made_again_and_what_was_queued_arrives(
    plain: BrokerAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        reader, writer = await open_polled(plain, "a", UPDATE), await open_polled(plain, "pi")
        await subscribed(reader)
        lose_connection(writer)
        for index in range(20):
            writer.publish(part(index))
        await drained(writer)
        assert isinstance(await coming(writer), Connected)
        found: set[int] = set()
        while len(found) < 20:
            found.add((await message_on(reader))[0].part)
        await writer.close()
        await reader.close()

    monkeypatch.setattr(wire.polled, "TEND_S", 0.1)
    asyncio.run(scenario())


def test_the_will_is_said_after_an_abrupt_loss(plain: BrokerAddress) -> None:
    async def scenario() -> None:
        watch, torn = await open_polled(plain, "watch", STATUS), await open_polled(plain, "torn")
        torn.publish(status("torn", "ready"))
        assert await state_of(watch, "torn") == "ready"
        lose_connection(torn)
        assert await state_of(watch, "torn") == "lost"
        await torn.close()
        await watch.close()

    asyncio.run(scenario())


@pytest.fixture
def high_descriptors() -> Iterator[None]:
    """What is opened from now on has a number that select() cannot take."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < SELECT_ENDS + 100 <= hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (SELECT_ENDS + 100, hard))
    try:
        probe = socket.socket()
        taken = [os.dup(probe.fileno()) for _ in range(SELECT_ENDS)]
    except OSError:
        pytest.skip("this system allows too few open files")
    yield
    for descriptor in taken:
        os.close(descriptor)
    probe.close()


@pytest.mark.usefixtures("high_descriptors")
def test_more_descriptors_than_select_can_take_are_no_limit(plain: BrokerAddress) -> None:
    async def scenario() -> None:
        link = await open_polled(plain, "high", UPDATE)
        assert link._client.socket().fileno() >= SELECT_ENDS  # type: ignore[union-attr]
        await asyncio.wait_for(exchange(link, link, 10, 100), PATIENCE_S)
        await link.close()

    asyncio.run(scenario())
