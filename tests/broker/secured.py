"""mosquitto over TLS for the tests that need it; they skip where it is not installed."""

from __future__ import annotations

import datetime as dt
import socket
from pathlib import Path

import pytest

from broker.authority import Authority
from broker.mosquitto import MosquittoBroker, find_mosquitto
from wire.broker_address import BrokerAddress
from wire.errors import BrokerError


def skip_without_mosquitto() -> None:
    try:
        find_mosquitto()
    except BrokerError as error:
        pytest.skip(str(error))


def is_open(port: int, host: str = "127.0.0.1") -> bool:
    """Say whether somebody listens there."""
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError:
        return False
    return True


class SecuredBroker:
    """A broker and the authority of its fleet.

    Args:
        folder: For everything.
    """

    def __init__(self, folder: Path) -> None:
        skip_without_mosquitto()
        self.authority = Authority.found(folder, "test", dt.timedelta(days=1))
        identity = self.authority.sign_server("broker", "127.0.0.1")
        self.broker = MosquittoBroker(folder / "broker", self.authority.certificate, identity)

    def address(self, name: str, host: str = "127.0.0.1") -> BrokerAddress:
        """Return where the broker is, with a certificate of this name."""
        ca = self.authority.certificate
        return BrokerAddress(host, self.broker.port, ca, *self.authority.sign_client(name))
