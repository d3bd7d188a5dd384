"""Who fails in round after round is asked ever more rarely, never at the cost of a quorum, and one success ends it."""

from __future__ import annotations

import itertools

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from aggregator.planning import choose_cohort, cohort_draw
from aggregator.setbacks import MOST_ROUNDS_OUT, Setback, next_setbacks, who_may_be_asked

NAMES = st.sets(st.text("abcdefgh-0123456789", min_size=1, max_size=8), min_size=1, max_size=12)
OUTCOMES = st.sampled_from(["counted", "failed"])


def rounds_of_one_that_always_fails(num_rounds: int) -> list[int]:
    """The rounds in which it is asked, beside three that always answer."""
    setbacks: dict[str, Setback] = {}
    asked = []
    for number in range(1, num_rounds + 1):
        may = who_may_be_asked({"attic", "cellar", "hall", "kitchen"}, setbacks, number, 2)
        failed = {"attic"} & may
        asked += [number] * len(failed)
        setbacks = next_setbacks(setbacks, number, may - failed, failed)
    return asked


def test_who_always_fails_sits_out_0_1_2_4_and_at_most_32_rounds() -> None:
    asked = rounds_of_one_that_always_fails(200)
    pauses = [after - before - 1 for before, after in itertools.pairwise(asked)]
    assert pauses[:8] == [0, 1, 2, 4, 8, 16, 32, 32]
    assert set(pauses[7:]) == {MOST_ROUNDS_OUT}


@given(st.integers(1, 40), st.integers(1, 1000))
def test_one_success_ends_it(num_failures: int, round_number: int) -> None:
    setbacks = {"attic": Setback(num_failures, round_number)}
    after = next_setbacks(setbacks, round_number + 1, ["attic"], [])
    assert who_may_be_asked({"attic", "hall"}, after, round_number + 2, 1) == {"attic", "hall"}


@given(NAMES, st.data(), st.integers(1, 12), st.integers(1, 60))
def test_a_quorum_that_can_be_reached_is_reached(ready: set[str], data: st.DataObject, quorum: int, draw: int) -> None:
    failed = data.draw(st.sets(st.sampled_from(sorted(ready))))
    setbacks = {name: Setback(data.draw(st.integers(1, 10)), data.draw(st.integers(1, draw))) for name in failed}
    may = who_may_be_asked(ready, setbacks, draw, quorum)
    assert ready - failed <= may <= ready
    assert len(may) >= min(quorum, len(ready))
    out = [name for name in may if name in setbacks and setbacks[name].rounds_out and draw < setbacks[name].asked_again]
    assert len(out) <= max(quorum - len(ready - failed), 0)


@given(NAMES, st.data(), st.integers(1, 4))
def test_a_test_of_swaps_asks_again_all_who_answered_the_round_before(
    ready: set[str], data: st.DataObject, size: int
) -> None:
    setbacks: dict[str, Setback] = {}
    for number in range(1, data.draw(st.integers(2, 30))):
        asked = choose_cohort(who_may_be_asked(ready, setbacks, number, 1), size, 0, 0, number)
        failed = data.draw(st.sets(st.sampled_from(asked)))
        setbacks = next_setbacks(setbacks, number, set(asked) - failed, failed)
        draw = cohort_draw(number + 1, ("head",))
        again = choose_cohort(who_may_be_asked(ready, setbacks, draw, 1), size, 0, 0, draw)
        assert set(asked) - failed <= set(again)


@given(st.lists(st.tuples(st.sampled_from(["attic", "hall", "shed"]), OUTCOMES), max_size=60))
def test_what_is_remembered_survives_the_disk_and_only_of_who_failed_last(outcomes: list[tuple[str, str]]) -> None:
    setbacks: dict[str, Setback] = {}
    last: dict[str, str] = {}
    for number, (name, outcome) in enumerate(outcomes, 1):
        last[name] = outcome
        counted, failed = ([name] if outcome == it else [] for it in ("counted", "failed"))
        setbacks = next_setbacks(setbacks, number, counted, failed)
        stored = msgspec.msgpack.encode(setbacks)
        assert msgspec.msgpack.decode(stored, type=dict[str, Setback]) == setbacks
    assert set(setbacks) == {name for name, outcome in last.items() if outcome == "failed"}


def test_who_has_not_been_asked_for_a_hundred_rounds_is_forgotten() -> None:
    setbacks = next_setbacks({}, 1, [], ["attic"])
    assert next_setbacks(setbacks, 100, [], []) == setbacks
    assert next_setbacks(setbacks, 101, [], []) == {}
