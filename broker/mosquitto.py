"""mosquitto, Debian's, as a child process: on a configuration that is made for it here, or on that of a fleet's folder.

The first is for benchmarks and tests: it keeps nothing, so that its disk is idle, and has no access list.
"""

from __future__ import annotations

import getpass
import shutil
import socket
import ssl
import subprocess
import time
from pathlib import Path

from broker.authority import Identity
from broker.configuration import Entrance, configuration
from broker.embedded import LOOPBACK, free_port
from wire.durable import storage_error
from wire.errors import BrokerError, ConfigError

__all__ = ["MosquittoBroker", "find_mosquitto", "run_mosquitto"]

START_TIMEOUT_S = 10.0
END_TIMEOUT_S = 10.0
POLL_S = 0.02
PLACES = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")


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
        entrance = Entrance(self.port, self.host, self._ca, self._identity)
        text = configuration(entrance, getpass.getuser())
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
        _end(self._child)
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


def run_mosquitto(config: Path) -> None:
    """Run mosquitto on a configuration, in the folder where that is, until this process is told to end.

    It says on standard error what it has to say, and ends with this process.

    Args:
        config: What ``fedlag init`` wrote, perhaps changed since.

    Raises:
        BrokerError: If mosquitto is not installed, or ends by itself.
        ConfigError: If the file is absent.
    """
    path = config.resolve()
    if not path.is_file():
        raise ConfigError(f"there is no file {config}; `fedlag init` writes a mosquitto.conf into the fleet's folder")
    command = [*_dies_with_parent(), find_mosquitto(), "-c", path.name]
    with subprocess.Popen(command, cwd=path.parent) as child:  # noqa: S603 - Debian's mosquitto
        try:
            code = child.wait()
        except KeyboardInterrupt:
            _end(child)
            return
    raise BrokerError(f"mosquitto ended by itself, with code {code}; see its messages above, and correct {config}")


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


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
