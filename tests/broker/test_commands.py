"""``fedlag broker`` runs until it is told to end, and then ends with 0; what stops it from starting is one line."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.broker.secured import is_open, skip_without_mosquitto
from tests.broker.walls import WalledFleet

pytestmark = pytest.mark.slow

HERE = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "fedlag", "broker"]


@pytest.mark.parametrize("to_group", [False, True], ids=["to the process", "to the terminal's group"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_0(number: signal.Signals, *, to_group: bool) -> None:
    command = [*COMMAND, "--port", "0"]
    with subprocess.Popen(
        command, cwd=HERE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        port = int(said.partition(":")[2].partition(";")[0])
        assert is_open(port)
        (os.killpg if to_group else os.kill)(process.pid, number)
        _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")
    assert not is_open(port)


def test_a_taken_port_ends_it_with_the_brokers_exit_code_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as occupant:
        port = str(occupant.getsockname()[1])
        ended = subprocess.run([*COMMAND, "--port", port], cwd=HERE, capture_output=True, text=True, check=False)
    assert ended.returncode == 6
    assert ended.stderr.startswith(f"fedlag broker: port {port} on 127.0.0.1 is taken")
    assert ended.stderr.count("\n") == 1


def test_a_port_that_is_none_is_a_wrong_command_line() -> None:
    ended = subprocess.run([*COMMAND, "--port", "70000"], cwd=HERE, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "--port" in ended.stderr


@pytest.mark.parametrize(
    "arguments", [["--config", "absent.conf"], ["--config", "absent.conf", "--print"], ["--print"]]
)
def test_a_configuration_that_is_not_there_is_named(arguments: list[str]) -> None:
    ended = subprocess.run([*COMMAND, *arguments], cwd=HERE, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (3, "", 1)
    assert "mosquitto.conf" in ended.stderr or "fedlag init" in ended.stderr


def test_a_mosquitto_that_cannot_start_ends_it_with_the_brokers_exit_code(tmp_path: Path) -> None:
    skip_without_mosquitto()
    (tmp_path / "mosquitto.conf").write_text("listener 1 127.0.0.1\ncafile absent.pem\nnonsense\n")
    command = [*COMMAND, "--config", str(tmp_path / "mosquitto.conf")]
    ended = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
    assert ended.returncode == 6
    assert "nonsense" in ended.stderr, "mosquitto says why"
    assert "mosquitto ended by itself, with code" in ended.stderr.splitlines()[-1]


@pytest.mark.parametrize("to_group", [False, True], ids=["to the process", "to the terminal's group"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_fleets_mosquitto_with_0_and_it_has_kept_what_was_retained(
    tmp_path: Path, number: signal.Signals, *, to_group: bool
) -> None:
    fleet = WalledFleet(tmp_path)
    for life in range(2):
        fleet.start()
        assert fleet.child is not None
        plan = "fedlag/v1/home/plan"
        if life == 0:
            with fleet.guest("aggregator") as aggregator:
                aggregator.say(plan, b"kept", retain=True)
        else:
            with fleet.guest("attic", plan) as attic:
                assert attic.next() == (plan, b"kept")
        (os.killpg if to_group else os.kill)(fleet.child.pid, number)
        assert fleet.child.wait(20) == 0
        assert not is_open(fleet.port)
