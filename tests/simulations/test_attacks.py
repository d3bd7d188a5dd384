"""What hostile devices send, and that the verb which measures it says what it ran."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.faults.attacks import ATTACKS, Seen
from simulations.faults.hostile_fleet import DEFENSES, AttackRow, run_attack
from simulations.faults.liars import LIES, RULES, LieRow, run_lie


def seen(seed: int, num_honest: int = 8, size: int = 30) -> Seen:
    rng = np.random.default_rng(seed)
    honest = rng.normal(size=size) + 0.5 * rng.normal(size=(num_honest, size))
    return Seen(rng.normal(size=size), honest, rng)


@given(st.integers(0, 10_000))
def test_each_attack_does_what_it_is_called(seed: int) -> None:
    it = seen(seed)
    sent = {name: attack(it) for name, attack in ATTACKS.items()}
    np.testing.assert_array_equal(sent["none"], it.trained)
    np.testing.assert_array_equal(sent["reversed"], -it.trained)
    np.testing.assert_allclose(sent["scaled"], 10 * sent["reversed"])
    assert np.linalg.norm(sent["random"]) == pytest.approx(10 * np.linalg.norm(it.trained))
    assert sent["inner-product"] @ it.honest.mean(0) < 0


@given(st.integers(0, 10_000))
def test_who_knows_the_defense_stays_among_the_honest(seed: int) -> None:
    it = seen(seed)
    little = ATTACKS["a-little"](it)
    assert (np.abs(little - it.honest.mean(0)) <= it.honest.std(0) + 1e-9).all()
    lengths = np.linalg.norm(it.honest, axis=1)
    assert np.linalg.norm(ATTACKS["inner-product"](it)) < lengths.max()


@pytest.mark.slow
def test_a_lie_about_gains_or_sketches_chooses_a_layer_unless_the_rule_doubts() -> None:
    believing, doubting = "fedlag-swap", "fedlag-swap, malicious_share = 0.2"
    assert run_lie(believing, "none", 1).chosen == 0.0
    assert run_lie(believing, "gains", 1).chosen == 1.0
    assert run_lie(doubting, "gains", 1).chosen == 0.0
    believing, doubting = "fedlag-paper", "fedlag-paper, malicious_share = 0.2"
    assert run_lie(believing, "none", 1).chosen == run_lie(doubting, "none", 1).chosen == 0.0
    assert run_lie(believing, "sketches", 1).chosen == 1.0
    assert run_lie(doubting, "sketches", 1).chosen == 0.0


@pytest.mark.slow
def test_the_same_seed_gives_the_same_accuracy_and_devices_that_differ_are_harder() -> None:
    first, second = (run_attack("skewed", "median", "inner-product", 1) for _ in range(2))
    assert first == second
    assert first.accuracy < run_attack("alike", "median", "inner-product", 1).accuracy


class Printed(msgspec.Struct):
    attacks: list[AttackRow]
    lies: list[LieRow]


@pytest.mark.slow
def test_the_verb_prints_a_row_for_everything_that_it_ran() -> None:
    command = [sys.executable, "-m", "fedlag", "simulate", "attacks", "--seeds", "1", "--format", "json"]
    done = subprocess.run(command, capture_output=True, check=True, timeout=280)
    printed = msgspec.json.decode(done.stdout, type=Printed)
    assert len(printed.attacks) == 2 * len(DEFENSES) * len(ATTACKS)
    assert len(printed.lies) == len(RULES) * len(LIES)
    assert all(0 < row.accuracy <= 1 for row in printed.attacks)
    assert all(row.chosen in (0.0, 1.0) for row in printed.lies)
