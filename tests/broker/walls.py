"""A fleet's folder with its broker running, and guests at it: clients that say what they like."""

from __future__ import annotations

import queue
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.properties import Properties

from broker.authority import Authority, Identity
from broker.embedded import free_port
from broker.founding.folder import found_fleet
from tests.broker.secured import skip_without_mosquitto
from wire.broker_address import BrokerAddress
from wire.topics import user_of

ROOT = Path(__file__).parents[2]
PATIENCE_S = 20.0
V5, V311 = MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311


class Guest:
    """A client with whatever certificate and client id it has."""

    def __init__(
        self, port: int, client_id: str, context: ssl.SSLContext | None, protocol: MQTTProtocolVersion = V5
    ) -> None:
        self.seen: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self.losses = 0
        self.is_in = threading.Event()
        self._subscribed = threading.Event()
        self._port = port
        self.client = Client(CallbackAPIVersion.VERSION2, client_id, protocol=protocol)
        if context is not None:
            self.client.tls_set_context(context)
        self.client.on_connect = self._on_connect
        self.client.on_disconnect = self._on_disconnect
        self.client.on_subscribe = lambda *_: self._subscribed.set()
        self.client.on_message = lambda _client, _data, message: self.seen.put((message.topic, bytes(message.payload)))

    def _on_connect(
        self, _client: Client, _data: object, _flags: object, code: object, _more: Properties | None
    ) -> None:
        if str(code) == "Success":
            self.is_in.set()

    def _on_disconnect(self, *_: object) -> None:
        self.losses += 1

    def connect(self, *filters: str) -> None:
        """Be let in, and subscribe; the broker grants it all."""
        self.client.connect("127.0.0.1", self._port)
        self.client.loop_start()
        assert self.is_in.wait(PATIENCE_S)
        for topic_filter in filters:
            self._subscribed.clear()
            self.client.subscribe(topic_filter, 1)
            assert self._subscribed.wait(PATIENCE_S)

    def knock(self, topic: str) -> bool:
        """Try to come in and to publish all the same; say whether the broker welcomed it."""
        with suppress(OSError):
            self.client.connect("127.0.0.1", self._port)
            self.client.publish(topic, b"from outside", 1, retain=True)
            self.client.loop_start()
            self.is_in.wait(1.0)
        self.leave()
        return self.is_in.is_set()

    def say(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish, and return when the broker has acknowledged it, delivered or dropped."""
        self.client.publish(topic, payload, 1, retain).wait_for_publish(PATIENCE_S)

    def next(self) -> tuple[str, bytes]:
        return self.seen.get(timeout=PATIENCE_S)

    def seen_until(self, payload: bytes) -> list[tuple[str, bytes]]:
        """Return what came before this payload."""
        found = []
        while (one := self.next())[1] != payload:
            found.append(one)
        return found

    def vanish(self) -> None:
        """Be gone without a word, as after a power cut."""
        self.client.loop_stop()
        self.client._sock_close()

    def leave(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()
        self.client._sock_close()
        self.client._reset_sockets(sockpair_only=True)


class WalledFleet:
    """A fleet ``home`` as ``fedlag init`` makes it, and its broker as ``fedlag broker --config`` runs it."""

    def __init__(self, folder: Path) -> None:
        skip_without_mosquitto()
        self.port = free_port()
        self.folder = folder / "home"
        found_fleet(self.folder, "home", ["localhost", "127.0.0.1"], self.port)
        self.keys = self.folder / "keys"
        self.authority = Authority.load(self.keys)
        self.certificates = folder / "certificates"
        self.certificates.mkdir()
        self.child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "fedlag", "broker", "--config", str(self.folder / "mosquitto.conf")]
        with (self.folder / "log").open("ab") as log:
            self.child = subprocess.Popen(command, cwd=ROOT, stderr=log, start_new_session=True)
        self.wait()

    def wait(self) -> None:
        """Return when a broker speaks TLS here."""
        deadline = time.monotonic() + PATIENCE_S
        context = self.context(self.aggregator)
        while True:
            with (
                suppress(OSError),
                socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S) as plain,
                context.wrap_socket(plain, server_hostname="127.0.0.1"),
            ):
                return
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def stop(self) -> int:
        assert self.child is not None
        self.child.terminate()
        return self.child.wait(PATIENCE_S)

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def wait_for_log(self, text: str, times: int = 1) -> None:
        """Return when the broker has said this so often; it writes after it has acted."""
        deadline = time.monotonic() + PATIENCE_S
        while self.log().count(text) < times:
            assert time.monotonic() < deadline, f"the broker did not say {text!r}"
            time.sleep(0.02)

    @property
    def aggregator(self) -> Identity:
        return Identity(self.keys / "aggregator.pem", self.keys / "aggregator.key")

    def device(self, device_id: str) -> Identity:
        return self.authority.sign_client(user_of("home", device_id), self.certificates / device_id)

    def context(self, identity: Identity | None) -> ssl.SSLContext:
        address = BrokerAddress("127.0.0.1", self.port, self.authority.certificate, *(identity or (None, None)))
        context = address.tls_context()
        assert context is not None
        return context

    @contextmanager
    def guest(
        self, name: str, *filters: str, client_id: str | None = None, protocol: MQTTProtocolVersion = V5
    ) -> Iterator[Guest]:
        """A device of this name, or ``aggregator``, connected and subscribed."""
        is_aggregator = name == "aggregator"
        identity = self.aggregator if is_aggregator else self.device(name)
        own = user_of("home", "" if is_aggregator else name)
        guest = Guest(self.port, client_id or own, self.context(identity), protocol)
        guest.connect(*filters)
        try:
            yield guest
        finally:
            guest.leave()
