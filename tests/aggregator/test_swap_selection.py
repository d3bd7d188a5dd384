"""The confirmed swap: its timeline in rounds, its votes, and the study's rule on the same gains."""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aggregator.selection import Decision, Evidence, Selector, SelectorState, make_selector
from aggregator.swap_test import judge_swap

SIZES = {"conv1": 100, "conv2": 400, "fc1": 10_000, "head": 400}
BETTER = np.array([0.3, 0.2, 0.4, 0.3])
WORSE = -BETTER
UNSURE = np.array([0.9, -0.5, 0.3, -0.4])  # mean .075, standard error .33

Gains = dict[str, np.ndarray]


def play(
    selector: Selector, num_rounds: int, gains_of: Callable[[int], Gains], sizes: dict[str, int] = SIZES
) -> dict[int, Decision]:
    """Return the decision behind every plan; the devices test just what the plan asks for."""
    state, decision = selector.start(sizes)
    plans = {1: decision}
    for round_number in range(1, num_rounds):
        measured = gains_of(round_number) if decision.swap_candidates else {}
        gains = {layer: measured[layer] for layer in decision.swap_candidates}
        stored = msgspec.msgpack.encode(state)
        state = msgspec.msgpack.decode(stored, type=SelectorState)
        state, decision = selector.decide(state, Evidence(round_number, sizes, swap_gains=gains))
        plans[round_number + 1] = decision
    return plans


def test_the_timeline_of_thirty_rounds() -> None:
    gains = {"conv1": BETTER, "conv2": WORSE, "fc1": UNSURE, "head": BETTER * 3}
    plans = play(make_selector("fedlag", {}, num_rounds=30), 30, lambda _: gains)

    test_rounds = [r for r, plan in plans.items() if plan.swap_candidates]
    assert test_rounds == [6, 9, 12, 15, 18, 21, 24, 27]  # of the averages of 5, 8, ..., 26 = 30 - 4
    personal = {r: plan.personal_layers for r, plan in plans.items()}
    assert {personal[r] for r in range(1, 10)} == {()}
    assert {personal[r] for r in range(10, 16)} == {("head",)}  # passed in 6 and 9; .9 / 20 beats .3 / 10
    assert {personal[r] for r in range(16, 31)} == {("conv1", "head")}  # votes begin again: 12 and 15
    assert plans[6].swap_candidates == plans[9].swap_candidates == ("conv1", "conv2", "fc1", "head")
    assert plans[12].swap_candidates == plans[15].swap_candidates == ("conv1", "conv2", "fc1")
    assert plans[18].swap_candidates == plans[27].swap_candidates == ("conv2", "fc1")


def test_every_tested_layer_is_explained() -> None:
    gains = {"conv1": BETTER, "conv2": WORSE, "fc1": UNSURE, "head": BETTER * 3}
    plans = play(make_selector("fedlag", {}, num_rounds=30), 30, lambda _: gains)
    better = "4 of 4 devices do better with their own, mean gain 0.3 (standard error 0.041): "
    assert plans[7].reasons == {
        "conv1": better + "passed, the next test must confirm it",
        "conv2": "0 of 4 devices do better with their own, mean gain -0.3 (standard error 0.041): not enough, "
        "it stays shared",
        "fc1": "2 of 4 devices do better with their own, mean gain 0.075 (standard error 0.33): not enough, "
        "it stays shared",
        "head": "4 of 4 devices do better with their own, mean gain 0.9 (standard error 0.12): passed, "
        "the next test must confirm it",
    }
    assert plans[10].reasons["head"].endswith(": confirmed, personal from round 10 on")
    assert plans[10].reasons["conv1"] == better + "passed, but head goes first and all votes start again"
    assert plans[16].reasons["conv1"] == better + "confirmed, personal from round 16 on"
    assert {r for r, plan in plans.items() if plan.reasons} == {7, 10, 13, 16, 19, 22, 25, 28}


def test_a_fleet_without_an_end_tests_for_ever() -> None:
    gains = dict.fromkeys(SIZES, WORSE)
    plans = play(make_selector("fedlag", {}, num_rounds=None), 60, lambda _: gains)
    assert [r for r, plan in plans.items() if plan.swap_candidates] == list(range(6, 61, 3))
    assert {plan.personal_layers for plan in plans.values()} == {()}


