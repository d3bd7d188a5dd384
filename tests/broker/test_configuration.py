"""mosquitto's configuration says what docs/security.md promises, and a mosquitto that runs already can take it in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from broker.authority import Identity
from broker.configuration import Entrance, configuration, for_a_running_broker
from broker.embedded import free_port
from broker.mosquitto import find_mosquitto
from tests.broker.walls import Guest, WalledFleet

ENTRANCE = Entrance(8883, "", Path("ca.pem"), Identity(Path("b.pem"), Path("b.key")), Path("crl.pem"), Path("access"))
MUST = """\
allow_anonymous false
require_certificate true
use_identity_as_username true
use_username_as_clientid true
persistence true
autosave_on_changes true
max_queued_messages 100000
max_packet_size 4259840
persistent_client_expiration 7d
crlfile crl.pem
tls_version tlsv1.2
acl_file access"""


def test_it_has_every_option_that_the_protocol_asks_for() -> None:
    lines = configuration(ENTRANCE, "pi", Path("kept")).splitlines()
    assert set(MUST.splitlines()) - set(lines) == set()
    assert "persistence_location kept/" in lines, "mosquitto puts the file's name right behind it"
    assert len(lines) == len(set(lines) - {""}) + 1


def test_without_a_memory_nothing_is_kept() -> None:
    text = configuration(ENTRANCE, "pi")
    assert "persistence false\n" in text
    assert "persistence true" not in text


def test_for_a_running_broker_paths_are_absolute_and_what_it_keeps_and_logs_is_its_own_affair() -> None:
    text = for_a_running_broker(configuration(ENTRANCE, "pi", Path("kept")), Path("/srv/my home"))
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert lines[0] == "per_listener_settings true"
    assert "cafile /srv/my home/ca.pem" in lines
    assert "acl_file /srv/my home/access" in lines
    assert not [line for line in lines if line.startswith(("persist", "autosave", "log_", "user", "max_"))]


@pytest.mark.slow
def test_a_mosquitto_that_runs_already_takes_what_is_printed(tmp_path: Path) -> None:
    folder = tmp_path / "a home"
    fleet = WalledFleet(folder)
    command = [sys.executable, "-m", "fedlag", "broker", "--config", str(fleet.folder / "mosquitto.conf"), "--print"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "PRIVATE" not in printed
    others = [line.removeprefix("#   ") for line in printed.splitlines() if "pattern" in line]
    (folder / "others.txt").write_text("\n".join([*others, *(line.replace("pattern", "topic") for line in others)]))
    own = free_port()
    (folder / "own.conf").write_text(
        f"{printed}\nlistener {own} 127.0.0.1\nallow_anonymous true\nacl_file others.txt\nuser root\n"
    )
    with subprocess.Popen([find_mosquitto(), "-c", "own.conf"], cwd=folder) as child:
        try:
            fleet.wait()
            plan, light = "fedlag/v1/home/plan", "home/light"
            with fleet.guest("aggregator") as aggregator, fleet.guest("attic", "#") as attic:
                neighbor = Guest(own, "neighbor", None)
                neighbor.connect("#")
                neighbor.say(plan, b"forged")
                aggregator.say(plan, b"honest")
                neighbor.say(light, b"on")
                assert attic.next() == (plan, b"honest")
                assert neighbor.next() == (light, b"on")
                neighbor.leave()
        finally:
            child.terminate()
    assert child.returncode == 0
