"""The embedded broker: iotcore (rumqttd in a wheel) as a child process, for the machine it runs on.

It listens on loopback alone and has no access list. Its own defaults would listen on every interface, refuse payloads
above 20,480 bytes and keep gigabytes in memory, so it always runs on the configuration below. It ends when its parent
ends, however that happens: the parent holds the other end of its standard input.
"""

from __future__ import annotations

import socket
from pathlib import Path
from string import Template

import iotcore

from wire.durable import storage_error
from wire.errors import BrokerError
from wire.topics import LARGEST_PACKET

__all__ = ["EmbeddedBroker", "free_port"]

LOOPBACK = "127.0.0.1"
START_TIMEOUT_S = 30.0

CONFIGURATION = Template("""\
id = 0

[router]
id = 0
max_connections = 10010
max_outgoing_packet_count = 1000
max_segment_size = 4194304
max_segment_count = 10

[v5.1]
name = "fedlag"
listen = "$host:$port"
next_connection_delay_ms = 1

[v5.1.connections]
connection_timeout_ms = 60000
max_payload_size = $largest
max_inflight_count = 100
dynamic_filters = true
""")


def free_port() -> int:
    """Return a TCP port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


class EmbeddedBroker:
    """An MQTT 5 broker on loopback.

    Args:
        folder: Where its configuration is written.
        port: Its TCP port; 0 takes a free one.
    """

    def __init__(self, folder: Path, port: int = 0) -> None:
        """Prepare; nothing runs yet."""
        self.host = LOOPBACK
        self.port = port or free_port()
        self._folder = folder
        self._child: iotcore.Broker | None = None

    def start(self) -> None:
        """Start the child process and return when it accepts connections.

        Raises:
            BrokerError: If the port is taken, or the child does not come up.
            StoreError: If the configuration cannot be written.
        """
        path = self._folder / "broker.toml"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            path.write_text(CONFIGURATION.substitute(host=self.host, port=self.port, largest=LARGEST_PACKET))
        except OSError as error:
            raise storage_error(path, error) from error
        child = iotcore.Broker(config_path=str(path))
        try:
            child.start(timeout=START_TIMEOUT_S)
        except OSError as error:
            raise BrokerError(
                f"port {self.port} on {self.host} is taken ({error}); stop what listens there or choose another --port"
            ) from error
        except RuntimeError as error:
            raise BrokerError(f"the embedded broker did not start: {error}; see its messages above") from error
        self._child = child

    def stop(self) -> None:
        """End the child process and release its port; a second call does nothing."""
        if self._child is not None:
            self._child.stop()
            self._child = None

    @property
    def is_running(self) -> bool:
        """Say whether the child process lives."""
        return self._child is not None and self._child.is_running
