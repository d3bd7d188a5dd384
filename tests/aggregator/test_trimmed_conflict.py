"""However a few devices lie, scores stay near what the honest ones alone give, and so does the choice of layers."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import aggregator.trimmed_conflict
from aggregator.conflict import layer_conflict, pairwise_cosine
from aggregator.evidence import Evidence, measure_conflicts
from aggregator.selection import make_selector
from aggregator.swap_test import judge_swap
from aggregator.trimmed_conflict import trimmed_conflict

THRESHOLDS = st.floats(-0.9, -0.001)
VALUES = st.floats(-100, 100, width=32).map(lambda value: 0.0 if abs(value) < 1e-3 else value)


@st.composite
def cohorts(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Honest devices' sketches, all of which moved, and at most as many liars' as may be left out."""
    num_liars = draw(st.integers(0, 3))
    num_honest = draw(st.integers(2 + num_liars, 9))
    width = draw(st.integers(1, 4))
    honest = draw(hnp.arrays(np.float32, (num_honest, width), elements=VALUES))
    honest[~honest.any(axis=1)] = 1.0
    return honest, draw(hnp.arrays(np.float32, (num_liars, width), elements=VALUES))


@given(cohorts(), THRESHOLDS)
def test_liars_who_stand_out_leave_the_score_of_honest_devices_alone(
    cohort: tuple[np.ndarray, np.ndarray], threshold: float
) -> None:
    honest, lies = cohort
    together = np.concatenate([honest, lies])
    cosines = pairwise_cosine(together)
    assume(np.abs(cosines - threshold).min() > 1e-9)
    assume(len(honest) > len(lies) + 1 and lies.any(axis=1).all())
    counts = np.count_nonzero(cosines < threshold, axis=1)
    ours, theirs = counts[: len(honest)], counts[len(honest) :]
    assume(all(it > ours.max() or it < ours.min() for it in theirs))
    found = trimmed_conflict(together, threshold, len(lies))
    size = len(honest) - len(lies)
    alone = [
        layer_conflict(honest[list(subset)], threshold).num_conflicts
        for subset in itertools.combinations(range(len(honest)), size)
    ]
    assert found.num_compared == size * (size - 1) // 2
    assert min(alone) <= found.num_conflicts <= max(alone)


@given(st.integers(0, 10_000), st.integers(1, 5), st.data())
def test_liars_among_devices_that_agree_or_all_conflict_turn_no_more_pairs_than_their_number_squared(
    seed: int, num_liars: int, data: st.DataObject
) -> None:
    num_honest = data.draw(st.integers(num_liars + 2, 20))
    rng = np.random.default_rng(seed)
    agree = np.eye(1, num_honest, dtype=np.float32) + 0.01 * rng.normal(size=(num_honest, num_honest))
    apart = np.eye(num_honest) - 1 / num_honest  # every pair has the cosine -1 / (num_honest - 1)
    victims = data.draw(st.lists(st.integers(0, num_honest - 1), min_size=1, max_size=4))
    lies = data.draw(st.sampled_from([-1.0, 1.0, 0.3])) * apart[victims].sum(0) + 1e-3 * rng.normal(
        size=(num_liars, num_honest)
    )
    found = trimmed_conflict(np.concatenate([agree, lies]).astype(np.float32), -0.5 / num_honest, num_liars)
    assert found.num_conflicts <= num_liars**2
    found = trimmed_conflict(np.concatenate([apart, lies]).astype(np.float32), -0.5 / num_honest, num_liars)
    assert found.num_compared - found.num_conflicts <= num_liars**2


@given(st.integers(0, 10_000), st.integers(5, 30), st.floats(0.01, 1e3), st.booleans())
def test_who_agree_cannot_be_told_otherwise_by_reversed_or_random_sketches(
    seed: int, num_honest: int, scale: float, is_reversed: bool
) -> None:
    rng = np.random.default_rng(seed)
    agree = 1 + 0.1 * rng.normal(size=(num_honest, 64))
    num_liars = num_honest // 4
    lies = -scale * agree[:num_liars] if is_reversed else scale * rng.normal(size=(num_liars, 64))
    together = rng.permutation(np.concatenate([agree, lies])).astype(np.float32)
    found = trimmed_conflict(together, 0.0, num_liars)
    assert found.num_conflicts <= (0 if is_reversed else num_liars**2)
    assert found.mean_cosine > 0.9


@given(hnp.arrays(np.float32, st.tuples(st.integers(2, 12), st.integers(1, 5)), elements=VALUES), THRESHOLDS)
@pytest.mark.parametrize("block", [1, 7, 1 << 22])
def test_without_liars_it_is_the_plain_score_whatever_the_block(
    block: int, sketches: np.ndarray, threshold: float
) -> None:
    assume(np.abs(pairwise_cosine(sketches) - threshold).min() > 1e-9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aggregator.trimmed_conflict, "BLOCK_VALUES", block)
        found = trimmed_conflict(sketches, threshold, 0)
    plain = layer_conflict(sketches, threshold)
    assert found.conflict_score == pytest.approx(plain.conflict_score, abs=1e-12)
    assert found.mean_cosine == pytest.approx(plain.mean_cosine, abs=1e-6)


