from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.study.cell import PlannedCell
from simulations.study.choosing import choose_rates
from simulations.study.estimates import estimate, paired_difference, share_below, worst_decile
from simulations.study.merging import Source, merge_plans
from simulations.study.outcome import CellOutcome
from simulations.study.plan import StudyPlan
from simulations.study.remaining import remaining_time
from simulations.study.summary import StudySummary
from simulations.study.summing import summarize
from wire.errors import ConfigError

MakeCell = Callable[..., PlannedCell]
MakeOutcome = Callable[..., CellOutcome]

shares = st.floats(0, 1).map(lambda it: round(it, 3))
by_client = st.dictionaries(st.sampled_from("abcdefgh"), shares, min_size=1)


@given(ours=by_client, theirs=by_client)
def test_clients_are_harmed_or_not_and_a_tie_is_neither(ours: dict[str, float], theirs: dict[str, float]) -> None:
    below, above = share_below(ours, theirs), share_below(theirs, ours)
    common = ours.keys() & theirs.keys()
    if not common:
        assert below is above is None
    else:
        ties = sum(ours[it] == theirs[it] for it in common) / len(common)
        assert below is not None
        assert above is not None
        assert below + above + ties == pytest.approx(1)


@given(ours=st.dictionaries(st.integers(0, 9), shares), theirs=st.dictionaries(st.integers(0, 9), shares))
def test_a_paired_difference_turns_its_sign_with_the_pair(ours: dict[int, float], theirs: dict[int, float]) -> None:
    there, back = paired_difference(ours, theirs), paired_difference(theirs, ours)
    if there is None:
        assert back is None
    else:
        assert back is not None
        assert there.mean == pytest.approx(-back.mean)
        assert there.standard_error == pytest.approx(back.standard_error)


@given(values=st.lists(shares, min_size=1, max_size=40))
def test_the_worst_decile_is_between_the_worst_and_the_mean(values: list[float]) -> None:
    assert min(values) - 1e-9 <= worst_decile(values) <= statistics.fmean(values) + 1e-9
    mean = estimate(values)
    assert mean is not None
    assert mean.mean == pytest.approx(statistics.fmean(values))


@given(
    pending=st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xy")), max_size=12),
    seconds=st.floats(0.1, 100),
)
def test_remaining_time_counts_every_cell_once(pending: list[tuple[str, str]], seconds: float) -> None:
    left = remaining_time(pending, {("a", "x"): [seconds]}, 2)
    known = [it for it in pending if it[0] == "a"]
    assert left.seconds == pytest.approx(len(known) * seconds / 2)
    assert left.num_unknown == len(pending) - len(known)


def test_a_rate_is_chosen_for_each_seed_on_validation_alone_and_a_tie_takes_the_smaller(make_cell: MakeCell) -> None:
    cells = [make_cell(seed=seed, rate=rate) for seed in (0, 1) for rate in (0.1, 0.2, 0.4)]
    scores = dict(zip([it.digest for it in cells], [0.5, 0.7, 0.7, 0.9, None, 0.3], strict=True))
    choices = choose_rates(cells, scores.get)
    assert [it.planned.cell.learning_rate for it in choices] == [0.2, 0.1]
    assert [it.is_at_edge for it in choices] == [False, True]


def plan_of(cells: Sequence[PlannedCell]) -> StudyPlan:
    return StudyPlan(name="made up", reference="fedavg", cells=tuple(cells))


@pytest.fixture
def made_up(make_cell: MakeCell, make_outcome: MakeOutcome) -> tuple[StudyPlan, dict[str, CellOutcome]]:
    """Four methods with two seeds: client ``b`` would be better off alone under all of them."""
    levels = {"fedavg": (0.8, 0.5), "local": (0.6, 0.7), "mask-fc1": (0.9, 0.6), "fedlag-swap": (0.9, 0.7)}
    cells, outcomes = [], {}
    for seed in (0, 1):
        for method, (first, second) in levels.items():
            cell = make_cell(method, seed=seed)
            cells.append(cell)
            accuracies: dict[str, float | None] = {"a": first + 0.02 * seed, "b": second}
            sent = {"local": 0, "fedavg": 1000}.get(method, 600)
            outcomes[cell.digest] = make_outcome(cell, accuracies, bytes_up=sent)
    return plan_of(cells), outcomes


