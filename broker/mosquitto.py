"""mosquitto, Debian's, as a child process: TLS alone, and a certificate for everybody.

Who connects is who the certificate says: its common name is the user's name and the client id, so that nobody can take another's
place. Nothing is persistent here: the aggregator publishes all that it retains each time it connects, and devices send again
what the aggregator itself has not acknowledged. So a broker that is killed loses nothing, and its disk is idle.
"""

from __future__ import annotations

import getpass
import shutil
import socket
import ssl
import subprocess
import time
from pathlib import Path
from string import Template

from broker.authority import Identity
from broker.embedded import LARGEST_PACKET, LOOPBACK, free_port
from wire.durable import storage_error
from wire.errors import BrokerError

__all__ = ["MosquittoBroker", "find_mosquitto"]

START_TIMEOUT_S = 10.0
END_TIMEOUT_S = 10.0
POLL_S = 0.02
PLACES = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")

CONFIGURATION = Template("""\
user $user
listener $port $host
cafile $ca
certfile $certificate
keyfile $key
tls_version tlsv1.2
require_certificate true
use_identity_as_username true
use_username_as_clientid true
allow_anonymous false
persistence false
max_queued_messages 100000
max_inflight_messages 100
max_packet_size $largest
set_tcp_nodelay true
log_dest stderr
log_type error
log_type warning
""")


def find_mosquitto() -> str:
    """Return the path of mosquitto.

    Raises:
        BrokerError: If it is not installed.
    """
    found = shutil.which("mosquitto") or next(
        (path for place in PLACES if (path := shutil.which("mosquitto", path=place))), None
    )
    if found is None:
        raise BrokerError("mosquitto is not installed; on Debian: apt-get install mosquitto")
    return found


class MosquittoBroker:
    """An MQTT 5 broker over TLS. It is told to end when this process ends, where util-linux can see to that.

    Args:
        folder: Where its configuration is written, and what it logs.
        ca: The certificate of the authority that signed everybody's.
        identity: Its own certificate and key.
        host: The address on which it listens.
        port: Its TCP port; 0 takes a free one.
    """

    def __init__(self, folder: Path, ca: Path, identity: Identity, host: str = LOOPBACK, port: int = 0) -> None:
        """Prepare; nothing runs yet."""
        self.host = host
        self.port = port or free_port()
        self._folder = folder
        self._ca = ca
        self._identity = identity
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the child process and return when it accepts connections.

        Raises:
            BrokerError: If mosquitto is not installed, its port is taken, or it does not come up.
            StoreError: If the configuration cannot be written.
        """
        program = find_mosquitto()
        _refuse_taken_port(self.host, self.port)
        path, log = self._folder / "mosquitto.conf", self._folder / "mosquitto.log"
        text = CONFIGURATION.substitute(
            user=getpass.getuser(),  # root would become a user who cannot read the key
            host=self.host,
            port=self.port,
            ca=self._ca,
            certificate=self._identity.certificate,
            key=self._identity.key,
            largest=LARGEST_PACKET,
        )
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            with log.open("wb") as file:
                command = [*_dies_with_parent(), program, "-c", str(path)]
                self._child = subprocess.Popen(command, stderr=file)  # noqa: S603 - Debian's mosquitto
        except OSError as error:
            raise storage_error(path, error) from error
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not self._accepts():
            if self._child.poll() is not None or time.monotonic() > deadline_s:
                said = log.read_text(errors="replace").strip().rpartition("\n")[2] or "it says nothing"
                self.stop()
                raise BrokerError(f"mosquitto did not start on {self.host}:{self.port}: {said}; correct {path}")
            time.sleep(POLL_S)

    def stop(self) -> None:
        """End the child process and release its port; a second call does nothing."""
        if self._child is None:
            return
        self._child.terminate()
        try:
            self._child.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._child = None

    @property
    def is_running(self) -> bool:
        """Say whether the child process lives."""
        return self._child is not None and self._child.poll() is None

    def _accepts(self) -> bool:
        """Say whether the child speaks TLS as it was told to; it listens before it has read its key."""
        if not self.is_running:
            return False
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=self._ca)
        try:
            with (
                socket.create_connection((self.host, self.port), timeout=START_TIMEOUT_S) as plain,
                context.wrap_socket(plain, server_hostname=self.host),
            ):
                return True
        except OSError:
            return False


def _refuse_taken_port(host: str, port: int) -> None:
    """Look before the child does: who listens there already would be taken for it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise BrokerError(
                f"port {port} on {host} is taken ({error.strerror}); stop what listens there, or choose another"
            ) from error


def _dies_with_parent() -> list[str]:
    program = shutil.which("setpriv")
    return [program, "--pdeathsig", "TERM"] if program else []
