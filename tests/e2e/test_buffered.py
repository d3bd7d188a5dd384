"""A buffered fleet of processes: nobody waits for the slow device, and what it sends late is counted."""

from __future__ import annotations

import signal
import time

import numpy as np
import pytest

from tests.e2e.home import PATIENCE_S, Home

pytestmark = pytest.mark.slow

NAMES = ("kitchen", "attic", "cellar")
SLOW, MORE_DATA = "cellar", 400


def make_slow(home: Home) -> None:
    """Give one device far more to train on."""
    path = home.folder / f"{SLOW}.npz"
    with np.load(path) as file:
        arrays = dict(file)
    arrays |= {name: np.concatenate([arrays[name]] * MORE_DATA) for name in ("x_train", "y_train")}
    np.savez(path, **arrays)


def wait_for_the_slow_one(home: Home, since: int = 0) -> None:
    """Return when a version has counted it."""
    deadline = time.monotonic() + PATIENCE_S
    while not any(SLOW in report.counted for report in home.reports()[since:]):
        assert time.monotonic() < deadline, home.logs()
        time.sleep(0.1)


def test_a_slow_devices_stale_update_is_counted_also_by_an_aggregator_that_was_killed(home: Home) -> None:
    for index, name in enumerate(NAMES):
        home.device(name, seed=index)
    make_slow(home)
    rounds = 'mode = "buffered"\nbuffer_size = 2\nmax_staleness = 100'
    config = home.aggregator("fedavg", num_devices=3, num_rounds=40, quorum=2, rounds=rounds)
    server = home.fedlag("aggregator", "run", config)
    edges = [home.fedlag("edge", "run", home.folder / f"{name}.toml") for name in NAMES]
    wait_for_the_slow_one(home)
    home.end(server, signal.SIGKILL)
    before = len(home.reports())
    server = home.fedlag("aggregator", "run", config)
    wait_for_the_slow_one(home, before)
    assert home.end(server) == 0, home.logs()
    assert [home.end(edge, signal.SIGTERM) for edge in edges] == [0, 0, 0], home.logs()

    *versions, last = home.reports()
    assert [report.round_number for report in versions] == list(range(1, 41))
    assert sorted(last.counted) == sorted(NAMES)
    assert all(2 <= len(report.counted) <= 3 for report in versions)
    counted = {name: [it.counted[name] for it in versions if name in it.counted] for name in NAMES}
    assert 2 <= max(figures.staleness for figures in counted[SLOW]) <= 100
    assert len(counted[SLOW]) < len(counted["attic"])
    assert last.counted["attic"].before.loss < counted["attic"][0].before.loss