def summed(plan: StudyPlan, outcomes: dict[str, CellOutcome]) -> StudySummary:
    return summarize(plan, lambda it: 0.5 if it in outcomes and outcomes[it].status == "done" else None, outcomes.get)


def test_a_study_is_summed_up_by_hand(made_up: tuple[StudyPlan, dict[str, CellOutcome]]) -> None:
    summary = summed(*made_up)
    (scenario,) = summary.scenarios
    rows = {row.method: row for row in scenario.methods}
    assert (scenario.best_fixed, scenario.oracle) == ("mask-fc1", "mask-fc1")
    assert rows["fedavg"].accuracy == pytest.approx((0.655, 0.005))
    assert rows["fedavg"].harmed == (0.5, 0.0)
    assert rows["local"].harmed is None
    assert rows["fedlag-swap"].harmed == (0.0, 0.0)
    assert rows["fedlag-swap"].regret_to_oracle == pytest.approx((-0.05, 0.0))
    assert rows["fedavg"].regret_to_fixed == pytest.approx((0.1, 0.0))
    assert rows["fedlag-swap"].difference == pytest.approx((0.15, 0.0))
    assert rows["fedavg"].difference is None
    assert rows["mask-fc1"].bytes_ratio == pytest.approx(0.6)
    assert rows["fedavg"].over_local == pytest.approx({"a": 0.2, "b": -0.2})
    assert rows["fedavg"].worst_decile == (0.5, 0.0)
    assert summary.failures == ()
    assert (summary.num_done, summary.num_cells) == (8, 8)


def test_what_failed_or_came_to_nothing_is_told(made_up: tuple[StudyPlan, dict[str, CellOutcome]]) -> None:
    plan, outcomes = made_up
    first, second = plan.cells[0].digest, plan.cells[-1].digest
    outcomes[first] = CellOutcome(digest=first, status="failed", reason="out of memory")
    outcomes[second] = CellOutcome(digest=second, status="diverged", reason="it left the numbers")
    del outcomes[plan.cells[1].digest]
    summary = summed(plan, outcomes)
    assert summary.failures == (
        "fedavg on digits-iid, seed 0, rate 0.1: out of memory",
        "fedlag-swap on digits-iid, seed 1: diverged with every learning rate; try smaller ones",
    )
    assert "fedavg has results with 1 of 2 seeds" in summary.scenarios[0].notes
    assert (summary.num_done, summary.num_diverged) == (5, 1)


def test_clients_without_test_examples_have_no_accuracy(make_cell: MakeCell, make_outcome: MakeOutcome) -> None:
    cell = make_cell()
    summary = summed(plan_of([cell]), {cell.digest: make_outcome(cell, {"a": None})})
    assert summary.scenarios[0].methods[0].accuracy is None
    assert "no test examples" in summary.scenarios[0].notes[0]


def test_two_studies_stand_side_by_side_under_names_of_their_own(make_cell: MakeCell) -> None:
    sources = [
        Source("old", plan_of([make_cell("fedavg"), make_cell("local"), make_cell("local", seed=1)])),
        Source("new", plan_of([make_cell("fedavg"), make_cell("fedper")])),
    ]
    merged = merge_plans(sources)
    assert [it.method for it in merged.cells] == ["fedavg (old)", "local", "fedavg (new)", "fedper"]
    assert [it.digest[:2] for it in merged.cells] == ["0:", "0:", "1:", "1:"]
    assert merged.reference == "fedavg (old)"


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"scenario": "digits-rotations"}, "no scenario in common: old has digits-iid; new has digits-rotations"),
        ({"seed": 3}, "no seed in common"),
        ({"num_rounds": 9}, "num_rounds is 4 in old and 9 in new"),
    ],
)
def test_what_was_not_run_alike_is_not_compared(make_cell: MakeCell, other: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        merge_plans([Source("old", plan_of([make_cell()])), Source("new", plan_of([make_cell(**other)]))])


def test_results_of_other_data_are_not_compared(make_cell: MakeCell) -> None:
    cell = make_cell()
    other = msgspec.structs.replace(cell, cell=msgspec.structs.replace(cell.cell, fingerprint="f00"))
    with pytest.raises(ConfigError, match="data and model"):
        merge_plans([Source("old", plan_of([cell])), Source("new", plan_of([other]))])