@pytest.mark.parametrize(("num_rounds", "test_rounds"), [(8, []), (9, [6]), (11, [6]), (12, [6, 9])])
def test_short_fleets_test_only_what_can_still_be_trained(num_rounds: int, test_rounds: list[int]) -> None:
    plans = play(make_selector("fedlag", {}, num_rounds), num_rounds, lambda _: dict.fromkeys(SIZES, WORSE))
    assert [r for r, plan in plans.items() if plan.swap_candidates] == test_rounds


def test_one_good_test_between_bad_ones_changes_nothing() -> None:
    plans = play(
        make_selector("fedlag", {}, num_rounds=60), 60, lambda r: dict.fromkeys(SIZES, BETTER if r % 2 else WORSE)
    )
    assert {plan.personal_layers for plan in plans.values()} == {()}


def test_gains_of_a_single_device_leave_the_votes_as_they_are() -> None:
    def gains_of(round_number: int) -> Gains:
        return dict.fromkeys(SIZES, BETTER[:1] if round_number == 9 else BETTER)

    plans = play(make_selector("fedlag", {}, num_rounds=30), 16, gains_of)
    assert plans[10].personal_layers == ()
    assert plans[10].reasons["conv1"] == "fewer than 2 devices tested it: nothing is decided"
    assert plans[13].personal_layers == ("conv1",)  # passed in 6 and 12, nothing was said in 9


def test_a_test_round_that_no_device_could_do_is_no_test() -> None:
    selector = make_selector("fedlag", {}, num_rounds=None)
    state, _ = selector.start(SIZES)
    state, _ = selector.decide(state, Evidence(6, SIZES, swap_gains={"head": BETTER}))
    state, decision = selector.decide(state, Evidence(9, SIZES))
    assert not decision.reasons
    state, decision = selector.decide(state, Evidence(12, SIZES, swap_gains={"head": BETTER}))
    assert decision.personal_layers == ("head",)


def test_of_equal_merits_the_earlier_layer_goes_first() -> None:
    gains = {"conv1": WORSE, "conv2": BETTER, "fc1": WORSE, "head": BETTER}
    plans = play(make_selector("fedlag", {}, num_rounds=30), 16, lambda _: gains)
    assert plans[10].personal_layers == ("conv2",)
    assert plans[16].personal_layers == ("conv2", "head")


def test_both_tests_count_for_the_choice() -> None:
    def gains_of(round_number: int) -> Gains:
        head = 0.5 if round_number == 6 else 0.75  # (.5 + .75) / 2 / 20 beats (.2 + .4) / 2 / 10
        conv1 = 0.2 if round_number == 6 else 0.4
        return {"conv1": np.full(3, conv1), "conv2": WORSE, "fc1": WORSE, "head": np.full(3, head)}

    plans = play(make_selector("fedlag", {}, num_rounds=30), 10, gains_of)
    assert plans[10].personal_layers == ("head",)


def test_pinned_layers_are_never_tested() -> None:
    gains = dict.fromkeys(SIZES, WORSE)
    plans = play(make_selector("fedlag", {"pinned": ["head"]}, num_rounds=30), 7, lambda _: gains)
    assert plans[6].swap_candidates == ("conv1", "conv2", "fc1")
    assert plans[7].personal_layers == ("head",)


def test_gains_of_layers_that_are_no_candidates_are_ignored() -> None:
    selector = make_selector("fedlag", {"pinned": ["head"]}, num_rounds=None)
    state, _ = selector.start(SIZES)
    for round_number in (6, 9):
        gains = {"head": BETTER, "conv9": BETTER}
        state, decision = selector.decide(state, Evidence(round_number, SIZES, swap_gains=gains))
    assert decision.personal_layers == ("head",)
    assert not decision.reasons


