"""A device that fails tries again after ever longer pauses; a plan that it cannot serve costs it that plan alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_client.trouble import LONGEST_PAUSE_S, Trouble
from wire.messages import DeviceStatus


def pause_of(trouble: Trouble, now_s: float) -> float:
    """Fail now; return how long it takes until the pause is over."""
    trouble.pause("no memory", now_s)
    lengths = [30.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, LONGEST_PAUSE_S]
    return next(length for length in lengths if trouble.is_over(now_s + length))


def test_pauses_double_from_half_a_minute_to_an_hour() -> None:
    trouble, now_s, pauses = Trouble(), 0.0, []
    for _ in range(20):
        pauses.append(pause_of(trouble, now_s))
        now_s += pauses[-1]
    assert pauses[:8] == [30, 60, 120, 240, 480, 960, 1920, 3600]
    assert set(pauses[7:]) == {3600.0}


@given(st.integers(1, 30), st.floats(0, 1e9))
def test_a_success_makes_the_next_failure_the_first(num_failures: int, now_s: float) -> None:
    trouble = Trouble()
    for _ in range(num_failures):
        trouble.pause("no memory", now_s)
    trouble.succeeded()
    trouble.pause("no memory", now_s)
    assert "30 s after failure 1 in a row" in trouble.reason


def test_a_new_plan_ends_no_pause_and_the_end_of_a_pause_makes_no_plan_fit() -> None:
    trouble = Trouble()
    trouble.pause("no memory", 0.0)
    trouble.plan_came()
    assert trouble.reason.startswith("no memory")
    trouble.give_up("another model")
    assert trouble.is_over(30.0)
    assert not trouble.is_over(31.0)
    assert trouble.reason == "another model"
    trouble.plan_came()
    assert trouble.reason == ""


@given(st.text(max_size=2000))
def test_any_reason_fits_a_status(reason: str) -> None:
    trouble = Trouble()
    for _ in range(20):
        trouble.pause(reason, 0.0)
    DeviceStatus(state="waiting", session=1, reason=trouble.reason)
    assert len(trouble.reason) <= 500
