"""The link over a real broker: what is published arrives, in order, past lost connections, killed brokers and poison."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Iterator
from pathlib import Path

import pytest
from paho.mqtt.client import MQTTMessage

import wire.mqtt
from broker.embedded import EmbeddedBroker, free_port
from tests.wire.links import (
    DIGEST,
    FLEET,
    coming,
    drained,
    lose_connection,
    message_on,
    new_link,
    open_link,
    part,
    state_of,
    status,
    subscribed,
)
from wire.messages import DeviceStatus, Invitation, Message
from wire.mqtt import Connected, MqttLink, Received
from wire.topics import (
    INVITATION,
    PLAN,
    STATUS,
    UPDATE,
    Address,
    Envelope,
    subscription,
    topic_of,
)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBroker]:
    running = EmbeddedBroker(tmp_path_factory.mktemp("broker"))
    running.start()
    yield running
    running.stop()


def test_messages_arrive_in_order_and_drained_waits_for_the_broker(broker: EmbeddedBroker) -> None:
    async def scenario() -> None:
        async with open_link(broker, "a", UPDATE) as reader, open_link(broker, "pi") as writer:
            await subscribed(reader)
            for index in range(500):
                writer.publish(part(index))
            assert not writer._idle.is_set()
            await drained(writer)
            assert not writer._pending
            assert [(await message_on(reader))[0].part for _ in range(500)] == list(range(500))

    asyncio.run(scenario())


def test_a_retained_message_reaches_a_late_subscriber_until_it_is_cleared(broker: EmbeddedBroker) -> None:
    address = Address(INVITATION, "late")

    async def scenario() -> None:
        async with open_link(broker, "aggregator") as writer:
            writer.publish(Envelope(address, Invitation(plan=DIGEST)))
            await drained(writer)
            async with open_link(broker, "late", INVITATION) as reader:
                assert await message_on(reader) == (address, Invitation(plan=DIGEST))
                writer.publish(Envelope(address, None))
                assert await message_on(reader) == (address, None)
            async with open_link(broker, "later", INVITATION, UPDATE) as reader:
                writer.publish(part(7))
                await subscribed(reader)  # and nothing of the invitation came before it

    asyncio.run(scenario())


def test_a_late_subscription_gets_what_is_retained_and_an_ended_one_nothing_more(broker: EmbeddedBroker) -> None:
    async def scenario() -> None:
        async with open_link(broker, "a", UPDATE) as link:
            await subscribed(link)
            link.publish(status("b", "ready"))
            await drained(link)
            assert (await message_on_own(link))[0].part == 0
            link.subscribe(subscription(FLEET, STATUS, "b"))
            assert (await message_on(link))[0] == Address(STATUS, "b")
            link.unsubscribe(subscription(FLEET, STATUS, "b"))
            link.publish(status("b", "training"))
            link.publish(part(1))
            assert (await message_on(link))[0].part == 1

    async def message_on_own(link: MqttLink) -> tuple[Address, Message | None]:
        link.publish(part(0))
        return await message_on(link)

    asyncio.run(scenario())


def test_the_will_says_lost_after_an_abrupt_loss_to_late_subscribers_too(broker: EmbeddedBroker) -> None:
    async def scenario() -> None:
        async with open_link(broker, "watch", STATUS) as watch:
            async with open_link(broker, "torn") as torn:
                torn.publish(status("torn", "ready"))
                assert await state_of(watch, "torn") == "ready"
                lose_connection(torn)
                assert await state_of(watch, "torn") == "lost"
            async with open_link(broker, "late", STATUS) as late:
                assert await state_of(late, "torn") == "lost"

    asyncio.run(scenario())


def test_a_farewell_is_said_and_the_will_is_not(broker: EmbeddedBroker) -> None:
    async def scenario() -> None:
        async with open_link(broker, "watch", STATUS) as watch:
            link = new_link(broker, "leaving")
            await link.connect()
            await link.close(status("leaving", "lost", session=42))
            while (found := await message_on(watch))[0].device_id != "leaving":
                pass
            assert found[1] == status("leaving", "lost", session=42).message
            watch.publish(status("watch", "ready"))
            assert (await message_on(watch))[0].device_id == "watch"

    asyncio.run(scenario())


@pytest.mark.slow
def test_after_the_broker_was_killed_links_subscribe_again_and_send_what_was_queued(tmp_path: Path) -> None:
    async def scenario(first: EmbeddedBroker, second: EmbeddedBroker) -> None:
        first.start()
        async with open_link(first, "a", UPDATE) as reader, open_link(first, "pi") as writer:
            await subscribed(reader)
            kill(first)
            for index in range(100):
                writer.publish(part(index))
            assert not writer._idle.is_set()
            await asyncio.to_thread(second.start)
            while not isinstance(await coming(reader), Connected):
                pass
            await drained(writer)
            await subscribed(reader, 1)
            writer.publish(part(100))
            assert (await message_on(reader))[0].part == 100

    def kill(running: EmbeddedBroker) -> None:
        assert running._child is not None
        assert running._child._process is not None
        running._child._process.kill()
        running._child._process.wait()

    port = free_port()
    first, second = EmbeddedBroker(tmp_path, port), EmbeddedBroker(tmp_path, port)
    try:
        asyncio.run(scenario(first, second))
    finally:
        first.stop()
        second.stop()


def test_what_was_queued_while_the_link_was_lost_arrives_once_it_is_back(broker: EmbeddedBroker) -> None:
    async def scenario() -> None:
        async with open_link(broker, "a", UPDATE) as reader, open_link(broker, "pi") as writer:
            await subscribed(reader)
            lose_connection(writer)
            for index in range(100):
                writer.publish(part(index))
            await drained(writer)
            found: list[int] = []
            while len(set(found)) < 100:  # what is sent again may come behind what is sent for the first time
                found.append((await message_on(reader))[0].part)
            assert sorted(set(found)) == list(range(100))

    asyncio.run(scenario())


def test_an_oversized_message_is_dropped_and_counted_and_what_stands_behind_it_arrives(broker: EmbeddedBroker) -> None:
    async def scenario() -> None:
        async with open_link(broker, "a", UPDATE) as link:
            await subscribed(link)
            link.publish(part(1, bytes(UPDATE.max_bytes)))
            link.publish(part(2))
            assert (await message_on(link))[0].part == 2
            link._largest_packet = 1000  # what a broker may say when it welcomes a link
            link.publish(part(3, bytes(900)))
            link.publish(part(4))
            assert (await message_on(link))[0].part == 4
            await drained(link)
            assert link.num_dropped == 2

    asyncio.run(scenario())


@pytest.mark.parametrize("size", [1024 * 1024, PLAN.max_bytes])
def test_the_largest_messages_pass(broker: EmbeddedBroker, size: int) -> None:
    async def scenario() -> None:
        async with open_link(broker, "a", PLAN) as link:
            link._client.publish(topic_of(FLEET, Address(PLAN)), bytes(size), 1)
            event = await coming(link)
            assert isinstance(event, Received)
            assert len(event.payload) == size == link.bytes_down

    asyncio.run(scenario())


def test_poison_does_not_end_the_network_thread(broker: EmbeddedBroker) -> None:
    async def scenario() -> None:
        async with open_link(broker, "a", UPDATE) as link:
            await subscribed(link)
            for payload in (b"", b"\xc1", b"\x91" * 100_000):
                link._client.publish(topic_of(FLEET, Address(UPDATE, "pi", DIGEST, 1)), payload, 1)
                event = await coming(link)
                assert isinstance(event, Received)
                assert event.payload == payload
            await subscribed(link, 1)

    asyncio.run(scenario())


def test_a_topic_that_is_no_text_is_dropped_and_counted(broker: EmbeddedBroker) -> None:
    async def scenario() -> None:
        async with open_link(broker, "a", UPDATE) as link:
            await asyncio.to_thread(link._client._handle_on_message, MQTTMessage(topic=b"fedlag/v1/\xff"))
            assert link.num_dropped == 1
            await subscribed(link)

    asyncio.run(scenario())


def test_no_more_waits_than_there_is_room_for_while_the_program_does_something_long(
    broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(wire.mqtt, "MAX_RECEIVED", 10)
    message = MQTTMessage(topic=topic_of(FLEET, Address(STATUS, "pi")).encode())

    async def scenario() -> None:
        async with open_link(broker, "a", UPDATE) as link:
            await subscribed(link)
            for _ in range(1000):  # the loop does not turn meanwhile
                link._on_message(link._client, None, message)
            assert link.num_dropped == 990
            for _ in range(10):
                await message_on(link)
            link._on_message(link._client, None, message)
            await message_on(link)
            assert link.num_dropped == 990

    asyncio.run(scenario())
    assert sum("wait" in record.message for record in caplog.records) == 10  # 1, 2, 4, ... 512


def test_closing_while_the_broker_is_away_returns(tmp_path: Path) -> None:
    async def scenario() -> None:
        running = EmbeddedBroker(tmp_path)
        running.start()
        async with open_link(running, "pi") as link:
            running.stop()
            link.publish(part(1))
            await asyncio.wait_for(link.close(status("pi")), 20)

    asyncio.run(scenario())


@pytest.mark.slow
def test_fifty_links_in_a_process(broker: EmbeddedBroker) -> None:
    async def scenario() -> None:
        links = [new_link(broker, f"device-{i}") for i in range(50)]
        await all_of(link.connect() for link in links)
        async with open_link(broker, "reader", STATUS) as reader:
            for i, link in enumerate(links):
                link.publish(status(f"device-{i}", "ready", session=1000))
            await all_of(drained(link) for link in links)
            found: set[str] = set()
            while len(found) < 50:
                address, message = await message_on(reader)
                if isinstance(message, DeviceStatus) and message.session == 1000:
                    found.add(address.device_id)
        await all_of(link.close() for link in links)

    async def all_of(calls: Iterable[Awaitable[None]]) -> None:
        await asyncio.gather(*calls)

    asyncio.run(scenario())
