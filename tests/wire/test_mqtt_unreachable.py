"""A broker that cannot be reached is named within the time, with what to do."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from broker.embedded import free_port
from wire.broker_address import BrokerAddress
from wire.errors import BrokerError
from wire.messages import DeviceStatus
from wire.mqtt import MqttLink
from wire.topics import STATUS, Address, Envelope

FLEET = "home"
WILL = Envelope(Address(STATUS, "pi"), DeviceStatus(state="lost", session=1))


@pytest.mark.parametrize("timeout_s", [0.1, 1.0])
def test_an_unreachable_broker_is_named_within_the_time(timeout_s: float) -> None:
    async def scenario() -> None:
        port = free_port()
        link = MqttLink(BrokerAddress(port=port), "home.pi", FLEET, WILL)
        started = time.monotonic()
        with pytest.raises(BrokerError, match=rf"no broker at 127.0.0.1:{port} .*refused.*`fedlag broker`"):
            await link.connect(timeout_s)
        assert time.monotonic() - started < timeout_s + 1

    asyncio.run(scenario())


def test_a_host_without_an_address_is_named() -> None:
    async def scenario() -> None:
        link = MqttLink(BrokerAddress("no-such-host.invalid"), "home.pi", FLEET, WILL)
        with pytest.raises(BrokerError, match=r"no broker at no-such-host.invalid:1883"):
            await link.connect(0.1)

    asyncio.run(scenario())


def test_a_port_where_something_else_listens_is_named_within_the_time() -> None:
    async def scenario(port: int) -> None:
        link = MqttLink(BrokerAddress(port=port), "home.pi", FLEET, WILL)
        with pytest.raises(BrokerError, match=rf"127.0.0.1:{port} \(what listens there does not answer as one\)"):
            await link.connect(0.5)

    with socket.create_server(("127.0.0.1", 0)) as silent:
        asyncio.run(scenario(silent.getsockname()[1]))
