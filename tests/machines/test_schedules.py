"""Hundreds of seeded schedules of faults; a seed that fails is named, and `fedlag simulate fleet` repeats it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import msgspec
import pytest

from simulations.commands import fleet
from simulations.faults.spec import FaultSpec, parse_spec
from simulations.faults.trial import Trial, run_trial
from wire.errors import ConfigError, FleetError

NUM_SCHEDULES = 700


@pytest.mark.slow
def test_whatever_happens_all_invariants_hold() -> None:
    command = [
        sys.executable,
        "-m",
        "fedlag",
        "simulate",
        "fleet",
        "--schedules",
        str(NUM_SCHEDULES),
        "--format",
        "json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    trials = msgspec.json.decode(done.stdout, type=list[Trial])
    assert [trial.seed for trial in trials] == list(range(NUM_SCHEDULES))
    assert [(trial.seed, trial.broken) for trial in trials if trial.broken] == []
    assert min(Counter(trial.rounds for trial in trials).values()) > 150
    assert done.returncode == 0, done.stderr


def test_a_schedule_in_which_something_does_not_hold_is_named_with_the_command_that_repeats_it(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("simulations.commands.run_trial", lambda spec, seed: run_trial(spec, seed, longest_s=10.0))
    with pytest.raises(FleetError, match=r"fleet --faults kills=2 --schedules 1 --seed 5$"):
        fleet(faults="kills=2", schedules=1, seed=5)
    assert "seed 5: the fleet came to a standstill" in capfd.readouterr().err


@pytest.mark.parametrize("seed", [0, 7, 20])
def test_the_same_seed_gives_the_same_bytes(seed: int) -> None:
    first, second = (run_trial(FaultSpec(), seed) for _ in range(2))
    assert first == second
    assert first.sha256 != run_trial(FaultSpec(), seed + 24).sha256


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_in_another_process() -> None:
    words = "simulate fleet --seed 17 --schedules 8 --format json"
    command = [sys.executable, "-m", "fedlag", *words.split()]
    said = [
        subprocess.run(command, capture_output=True, check=True, env={**os.environ, "PYTHONHASHSEED": number}).stdout
        for number in ("1", "2")
    ]
    assert said[0] == said[1]


def test_without_faults_nothing_happens() -> None:
    calm, stormy = (run_trial(parse_spec(text), 6) for text in ("none", "all"))
    assert calm.minutes < stormy.minutes
    assert (calm.broken, stormy.broken) == ((), ())


@pytest.mark.parametrize("text", ["", "losses=1", "lost=much", "lost=.9", "kills=-1", "kills=1.5", "kills=nan"])
def test_a_wrong_list_of_faults_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_spec(text)