def test_deep_models_test_the_eight_layers_most_in_conflict_and_those_that_wait() -> None:
    sizes = {f"block{number}": 100 for number in range(12)}
    selector = make_selector("fedlag", {}, num_rounds=None)
    state, _ = selector.start(sizes)
    against = np.eye(5, 10, dtype=np.float32)

    def sketches(scores: dict[str, int]) -> dict[str, np.ndarray]:
        return {
            layer: np.vstack([against[:1], against[1:] - 10 * (np.arange(4)[:, None] < score) * against[0]])
            for layer, score in scores.items()
        }

    def evidence(round_number: int, scores: dict[str, int], gains: Gains) -> Evidence:
        return Evidence(round_number, sizes, sketches(scores), dict.fromkeys(scores, np.ones(5)), gains)

    scores = {layer: 4 - number // 3 for number, layer in enumerate(reversed(sizes))}  # the last three conflict most
    state, decision = selector.decide(state, evidence(5, scores, {}))
    assert decision.swap_candidates == (
        "block3",
        "block4",
        "block6",
        "block7",
        "block8",
        "block9",
        "block10",
        "block11",
    )
    state, _ = selector.decide(
        state, evidence(6, {}, dict.fromkeys(decision.swap_candidates, WORSE) | {"block3": BETTER})
    )
    state, decision = selector.decide(state, evidence(8, {"block0": 4, "block3": 0}, {}))
    assert decision.swap_candidates == (
        "block0",
        "block3",
        "block6",
        "block7",
        "block8",
        "block9",
        "block10",
        "block11",
    )
    _, decision = selector.decide(state, evidence(9, {}, {"block3": BETTER}))
    assert decision.personal_layers == ("block3",)


def test_the_verdict_of_three_devices_by_hand() -> None:
    test = judge_swap(np.array([1.0, 2.0, 3.0]))
    assert test is not None
    assert (test.gain, test.standard_error) == (2.0, pytest.approx(1 / math.sqrt(3)))
    assert test.has_passed()
    edge = judge_swap(np.array([0.0, 2.0]))  # mean 1, standard error 1
    assert edge is not None
    assert not edge.has_passed()


@pytest.mark.parametrize("gains", [[], [1.0], [1.0, math.nan], [math.inf, -math.inf, 2.0]])
def test_fewer_than_two_finite_gains_are_no_verdict(gains: list[float]) -> None:
    assert judge_swap(np.array(gains, dtype=np.float64)) is None


def test_equal_gains_pass_if_positive() -> None:
    for gain, has_passed in ((0.25, True), (0.0, False), (-0.25, False)):
        test = judge_swap(np.full(4, gain))
        assert test is not None
        assert test.has_passed() is has_passed


def study_rule(tests: list[np.ndarray], sizes: list[int]) -> list[set[int]]:
    """Return the personal layers after each test, by the rule of the study as it stands there, array by array."""
    num_layers = len(sizes)
    personal = np.zeros(num_layers, dtype=bool)
    passed_before, mean_before = np.zeros(num_layers, dtype=bool), np.zeros(num_layers)
    after = []
    for gains in tests:  # shape (devices, layers)
        mean = gains.mean(axis=0)
        error = gains.std(axis=0, ddof=1) / len(gains) ** 0.5
        passed = (mean > 1.5 * error) & (mean > 0) & ~personal
        merit = np.where(passed & passed_before, (mean + mean_before) / 2 / np.sqrt(sizes), -9.0)
        best = int(merit.argmax())
        if merit[best] > -9:
            personal[best] = True
            passed = np.zeros(num_layers, dtype=bool)
        passed_before, mean_before = passed, mean
        after.append(set(np.flatnonzero(personal).tolist()))
    return after


TESTS = hnp.arrays(np.float64, (8, 5, 4), elements=st.integers(-3, 9).map(lambda k: k / 8))


@given(TESTS)
def test_decisions_agree_with_the_study_on_random_gains(tests: np.ndarray) -> None:
    names = list(SIZES)

    def gains_of(round_number: int) -> Gains:
        return {layer: tests[round_number // 3 - 2, :, column] for column, layer in enumerate(names)}

    plans = play(make_selector("fedlag-swap", {}, num_rounds=30), 30, gains_of)
    expected = study_rule(list(tests), list(SIZES.values()))
    decided = [plans[r + 1].personal_layers for r in range(6, 28, 3)]
    assert decided == [tuple(names[index] for index in sorted(chosen)) for chosen in expected]


@given(TESTS)
def test_a_personal_layer_stays_personal_and_one_test_adds_one_at_most(tests: np.ndarray) -> None:
    names = list(SIZES)
    plans = play(
        make_selector("fedlag", {}, num_rounds=30),
        30,
        lambda r: {layer: tests[r // 3 - 2, :, column] for column, layer in enumerate(names)},
    )
    for r in range(1, 30):
        before, after = set(plans[r].personal_layers), set(plans[r + 1].personal_layers)
        assert before <= after
        assert len(after - before) <= 1
