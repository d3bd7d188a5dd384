"""Broker, aggregator and eight devices as processes, killed at random and at named points: the bits stay the same."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest

from aggregator.keeping.store import FleetStore
from edge_client.store import DeviceStore
from tests.e2e.crashing import POINTS
from tests.e2e.home import PATIENCE_S, Home

pytestmark = pytest.mark.slow

NAMES = tuple(f"room-{index}" for index in range(8))
NUM_ROUNDS = 20
NUM_RANDOM_KILLS = 30
SELECTOR = "fedlag-paper"


class Fleet:
    """All processes of a fleet, each of which is started again when it is killed."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.config = home.aggregator(SELECTOR, num_devices=len(NAMES), num_rounds=NUM_ROUNDS)
        self.commands: dict[str, tuple[object, ...]] = {
            "broker": ("broker", "--port", home.broker.port, "--folder", home.folder / "broker"),
            "aggregator": ("aggregator", "run", self.config),
            **{name: ("edge", "run", home.folder / f"{name}.toml") for name in NAMES},
        }
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *, crash_at: tuple[str, int] | None = None) -> None:
        self.running[name] = self.home.fedlag(*self.commands[name], crash_at=crash_at)

    def kill(self, name: str) -> None:
        self.home.end(self.running[name], signal.SIGKILL)
        self.start(name)

    def num_rounds(self) -> int:
        return len(self.home.reports())

    def wait_for_rounds(self, count: int) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while self.num_rounds() < count:
            assert time.monotonic() < deadline, f"{self.num_rounds()} rounds are closed\n{self.home.logs()}"
            time.sleep(0.05)

    def crash(self, name: str, point: str) -> None:
        """Start a process that ends itself at a point, and start it again as it was when it has."""
        self.home.end(self.running[name], signal.SIGKILL)
        self.start(name, crash_at=(point, 1))
        assert self.home.end(self.running[name]) == -signal.SIGKILL, (
            f"{name} never came to: {point}\n{self.home.logs()}"
        )
        self.start(name)

    def finish(self) -> None:
        assert self.home.end(self.running.pop("aggregator")) == 0, self.home.logs()
        for name in NAMES:
            assert self.home.end(self.running.pop(name), signal.SIGTERM) == 0, self.home.logs()
        self.home.end(self.running.pop("broker"), signal.SIGTERM)

    def outcome(self) -> tuple[object, ...]:
        """Return what kills must not change: plans, who was counted, the last layers, and what devices keep as their own."""
        reports = self.home.reports()
        with closing(FleetStore(self.home.folder / "aggregator")) as store:
            state = store.load_state()
        assert state is not None
        generations = [DeviceStore(self.home.folder / name).load_generation() for name in NAMES]
        return (
            [(report.epoch, report.round_number, report.plan, tuple(report.counted)) for report in reports],
            [report.next_personal_layers for report in reports],
            state.layers,
            [generation and generation.own for generation in generations],
        )


def run(home: Home, seed: int | None) -> tuple[object, ...]:
    """Run a fleet to its end, undisturbed without a seed."""
    for index, name in enumerate(NAMES):
        home.device(name, seed=index, labels=index % 2)
    fleet = Fleet(home)
    for name in fleet.commands:
        fleet.start(name)
    if seed is not None:
        disturb(fleet, random.Random(seed))  # noqa: S311 - when to kill is no secret
    fleet.finish()
    return fleet.outcome()


def disturb(fleet: Fleet, rng: random.Random) -> None:
    """Hit every named point once, and kill at random moments, over the rounds."""
    points = list(POINTS)
    rng.shuffle(points)
    random_kills = NUM_RANDOM_KILLS
    for number in range(max(len(points), NUM_ROUNDS - 4)):
        fleet.wait_for_rounds(number + 1)
        if points:
            point = points.pop()
            where = "aggregator" if list(POINTS).index(point) < 5 else rng.choice(NAMES)
            fleet.crash(where, point)
        for _ in range(2 if random_kills > 1 else random_kills):
            time.sleep(rng.uniform(0, 0.5))
            fleet.kill(rng.choice(list(fleet.commands)))
            random_kills -= 1
    assert (points, random_kills) == ([], 0)


def test_thirty_random_kills_and_one_at_every_named_point_change_no_bit(
    home: Home, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home.broker.stop()
    calm_home = Home(tmp_path_factory.mktemp("calm"), home.program)
    try:
        calm = run(calm_home, seed=None)
    finally:
        calm_home.close()
    disturbed = run(home, seed=5)
    assert disturbed == calm
    kept: Path = home.folder / "aggregator" / "rounds"
    assert not [path for path in kept.iterdir() if path.stat().st_size > 100]
