"""A fleet of processes whose averages get worse: it goes back, holds, says so, and goes on when it is told to."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest

from tests.e2e.home import PATIENCE_S, Home

pytestmark = pytest.mark.slow

NAMES = ("kitchen", "attic", "cellar")


def test_a_fleet_that_gets_worse_holds_lists_why_and_goes_on_after_a_rollback(home: Home) -> None:
    for index, name in enumerate(NAMES):
        home.device(name, seed=index)
    config = home.aggregator("fedavg", num_devices=3, num_rounds=1000)
    text = config.read_text().replace("[rounds]\n", "[rounds]\nguard = 0.5\n")
    good, bad = text, text.replace("learning_rate = 0.05", "learning_rate = 1000.0")
    config.write_text(bad)
    server = home.fedlag("aggregator", "run", config)
    edges = [home.fedlag("edge", "run", home.folder / f"{name}.toml") for name in NAMES]
    deadline = time.monotonic() + PATIENCE_S
    while "held: the averages got worse twice in a row" not in home.logs():
        assert time.monotonic() < deadline, home.logs()
        time.sleep(0.1)
    assert home.end(server, signal.SIGTERM) == 0, home.logs()
    assert [report.round_number for report in home.reports() if report.held] == [2, 2]
    newest = listed(config)[0]
    assert newest["version"] == "2-1"
    assert newest["note"].startswith("back to 1-1 from 1-2: validation loss")
    assert "2-1 went back to 1-1" in fedlag("model", "list", config)

    config.write_text(good)
    fedlag("model", "rollback", config, "latest")
    server = home.fedlag("aggregator", "run", config)
    while sum(report.epoch == 3 for report in home.reports()) < 3:
        assert time.monotonic() < deadline + PATIENCE_S, home.logs()
        time.sleep(0.1)
    assert not any(report.held for report in home.reports() if report.epoch == 3)
    assert home.end(server, signal.SIGTERM) == 0, home.logs()
    assert [home.end(edge, signal.SIGTERM) for edge in edges] == [0, 0, 0]


def fedlag(*arguments: object) -> str:
    command = [sys.executable, "-m", "fedlag", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def listed(config: object) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = json.loads(fedlag("model", "list", config, "--format", "json"))
    return rows
