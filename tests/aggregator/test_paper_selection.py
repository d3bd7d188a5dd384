"""The paper's own rule on whole updates: what ``fedlag-paper`` does wherever summaries are exact."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aggregator.conflict import layer_conflict
from aggregator.selection import Evidence, make_selector

SIZES = {"conv1": 3, "conv2": 6, "fc1": 4, "head": 2}
ROUND = st.fixed_dictionaries(
    {layer: hnp.arrays(np.float32, (5, size), elements=st.integers(-4, 4).map(float)) for layer, size in SIZES.items()}
)
ROUNDS = st.lists(ROUND, min_size=1, max_size=6)
XI = st.sampled_from([0.0, -0.05, -0.3001, -0.7003])
Updates = dict[str, np.ndarray]


def paper_count(updates: np.ndarray, xi: float) -> int:
    """The paper's GC_xi, pair by pair, in exact integers as far as the square roots."""
    rows = [[int(value) for value in row] for row in updates]
    count = 0
    for u, first in enumerate(rows):
        for second in rows[u + 1 :]:
            norms = math.sqrt(sum(a * a for a in first) * sum(b * b for b in second))
            count += bool(norms) and sum(a * b for a, b in zip(first, second, strict=True)) / norms < xi
    return count


def num_pairs(updates: np.ndarray) -> int:
    num_moved = int(np.count_nonzero(np.abs(updates).max(axis=1)))
    return num_moved * (num_moved - 1) // 2


def evidence_of(round_number: int, updates: Updates) -> Evidence:
    norms = {layer: np.linalg.norm(rows.astype(np.float64), axis=1) for layer, rows in updates.items()}
    return Evidence(round_number, SIZES, updates, norms)


def top(scores: dict[str, float], num_personal: int) -> tuple[str, ...]:
    best = sorted(SIZES, key=lambda layer: (-scores[layer], list(SIZES).index(layer)))[:num_personal]
    return tuple(layer for layer in SIZES if layer in best)


def everyone_moves(rounds: list[Updates]) -> list[Updates]:
    """With all pairs in the count, the share of pairs and the paper's number of pairs rank alike."""
    return [
        {layer: np.where(np.abs(rows).max(axis=1, keepdims=True) > 0, rows, 1) for layer, rows in updates.items()}
        for updates in rounds
    ]


@given(ROUNDS, XI, st.integers(1, 4))
def test_every_round_takes_the_top_of_the_papers_counts(rounds: list[Updates], xi: float, num_personal: int) -> None:
    options = {"schedule": "every_round", "num_personal": num_personal, "conflict_threshold": xi}
    selector = make_selector("fedlag-paper", options, None)
    state, _ = selector.start(SIZES)
    for round_number, updates in enumerate(everyone_moves(rounds), start=1):
        # exact rows of personal layers, too: the caller gives evidence of all layers in every round
        state, decision = selector.decide(state, evidence_of(round_number, updates))
        assert decision.personal_layers == top(
            {layer: paper_count(rows, xi) for layer, rows in updates.items()}, num_personal
        )


@given(ROUNDS, XI, st.integers(1, 4))
def test_frozen_takes_the_top_of_the_sums_of_the_papers_counts(
    rounds: list[Updates], xi: float, num_personal: int
) -> None:
    options = {"num_personal": num_personal, "conflict_threshold": xi, "num_warmup_rounds": len(rounds)}
    selector = make_selector("fedlag-paper", options, None)
    state, decision = selector.start(SIZES)
    sums = dict.fromkeys(SIZES, 0.0)
    for round_number, updates in enumerate(everyone_moves(rounds), start=1):
        assert decision.personal_layers == ()
        sums = {layer: sums[layer] + paper_count(updates[layer], xi) for layer in SIZES}
        state, decision = selector.decide(state, evidence_of(round_number, updates))
    assert decision.personal_layers == top(sums, num_personal)
    _, later = selector.decide(state, evidence_of(len(rounds) + 1, rounds[0]))
    assert later.personal_layers == decision.personal_layers


@given(ROUND)
def test_exact_summaries_keep_the_papers_threshold_of_zero_without_being_told(updates: Updates) -> None:
    selector = make_selector("fedlag-paper", {"schedule": "every_round", "num_personal": 1}, None)
    state, _ = selector.start(SIZES)
    _, decision = selector.decide(state, evidence_of(1, updates))
    shares = {layer: paper_count(rows, 0.0) / max(1, num_pairs(rows)) for layer, rows in updates.items()}
    if any(num_pairs(rows) for rows in updates.values()):
        assert decision.personal_layers == top(shares, 1)


@given(ROUND, XI)
def test_counts_agree_with_the_papers_and_leave_out_who_did_not_move(updates: Updates, xi: float) -> None:
    for rows in updates.values():
        found = layer_conflict(rows, xi)
        assert (found.num_conflicts, found.num_compared) == (paper_count(rows, xi), num_pairs(rows))


def conflicting(num_conflicts: int) -> np.ndarray:
    """Five devices, of whom the first conflicts with so many others."""
    rows = np.eye(5, dtype=np.float32)
    rows[1 : 1 + num_conflicts, 0] = -1
    rows[:, 1:] *= 9
    return rows


def test_sums_that_differ_by_rounding_alone_are_a_tie() -> None:
    assert 0.1 + 0.2 > 0.3  # conv2 would lead conv1
    sizes = {"conv1": 5, "conv2": 5}
    selector = make_selector("fedlag-paper", {"num_personal": 1, "num_warmup_rounds": 2}, None)
    state, decision = selector.start(sizes)
    norms = {layer: np.ones(5) for layer in sizes}
    for round_number, counts in enumerate([(3, 1), (0, 2)], start=1):
        updates = {layer: conflicting(count) for layer, count in zip(sizes, counts, strict=True)}
        state, decision = selector.decide(state, Evidence(round_number, sizes, updates, norms))
    assert decision.personal_layers == ("conv1",)