def test_more_than_five_hundred_devices_are_compared_in_pairs_too() -> None:
    rng = np.random.default_rng(0)
    shared = rng.normal(size=16)
    sketches = (shared + 0.3 * rng.normal(size=(700, 16))).astype(np.float32)
    sketches[:140] *= -1
    assert trimmed_conflict(sketches, 0.0, 140).conflict_score == 0.0
    assert trimmed_conflict(sketches, 0.0, 70).conflict_score > 0.0


def test_so_many_possible_liars_that_nobody_is_left_make_no_evidence() -> None:
    sketches = np.ones((5, 2), dtype=np.float32)
    assert trimmed_conflict(sketches, 0.0, 2).num_compared == 0
    evidence = Evidence(1, {"fc": 2}, {"fc": sketches}, {"fc": np.ones(5)})
    assert measure_conflicts(evidence, malicious_share=0.45) == {}
    assert list(measure_conflicts(evidence, malicious_share=0.2)) == ["fc"]


@given(
    hnp.arrays(np.float64, st.integers(4, 30), elements=st.integers(-64, 64).map(lambda k: k / 16)),
    st.lists(st.floats(-1e6, 1e6), max_size=6),
)
def test_a_trimmed_mean_of_gains_lies_among_the_honest_ones_as_long_as_no_more_lie_than_were_said(
    honest: np.ndarray, lies: list[float]
) -> None:
    test = judge_swap(np.array([*honest, *lies]), "trimmed-mean", len(lies))
    if len(honest) - len(lies) < 2:
        assert test is None
    else:
        assert test is not None
        assert honest.min() - 1e-9 <= test.gain <= honest.max() + 1e-9
        assert test.standard_error <= 4 * (np.ptp(honest) + 1e-9)


SIZES = {"conv": 40, "head": 40}


def lied_to(seed: int, *, gains: float, reverse: str) -> Evidence:
    """Ten devices that agree on the layers but not on the head, two of which lie about one layer."""
    rng = np.random.default_rng(seed)
    shared = {layer: rng.normal(size=40) for layer in SIZES}
    spread = {"conv": 0.3, "head": 10.0}
    sketches = {
        layer: (shared[layer] + spread[layer] * rng.normal(size=(10, 40))).astype(np.float32) for layer in SIZES
    }
    if reverse:
        sketches[reverse][:2] = -10 * shared[reverse]
    honest = rng.normal(-0.05, 0.01, size=8)
    return Evidence(
        5,
        SIZES,
        sketches,
        {layer: np.linalg.norm(rows, axis=1) for layer, rows in sketches.items()},
        {"conv": np.concatenate([[gains, gains], honest]), "head": np.concatenate([[-0.05, -0.05], honest])},
    )


def personal_after(name: str, options: dict[str, Any], evidence: list[Evidence], share: float | None) -> set[str]:
    selector = make_selector(name, options, None, malicious_share=share)
    state, decision = selector.start(SIZES)
    for it in evidence:
        state, decision = selector.decide(state, it)
    return set(decision.personal_layers)


@pytest.mark.parametrize("seed", range(5))
def test_two_liars_of_ten_choose_the_personal_layers_of_a_rule_that_believes_and_not_of_one_that_does_not(
    seed: int,
) -> None:
    swap = [lied_to(seed, gains=10.0, reverse="conv")] * 2
    assert personal_after("fedlag-swap", {"standard_errors": 1.0}, swap, None) == {"conv"}
    assert personal_after("fedlag-swap", {"standard_errors": 1.0}, swap, 0.2) == set()
    paper = {"num_personal": 1, "schedule": "every_round"}
    alone = personal_after("fedlag-paper", paper, [lied_to(seed, gains=0.0, reverse="")], 0.2)
    assert personal_after("fedlag-paper", paper, [lied_to(seed, gains=0.0, reverse="conv")], 0.2) == alone == {"head"}


def test_the_share_that_averages_are_told_drives_the_selector_unless_its_options_say_another() -> None:
    def share(name: str, options: dict[str, Any], told: float | None) -> object:
        return getattr(make_selector(name, options, 20, malicious_share=told), "malicious_share", "none")

    assert share("fedlag-swap", {}, None) is None
    assert share("fedlag-swap", {}, 0.2) == 0.2
    assert share("fedlag-paper", {"malicious_share": 0.3}, 0.2) == 0.3
    assert share("fedper", {}, 0.2) == "none"
