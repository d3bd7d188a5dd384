"""The options of the confirmed swap: its timeline, how sure it wants to be, whom it believes, and what bytes are worth."""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aggregator.evidence import SwapState
from aggregator.selection import Decision, Evidence, SelectorState, make_selector
from wire.errors import ConfigError

SIZES = {"conv1": 100, "conv2": 400, "fc1": 10_000, "head": 400}
BETTER = np.array([0.3, 0.2, 0.4, 0.3])
CHEAP = np.array([-0.01, 0.01, 0.0, -0.02])  # mean -.005, standard error .0065
DEAR = -BETTER

Gains = dict[str, np.ndarray]
Options = dict[str, object]


def play(options: Options, num_rounds: int, gains_of: Callable[[int], Gains]) -> dict[int, Decision]:
    """Return the decision behind every plan; the devices test just what the plan asks for."""
    selector = make_selector("fedlag-swap", options, num_rounds)
    state, decision = selector.start(SIZES)
    plans = {1: decision}
    for round_number in range(1, num_rounds):
        found = gains_of(round_number) if decision.swap_candidates else {}
        gains = {layer: found[layer] for layer in decision.swap_candidates if layer in found}
        state = msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=SelectorState)
        state, decision = selector.decide(state, Evidence(round_number, SIZES, swap_gains=gains))
        plans[round_number + 1] = decision
    return plans


def changes(plans: dict[int, Decision]) -> dict[int, str]:
    """Round -> the layer that is personal from it on."""
    return {
        r: layer
        for r in range(2, len(plans) + 1)
        for layer in plans[r].personal_layers
        if layer not in plans[r - 1].personal_layers
    }


@given(st.integers(1, 12), st.integers(1, 6), st.integers(1, 40))
def test_tests_begin_and_return_when_they_are_told_to(first: int, between: int, num_rounds: int) -> None:
    options: Options = {"first_tested_round": first, "rounds_between_tests": between}
    plans = play(options, num_rounds, lambda _: dict.fromkeys(SIZES, DEAR))
    tested = [r - 1 for r, plan in plans.items() if plan.swap_candidates]
    assert tested == [r for r in range(first, num_rounds - 3) if (r - first) % between == 0]


@given(st.integers(1, 12), st.integers(1, 6))
def test_the_first_layer_is_confirmed_by_the_second_test(first: int, between: int) -> None:
    options: Options = {"first_tested_round": first, "rounds_between_tests": between}
    plans = play(options, first + between + 5, lambda _: {**dict.fromkeys(SIZES, DEAR), "head": BETTER})
    assert changes(plans) == {first + between + 2: "head"}


@pytest.mark.parametrize(("standard_errors", "is_chosen"), [(0.0, True), (1.0, True), (1.7, True), (1.8, False)])
def test_how_sure_a_test_must_be_can_be_chosen(standard_errors: float, is_chosen: bool) -> None:
    gains = {**dict.fromkeys(SIZES, DEAR), "head": np.array([0.0, 2.0, 1.0])}  # 1 and .577: 1.73 standard errors
    plans = play({"standard_errors": standard_errors}, 30, lambda _: gains)
    assert bool(changes(plans)) is is_chosen


@given(st.integers(1, 6))
def test_no_more_layers_are_tested_than_allowed(max_candidates: int) -> None:
    plans = play({"max_candidates": max_candidates}, 30, lambda _: dict.fromkeys(SIZES, DEAR))
    assert {len(plan.swap_candidates) for plan in plans.values()} == {0, min(max_candidates, len(SIZES))}


@pytest.mark.parametrize("statistic", ["median", "trimmed-mean"])
def test_a_liar_decides_for_the_mean_alone(statistic: str) -> None:
    honest = np.concatenate([BETTER, BETTER, BETTER])
    against = {**dict.fromkeys(SIZES, DEAR), "head": np.append(honest, -50.0)}
    assert changes(play({}, 30, lambda _: against)) == {}
    plans = play({"statistic": statistic}, 30, lambda _: against)
    assert changes(plans) == {10: "head"}
    assert f"{statistic.replace('-', ' ')} gain" in plans[10].reasons["head"]


def test_two_liars_together_move_a_mean_where_sharing_is_best() -> None:
    lies = {layer: np.append(np.zeros(12), [1e6, 1e6]) for layer in SIZES}
    assert changes(play({"standard_errors": 1.0}, 30, lambda _: lies)) != {}
    for statistic in ("median", "trimmed-mean"):
        assert changes(play({"standard_errors": 1.0, "statistic": statistic}, 30, lambda _: lies)) == {}


def test_without_a_tolerance_no_byte_is_saved() -> None:
    assert changes(play({}, 60, lambda _: dict.fromkeys(SIZES, CHEAP))) == {}


def test_the_largest_layer_that_is_cheap_twice_goes_first() -> None:
    gains = {"conv1": CHEAP, "conv2": DEAR, "fc1": CHEAP, "head": CHEAP}
    plans = play({"loss_tolerance": 0.05}, 30, lambda _: gains)
    assert changes(plans) == {10: "fc1", 16: "head", 22: "conv1"}
    assert plans[7].reasons["fc1"].endswith(": costs at most 0.05, the next test must confirm it; it stays shared")
    assert (
        plans[10]
        .reasons["fc1"]
        .endswith(": costs at most 0.05, twice, and saves the most bytes: personal from round 10 on")
    )
    assert plans[7].reasons["conv2"].endswith(": not enough, it stays shared")


