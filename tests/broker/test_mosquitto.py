"""mosquitto lets in whom the authority has signed, under that name alone; it says why it cannot start, and ends."""

from __future__ import annotations

import asyncio
import datetime as dt
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

import broker.mosquitto
from broker.authority import Authority
from broker.embedded import free_port
from broker.mosquitto import MosquittoBroker
from tests.broker.secured import SecuredBroker, is_open, skip_without_mosquitto
from tests.wire.links import FLEET, coming, drained, message_on, status
from wire.broker_address import BrokerAddress
from wire.errors import BrokerError, StoreError
from wire.messages import DeviceStatus
from wire.mqtt import Connected, MqttLink
from wire.polled import PolledLink
from wire.topics import STATUS, subscription

HERE = Path(__file__).parents[2]

PARENT = """
import sys, time
from pathlib import Path
from tests.broker.secured import SecuredBroker

place = SecuredBroker(Path(sys.argv[1]))
place.broker.start()
print(place.broker.port, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("kind", [MqttLink, PolledLink])
def test_those_whom_the_authority_has_signed_speak_with_each_other(
    secured: SecuredBroker, kind: type[MqttLink]
) -> None:
    async def scenario() -> None:
        name = kind.__name__.lower()
        reader = kind(secured.address("reader"), f"{FLEET}.reader", FLEET, status("reader"))
        writer = kind(secured.address(name), f"{FLEET}.{name}", FLEET, status(name))
        reader.subscribe(subscription(FLEET, STATUS, name))
        await reader.connect()
        await writer.connect()
        assert isinstance(await coming(reader), Connected)
        writer.publish(status(name, "ready"))
        await drained(writer)
        address, message = await message_on(reader)
        assert isinstance(message, DeviceStatus)
        assert (address.device_id, message.state) == (name, "ready")
        await writer.close(status(name))
        await reader.close()

    asyncio.run(scenario())


def stranger(place: SecuredBroker, folder: Path) -> BrokerAddress:
    other = Authority.found(folder, "elsewhere", dt.timedelta(days=1))
    identity = other.sign_client("kitchen")
    return msgspec.structs.replace(place.address("kitchen"), certificate=identity.certificate, key=identity.key)


def nobody(place: SecuredBroker, _folder: Path) -> BrokerAddress:
    return msgspec.structs.replace(place.address("kitchen"), certificate=None, key=None)


def another_authority(place: SecuredBroker, folder: Path) -> BrokerAddress:
    other = Authority.found(folder, "elsewhere", dt.timedelta(days=1))
    return msgspec.structs.replace(place.address("kitchen"), ca=other.certificate)


def another_name(place: SecuredBroker, _folder: Path) -> BrokerAddress:
    return place.address("kitchen", "localhost")


def plain(place: SecuredBroker, _folder: Path) -> BrokerAddress:
    return BrokerAddress(port=place.broker.port)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (stranger, "does not answer as one or refuses this certificate"),
        (nobody, "does not answer as one"),
        (another_authority, "CERTIFICATE_VERIFY_FAILED|certificate verify failed"),
        (another_name, "Hostname mismatch"),
        (plain, "does not answer as one"),
    ],
)
def test_who_is_not_signed_or_finds_another_broker_than_the_one_that_it_looked_for_is_not_connected(
    secured: SecuredBroker, tmp_path: Path, make: Callable[[SecuredBroker, Path], BrokerAddress], says: str
) -> None:
    async def scenario() -> None:
        link = MqttLink(make(secured, tmp_path), f"{FLEET}.kitchen", FLEET, status("kitchen"))
        with pytest.raises(BrokerError, match=says):
            await link.connect(1.0)

    asyncio.run(scenario())


def test_nobody_takes_the_place_of_another_by_calling_itself_the_same(secured: SecuredBroker) -> None:
    async def scenario() -> None:
        links = [
            MqttLink(secured.address(name), f"{FLEET}.kitchen", FLEET, status(name)) for name in ("attic", "cellar")
        ]
        for link in links:
            await link.connect()
        for link, name in zip(links, ("attic", "cellar"), strict=True):
            link.publish(status(name, "ready"))
            await drained(link)
            assert link._client.is_connected()
            await link.close()

    asyncio.run(scenario())


def test_without_mosquitto_it_says_what_to_install(
    tmp_path: Path, secured: SecuredBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(broker.mosquitto, "PLACES", ())
    identity = secured.authority.sign_server("other", "127.0.0.1")
    with pytest.raises(BrokerError, match="not installed; on Debian: apt-get install mosquitto"):
        MosquittoBroker(tmp_path, secured.authority.certificate, identity).start()


def test_an_occupied_port_is_named(tmp_path: Path, secured: SecuredBroker) -> None:
    identity = secured.authority.sign_server("other", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as occupant:
        port = occupant.getsockname()[1]
        second = MosquittoBroker(tmp_path, secured.authority.certificate, identity, port=port)
        with pytest.raises(BrokerError, match=rf"port {port} on 127.0.0.1 is taken"):
            second.start()
        assert not second.is_running


def test_what_it_says_when_it_cannot_start_is_passed_on(tmp_path: Path, secured: SecuredBroker) -> None:
    identity = secured.authority.sign_server("other", "127.0.0.1")
    broken = identity._replace(key=tmp_path / "absent.key")
    second = MosquittoBroker(tmp_path, secured.authority.certificate, broken, port=free_port())
    with pytest.raises(BrokerError, match=r"mosquitto did not start on .*mosquitto.conf"):
        second.start()
    second.stop()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, secured: SecuredBroker) -> None:
    (tmp_path / "file").touch()
    identity = secured.authority.sign_server("other", "127.0.0.1")
    with pytest.raises(StoreError, match=r"cannot write .*mosquitto.conf"):
        MosquittoBroker(tmp_path / "file", secured.authority.certificate, identity).start()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_it_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    skip_without_mosquitto()
    command = [sys.executable, "-c", PARENT, str(tmp_path)]
    with subprocess.Popen(command, cwd=HERE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        port = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 10
    while is_open(port):
        assert time.monotonic() < deadline
