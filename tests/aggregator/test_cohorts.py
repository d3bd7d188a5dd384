"""Who is asked: a seeded and fair draw, and once more those of the round before where swaps are tested."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
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


def test_every_device_is_asked_about_as_often() -> None:
    ready = {f"device-{number}" for number in range(20)}
    asked = Counter(name for draw in range(2000) for name in choose_cohort(ready, 5, 0, 0, draw))
    assert set(asked) == ready
    assert max(abs(count - 500) for count in asked.values()) < 100  # five standard deviations


@given(st.integers(2, 1000))
def test_a_round_that_tests_swaps_asks_the_devices_of_the_round_before_again(round_number: int) -> None:
    assert cohort_draw(round_number, ()) == round_number
    assert cohort_draw(round_number, ("head",)) == cohort_draw(round_number - 1, ())