def test_layers_that_pass_go_before_layers_that_are_cheap() -> None:
    gains = {"conv1": BETTER, "conv2": DEAR, "fc1": CHEAP, "head": DEAR}
    assert changes(play({"loss_tolerance": 0.05}, 30, lambda _: gains)) == {10: "conv1", 16: "fc1"}


def test_a_cheap_layer_waits_while_one_that_passed_waits() -> None:
    def gains_of(round_number: int) -> Gains:
        return {"conv1": BETTER if round_number > 8 else DEAR, "conv2": DEAR, "fc1": CHEAP, "head": DEAR}

    assert changes(play({"loss_tolerance": 0.05}, 30, gains_of)) == {13: "conv1", 19: "fc1"}


def test_a_layer_that_is_cheap_at_every_other_test_stays_shared() -> None:
    plans = play({"loss_tolerance": 0.05}, 60, lambda r: dict.fromkeys(SIZES, CHEAP if r % 2 else DEAR))
    assert changes(plans) == {}


def test_what_passed_once_and_is_cheap_then_was_cheap_twice() -> None:
    def gains_of(round_number: int) -> Gains:
        return {**dict.fromkeys(SIZES, DEAR), "fc1": BETTER if round_number == 6 else CHEAP}

    assert changes(play({"loss_tolerance": 0.05}, 30, gains_of)) == {10: "fc1"}


def test_a_test_that_nobody_could_do_leaves_cheap_layers_waiting() -> None:
    def gains_of(round_number: int) -> Gains:
        return {} if round_number == 9 else {**dict.fromkeys(SIZES, DEAR), "fc1": CHEAP}

    assert changes(play({"loss_tolerance": 0.05}, 30, gains_of)) == {13: "fc1"}


@pytest.mark.parametrize(("tolerance", "is_chosen"), [(0.014, False), (0.015, True)])
def test_the_doubt_counts_as_a_cost(tolerance: float, is_chosen: bool) -> None:
    gains = {**dict.fromkeys(SIZES, DEAR), "fc1": CHEAP}
    cost = 0.005 + 1.5 * float(np.std(CHEAP, ddof=1)) / 2
    assert math.isclose(cost, 0.0147, abs_tol=1e-4)
    assert bool(changes(play({"loss_tolerance": tolerance}, 30, lambda _: gains))) is is_chosen


TESTS = hnp.arrays(np.float64, (8, 5, 4), elements=st.integers(-3, 5).map(lambda k: k / 8))


def measured(tests: np.ndarray) -> Callable[[int], Gains]:
    return lambda r: {layer: tests[r // 3 - 2, :, column] for column, layer in enumerate(SIZES)}


@given(TESTS, st.sampled_from([0.0, 0.1, 0.5, math.inf]))
def test_every_layer_that_becomes_personal_has_earned_it_twice(tests: np.ndarray, tolerance: float) -> None:
    plans = play({"loss_tolerance": tolerance}, 30, measured(tests))
    last_change = 0
    for round_number, layer in changes(plans).items():
        assert round_number - last_change > 3
        last_change = round_number
        now, before = ((measured(tests)(round_number - 1 - back)) for back in (0, 3))
        for gains in (now, before):
            error = np.std(gains[layer], ddof=1) / math.sqrt(5)
            assert 1.5 * error - gains[layer].mean() <= tolerance
    assert all(len(set(plans[r + 1].personal_layers) - set(plans[r].personal_layers)) <= 1 for r in range(1, 30))


@given(TESTS)
def test_the_default_options_are_those_of_the_study_spelled_out(tests: np.ndarray) -> None:
    spelled_out: Options = {
        "first_tested_round": 5,
        "rounds_between_tests": 3,
        "standard_errors": 1.5,
        "max_candidates": 8,
        "statistic": "mean",
    }
    assert play({}, 30, measured(tests)) == play(spelled_out, 30, measured(tests))


def test_a_state_without_tolerated_layers_is_stored_as_before() -> None:
    state = SwapState(("head",), {"fc1": 0.5}, {"conv1": 0.25})
    stored = {"type": "swap", "personal_layers": ["head"], "passed": {"fc1": 0.5}, "scores": {"conv1": 0.25}}
    assert msgspec.msgpack.encode(state) == msgspec.msgpack.encode(stored)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(stored), type=SelectorState) == state


@pytest.mark.parametrize(
    "option",
    [
        {"first_tested_round": 0},
        {"rounds_between_tests": 0},
        {"standard_errors": -1},
        {"max_candidates": 0},
        {"statistic": "mode"},
        {"loss_tolerance": -0.1},
        {"loss_tolerance": math.nan},
    ],
)
def test_an_option_without_sense_is_refused_by_name(option: Options) -> None:
    with pytest.raises(ConfigError, match=f"selector fedlag-swap: .*{next(iter(option))}"):
        make_selector("fedlag-swap", option, None)


@pytest.mark.parametrize(
    ("passed", "tolerated", "candidate"),
    [({}, (), "conv1"), ({}, ("fc1",), "fc1"), ({"head": 0.1}, ("fc1", "head"), "head")],
)
def test_layers_that_wait_for_a_second_test_come_before_those_in_conflict(
    passed: dict[str, float], tolerated: tuple[str, ...], candidate: str
) -> None:
    selector = make_selector("fedlag-swap", {"max_candidates": 1, "loss_tolerance": 0.1}, None)
    state = SwapState((), passed, {"conv1": 0.9}, tolerated or msgspec.UNSET)
    _, decision = selector.decide(state, Evidence(8, SIZES))
    assert decision.swap_candidates == (candidate,)
