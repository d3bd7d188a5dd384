"""Who is asked: a seeded and fair draw, and once more those of the round before where swaps are tested."""

from __future__ import annotations

import itertools
import math
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.planning import choose_cohort, cohort_draw

NAMES = st.sets(st.text("abcdefgh-0123456789", min_size=1, max_size=8), min_size=1, max_size=30)


@given(NAMES, st.integers(1, 40), st.integers(0, 5), st.integers(0, 3), st.integers(0, 100))
def test_a_cohort_has_as_many_of_the_ready_devices_as_it_may(
    ready: set[str], size: int, seed: int, epoch: int, draw: int
) -> None:
    cohort = choose_cohort(ready, size, seed, epoch, draw)
    assert cohort == choose_cohort(ready, size, seed, epoch, draw)
    assert list(cohort) == sorted(set(cohort))
    assert set(cohort) <= ready
    assert len(cohort) == min(size, len(ready))


@given(NAMES, st.integers(1, 10), st.integers(0, 100), st.data())
def test_a_device_that_goes_changes_only_its_own_place(
    ready: set[str], size: int, draw: int, data: st.DataObject
) -> None:
    gone = data.draw(st.sampled_from(sorted(ready)))
    before, after = (set(choose_cohort(names, size, 0, 0, draw)) for names in (ready, ready - {gone}))
    assert len(before - after - {gone}) == 0
    assert len(after - before) <= 1


@settings(max_examples=20, deadline=None)
@given(NAMES, st.integers(1, 10), st.integers(0, 2**53), st.integers(0, 3))
def test_every_device_is_asked_about_as_often_whatever_the_names(
    ready: set[str], size: int, seed: int, epoch: int
) -> None:
    rounds, share = 1000, min(size / len(ready), 1.0)
    asked = Counter(name for draw in range(rounds) for name in choose_cohort(ready, size, seed, epoch, draw))
    allowed = 6 * math.sqrt(rounds * share * (1 - share))  # standard deviations of a binomial
    assert all(abs(asked[name] - rounds * share) <= allowed for name in ready)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**53))
def test_who_is_asked_with_whom_is_drawn_anew_every_round(seed: int) -> None:
    ready, rounds = {f"device-{number}" for number in range(10)}, 1000
    pairs = Counter(
        pair for draw in range(rounds) for pair in itertools.combinations(choose_cohort(ready, 3, seed, 0, draw), 2)
    )
    share = 3 / 10 * 2 / 9
    allowed = 6 * math.sqrt(rounds * share * (1 - share))
    assert len(pairs) == 45
    assert all(abs(count - rounds * share) <= allowed for count in pairs.values())


@given(st.integers(2, 1000))
def test_a_round_that_tests_swaps_asks_the_devices_of_the_round_before_again(round_number: int) -> None:
    assert cohort_draw(round_number, ()) == round_number
    assert cohort_draw(round_number, ("head",)) == cohort_draw(round_number - 1, ())
