"""The embedded broker serves this machine alone, says why it cannot start, and never outlives its parent."""

from __future__ import annotations

import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.embedded import LOOPBACK, EmbeddedBroker, free_port
from tests.broker.secured import is_open
from wire.errors import BrokerError, StoreError

HERE = Path(__file__).parents[2]

PARENT = """
import sys, time
from pathlib import Path
from broker.embedded import EmbeddedBroker

broker = EmbeddedBroker(Path(sys.argv[1]))
broker.start()
print(broker.port, flush=True)
time.sleep(60)
"""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    running = EmbeddedBroker(tmp_path)
    running.start()
    yield running
    running.stop()


def own_address() -> str | None:
    """An address of this machine that is not loopback; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        return str(probe.getsockname()[0])


def test_it_listens_on_loopback_alone(broker: EmbeddedBroker) -> None:
    assert broker.is_running
    assert is_open(broker.port)
    address = own_address()
    if address is None or address.startswith("127."):
        pytest.skip("this machine has no other address")
    assert not is_open(broker.port, address)


def test_an_occupied_port_is_named(tmp_path: Path) -> None:
    with socket.create_server((LOOPBACK, 0)) as occupant:
        port = occupant.getsockname()[1]
        second = EmbeddedBroker(tmp_path, port)
        with pytest.raises(BrokerError, match=rf"port {port} on 127.0.0.1 is taken .* another --port"):
            second.start()
        assert not second.is_running
        second.stop()


def test_stopping_twice_does_nothing_more_and_releases_the_port(broker: EmbeddedBroker, tmp_path: Path) -> None:
    for _ in range(2):
        broker.stop()
        assert not broker.is_running
    assert not is_open(broker.port)
    again = EmbeddedBroker(tmp_path, broker.port)
    again.start()
    again.stop()


def test_stopping_before_the_start_does_nothing(tmp_path: Path) -> None:
    EmbeddedBroker(tmp_path, free_port()).stop()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"cannot write .*broker.toml: "):
        EmbeddedBroker(tmp_path / "file").start()


@pytest.mark.slow
def test_it_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path)]
    with subprocess.Popen(command, cwd=HERE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        port = int(parent.stdout.readline())
        with socket.create_connection((LOOPBACK, port)) as connection:
            parent.kill()
            # The broker's end closes the connection, well before it would miss our CONNECT.
            assert select.select([connection], [], [], 10)[0]
    deadline = time.monotonic() + 10
    while is_open(port):
        assert time.monotonic() < deadline
