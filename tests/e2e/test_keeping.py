"""The verbs that list, compare, roll back, back up and restore, while a fleet of processes runs."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.e2e.home import PATIENCE_S, Home
from tests.e2e.test_documentation import ROOT, commands

pytestmark = pytest.mark.slow

NAMES = ("kitchen", "attic", "cellar")


def fedlag(*arguments: object, cwd: Path | None = None) -> str:
    command = [sys.executable, "-m", "fedlag", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def versions(config: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(fedlag("model", "list", config, "--format", "json"))
    return rows


def recent(config: Path) -> str:
    """Return a version that is not the newest."""
    return str(versions(config)[1]["version"])


def wait_for_epoch(home: Home, epoch: int, num_rounds: int) -> None:
    """Return when so many rounds of an epoch are closed."""
    deadline = time.monotonic() + PATIENCE_S
    while sum(report.epoch == epoch for report in home.reports()) < num_rounds:
        assert time.monotonic() < deadline, home.logs()
        time.sleep(0.1)


def test_versions_are_listed_compared_rolled_back_backed_up_and_restored_while_the_fleet_runs(home: Home) -> None:
    for index, name in enumerate(NAMES):
        home.device(name, seed=index)
    config = home.aggregator("fedavg", num_devices=3, num_rounds=1000)
    server = home.fedlag("aggregator", "run", config)
    edges = [home.fedlag("edge", "run", home.folder / f"{name}.toml") for name in NAMES]
    archive = home.folder / "fleet.tar"
    home.wait_for_rounds(3)
    edges[0].send_signal(signal.SIGSTOP)  # the fleet is fast and ten versions stay: none closes now
    fedlag("backup", config, archive)
    assert set(versions(config)[0]["layers"]) == {"fc1", "head"}
    fedlag("model", "pull", config, recent(config), "--output", home.folder / "pulled.safetensors")
    changes = json.loads(fedlag("model", "diff", config, recent(config), "--format", "json"))
    assert {row["layer"]: (row["before"], row["after"]) for row in changes} == dict.fromkeys(
        ("fc1", "head"), ("shared", "shared")
    )
    assert all(row["change"] > 0 for row in changes)

    fedlag("model", "rollback", config, recent(config))
    edges[0].send_signal(signal.SIGCONT)
    wait_for_epoch(home, 1, 2)
    assert all(f"{name} goes back to what it had after round 0-" in home.logs() for name in NAMES)
    fedlag("restore", config, archive)
    wait_for_epoch(home, 2, 2)
    home.end(server, signal.SIGTERM)
    for _, *arguments in commands(ROOT / "docs" / "keeping.md"):
        fedlag(*(recent(config) if word == "0-2" else word for word in arguments), cwd=home.folder)

    server = home.fedlag("aggregator", "run", config)
    wait_for_epoch(home, 3, 2)
    assert home.end(server, signal.SIGTERM) == 0, home.logs()
    assert [home.end(edge, signal.SIGTERM) for edge in edges] == [0, 0, 0], home.logs()
    reports = home.reports()
    assert all(len(report.counted) == 3 for report in reports)
    places = [(report.epoch, report.round_number) for report in reports]
    for before, after in itertools.pairwise(places):
        assert after == (before[0], before[1] + 1) or after[0] == before[0] + 1
    tensors = load_file(home.folder / "pulled.safetensors")
    assert {name: value.dtype for name, value in tensors.items()} == dict.fromkeys(
        ("fc1.weight", "fc1.bias", "head.weight", "head.bias"), np.dtype(np.float32)
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("model", "list"), "holds no fleet yet"),
        (("model", "rollback", "3-14"), "holds no fleet yet"),
        (("backup", "fleet.tar"), "holds no fleet yet"),
        (("restore", "fleet.tar"), "cannot read the backup"),
    ],
)
def test_without_a_fleet_or_a_backup_people_are_told(home: Home, arguments: tuple[str, ...], says: str) -> None:
    config = home.aggregator("fedavg", num_devices=1, num_rounds=1)
    verb = arguments[: 2 if arguments[0] == "model" else 1]
    words = [*verb, str(config), *arguments[len(verb) :]]
    done = subprocess.run(
        [sys.executable, "-m", "fedlag", *words], capture_output=True, text=True, check=False, cwd=home.folder
    )
    assert done.returncode == 7
    assert done.stderr.startswith(f"fedlag {arguments[0]}: ")
    assert says in done.stderr
