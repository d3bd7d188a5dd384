"""A home server as docs/broker.md says, every command of it, and two devices that come to it over TLS as separate processes."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from aggregator.keeping.store import FleetStore
from aggregator.round_report import RoundReport
from broker.authority import Authority
from broker.embedded import free_port
from tests.broker.secured import skip_without_mosquitto
from tests.e2e.home import Home
from wire.topics import user_of

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "broker.md"
BIN = Path(sys.executable).parent
NAMES = ("kitchen", "attic")
PATIENCE_S = 120.0


class Server:
    """The commands of the page, in a folder; those that go on are ended as Ctrl+C ends them."""

    def __init__(self, here: Path) -> None:
        self.here = here
        self.port = free_port()
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, *words: str) -> None:
        with (self.here / f"{len(self.running)}.log").open("wb") as log:
            self.running[" ".join(words)] = subprocess.Popen(
                [str(BIN / words[0]), *words[1:]], cwd=self.here, stdout=log, stderr=log, env=self._environment()
            )

    def run(self, *words: str) -> str:
        done = subprocess.run(
            [str(BIN / words[0]), *words[1:]],
            cwd=self.here,
            capture_output=True,
            text=True,
            check=False,
            env=self._environment(),
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @staticmethod
    def _environment() -> dict[str, str]:
        return {**os.environ, "OMP_NUM_THREADS": "1"}

    def logs(self) -> str:
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.here.glob("*.log")))

    def end(self) -> list[int]:
        for child in reversed(self.running.values()):
            child.send_signal(signal.SIGINT)
            child.wait(PATIENCE_S)
        return [child.returncode for child in self.running.values()]

    def adapt(self) -> None:
        """Take a free port, and no longer than a test has."""
        for path in (self.here / "home/aggregator.toml", self.here / "home/mosquitto.conf"):
            text = path.read_text().replace("8883", str(self.port))
            text = text.replace("cohort_size = 100", "cohort_size = 2").replace("buffer_size = 10 ", "buffer_size = 2 ")
            path.write_text(text)

    def device(self, name: str, seed: int) -> Path:
        """Write what a device has: data, configuration and a certificate, all in one folder."""
        path = Home(self.here, self.here / "home/program").device(name, seed=seed)
        authority = Authority.load(self.here / "home/keys")
        authority.sign_client(user_of("home", name), self.here / name)
        text = path.read_text().partition("[broker]")[0].replace('"test"', '"home"')
        keys = f'ca = "home/keys/ca.pem"\ncertificate = "{name}.pem"\nkey = "{name}.key"\n'
        broker = f'[broker]\nhost = "localhost"\nport = {self.port}\n{keys}'
        path.write_text(f'{text}{broker}[aggregator]\nkey = "home/keys/signing.pub"\n')
        return path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    skip_without_mosquitto()
    place = Server(tmp_path)
    yield place
    for child in place.running.values():
        child.kill()
        child.wait()


def test_a_home_server_by_its_page_completes_rounds_with_two_devices_over_tls(server: Server) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    for words in filter(None, lines):
        match words[1:]:
            case ["broker", "--config", config]:
                server.adapt()
                server.start("fedlag", "broker", "--config", config)
            case ["aggregator", "run", config]:
                server.start("fedlag", "aggregator", "run", config)
            case other:
                server.run("fedlag", *other)
    for seed, name in enumerate(NAMES):
        server.start("fedlag", "edge", "run", str(server.device(name, seed)))
    deadline = time.monotonic() + PATIENCE_S
    while len(closed := reports(server.here / "home/aggregator")) < 3:
        assert time.monotonic() < deadline, server.logs()
        time.sleep(0.2)
    assert [sorted(report.counted) for report in closed[:3]] == [sorted(NAMES)] * 3
    assert [report.refused_messages for report in closed[:3]] == [{}] * 3
    assert server.end() == [0, 0, 0, 0], server.logs()
    said = server.logs()
    for user in (user_of("home"), *(user_of("home", name) for name in NAMES)):
        assert f"as {user} " in said, "the broker's log names who came"


def reports(folder: Path) -> list[RoundReport]:
    if not (folder / "fleet.sqlite").exists():
        return []
    with closing(FleetStore(folder)) as store:
        return store.reports()
