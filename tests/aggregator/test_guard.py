"""A version that is worse does not stay; noise below the bound, and a few lies, move nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from aggregator.guard import (
    MAX_DEVICES,
    SMALL_LOSS,
    GuardState,
    go_back,
    is_held,
    judge_version,
    remember_version,
)
from wire.messages import Measurement

LOSSES = st.floats(0, 20)
BOUNDS = st.floats(0.01, 5)


def measured(loss: float, num_examples: int = 30) -> Measurement:
    return Measurement(loss, 0.5, num_examples)


def known(losses: dict[str, float]) -> GuardState:
    return GuardState(good="0-7", losses=losses)


@given(st.lists(st.tuples(LOSSES, st.floats(-1, 1), st.integers(1, 10_000)), min_size=2, max_size=20), BOUNDS)
def test_what_no_device_finds_worse_by_more_than_the_bound_stays(
    devices: list[tuple[float, float, int]], bound: float
) -> None:
    then = {f"pi-{index}": loss for index, (loss, _, _) in enumerate(devices)}
    now = {
        f"pi-{index}": measured(loss + 0.999 * noise * bound * max(loss, SMALL_LOSS), count)
        for index, (loss, noise, count) in enumerate(devices)
    }
    for share in (None, 0.2):
        verdict = judge_version(known(then), now, bound, fewest=2, malicious_share=share)
        assert verdict is not None
        assert not verdict.is_worse


@given(
    st.lists(LOSSES, min_size=8, max_size=30),
    st.lists(st.tuples(LOSSES, st.floats(-1e9, 1e9)), min_size=2, max_size=2),
    BOUNDS,
    st.sampled_from([0.5, 3.0]),
)
def test_a_fifth_that_lies_neither_makes_a_version_bad_nor_good(
    honest: list[float], lies: list[tuple[float, float]], bound: float, worsening: float
) -> None:
    then = {f"pi-{index:02}": loss / 20 for index, loss in enumerate(honest)}
    now = {name: measured(loss + worsening * bound * max(loss, SMALL_LOSS)) for name, loss in then.items()}
    then |= {f"mad-{index}": loss for index, (loss, _) in enumerate(lies)}
    now |= {f"mad-{index}": measured(claim, 2**31 - 1) for index, (_, claim) in enumerate(lies)}
    verdict = judge_version(known(then), now, bound, fewest=2, malicious_share=0.2)
    assert verdict is not None
    clipped = worsening > 1 and any(it.loss > 20 for it in now.values())
    assert verdict.is_worse == (worsening > 1) or clipped


def test_without_a_bound_a_past_or_enough_devices_nothing_is_judged() -> None:
    told = {"a": measured(9.0), "b": measured(9.0)}
    assert judge_version(known({"a": 1.0, "b": 1.0}), told, None, fewest=1) is None
    assert judge_version(UNSET, told, 0.5, fewest=1) is None
    assert judge_version(known({"a": 1.0, "c": 1.0}), told, 0.5, fewest=2) is None
    verdict = judge_version(known({"a": 1.0, "b": 1.0}), told, 0.5, fewest=2)
    assert verdict is not None
    assert verdict.is_worse
    assert str(verdict) == "validation loss 9 on 2 devices, 1 with the last good version"


def test_a_verdict_renews_what_is_known_and_without_one_only_strangers_are_added() -> None:
    told = {"a": measured(3.0), "b": measured(2.0)}
    state = known({"a": 1.0, "c": 1.0})
    assert remember_version(state, "0-8", 8, told, None).losses == {"a": 1.0, "c": 1.0, "b": 2.0}
    good = judge_version(state, told, 5.0, fewest=1)
    assert remember_version(state, "0-8", 8, told, good) == GuardState(
        good="0-8", losses={"c": 1.0, "a": 3.0, "b": 2.0}
    )
    assert remember_version(UNSET, "0-1", 1, told, None) == GuardState(good="0-1", losses={"a": 3.0, "b": 2.0})


def test_returns_count_until_averages_that_were_made_anew_are_good() -> None:
    state, told = known({"a": 1.0, "b": 1.0}), {"a": measured(5.0), "b": measured(5.0)}
    worse = judge_version(state, told, 0.5, fewest=2)
    assert worse is not None
    once = go_back(state, "0-8", worse)
    assert once.note.startswith("back to 0-7 from 0-8: validation loss 5 on 2 devices")
    assert (once.num_returns, once.retried_round, is_held(once, 0.5)) == (1, 8, False)
    same = {name: measured(1.0) for name in told}
    again = remember_version(once, "1-7", 7, same, judge_version(once, same, 0.5, fewest=2))
    assert (again.good, again.num_returns) == ("1-7", 1)
    good = judge_version(again, same, 0.5, fewest=2)
    assert remember_version(again, "1-8", 8, same, good) == GuardState(good="1-8", losses=again.losses)
    twice = go_back(again, "1-8", worse)
    assert is_held(twice, 0.5)
    assert not is_held(twice, None)
    assert "held" in twice.note


@pytest.mark.parametrize("size", [MAX_DEVICES + 10])
def test_no_more_devices_are_known_than_there_is_room_for(size: int) -> None:
    told = {f"pi-{index:05}": measured(1.0) for index in range(size)}
    assert len(remember_version(UNSET, "0-1", 1, told, None).losses) == MAX_DEVICES
