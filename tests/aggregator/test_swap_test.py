"""The statistics of one test: what they are worth on honest gains, and what lies can do to them."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aggregator.swap_test import Statistic, SwapTest, judge_swap

STATISTICS: tuple[Statistic, ...] = get_args(Statistic)
GAINS = hnp.arrays(np.float64, st.integers(2, 40), elements=st.integers(-64, 64).map(lambda k: k / 16))
LIES = st.floats(-1e6, 1e6)
ANY = st.sampled_from(STATISTICS)


def judge(gains: np.ndarray, statistic: Statistic) -> SwapTest:
    test = judge_swap(gains, statistic)
    assert test is not None
    return test


@given(GAINS, ANY, st.randoms(use_true_random=False))
def test_the_order_of_devices_does_not_matter(gains: np.ndarray, statistic: Statistic, random: object) -> None:
    shuffled = np.random.default_rng(abs(hash(random)) % 2**32).permutation(gains)
    first, second = judge(gains, statistic), judge(shuffled, statistic)
    assert first.gain == pytest.approx(second.gain, abs=1e-12)
    assert first.standard_error == pytest.approx(second.standard_error, abs=1e-12)


@given(GAINS, ANY, st.integers(-8, 8), st.sampled_from([0.5, 2.0, 64.0]))
def test_the_loss_s_zero_and_unit_do_not_matter(
    gains: np.ndarray, statistic: Statistic, shift: int, unit: float
) -> None:
    plain, moved = judge(gains, statistic), judge(gains * unit + shift, statistic)
    assert moved.gain == pytest.approx(plain.gain * unit + shift, abs=1e-9)
    assert moved.standard_error == pytest.approx(plain.standard_error * unit, abs=1e-9)


@given(GAINS, ANY)
def test_a_verdict_turns_round_with_the_gains(gains: np.ndarray, statistic: Statistic) -> None:
    plain, turned = judge(gains, statistic), judge(-gains, statistic)
    assert turned.gain == pytest.approx(-plain.gain, abs=1e-12)
    assert turned.standard_error == pytest.approx(plain.standard_error, abs=1e-12)
    assert not (plain.has_passed() and turned.has_passed())


@given(hnp.arrays(np.float64, st.integers(2, 4), elements=st.integers(-64, 64).map(lambda k: k / 16)))
def test_too_few_devices_to_trim_give_the_mean(gains: np.ndarray) -> None:
    trimmed, mean = judge(gains, "trimmed-mean"), judge(gains, "mean")
    assert trimmed.gain == pytest.approx(mean.gain, abs=1e-12)
    assert trimmed.standard_error == pytest.approx(mean.standard_error, abs=1e-12)


@given(GAINS, st.data())
def test_fewer_lies_than_a_statistic_can_stand_stay_within_the_honest_gains(
    honest: np.ndarray, data: st.DataObject
) -> None:
    for statistic, share in (("median", 2), ("trimmed-mean", 5)):
        most = max(
            k for k in range(len(honest) + 1) if (2 * k < len(honest) + k if share == 2 else 5 * k <= len(honest) + k)
        )
        lies = data.draw(hnp.arrays(np.float64, st.integers(0, most), elements=LIES))
        test = judge(np.concatenate([honest, lies]), statistic)  # type: ignore[arg-type]
        assert honest.min() - 1e-12 <= test.gain <= honest.max() + 1e-12
        spread = float(honest.max() - honest.min())
        assert test.standard_error <= 2 * spread + 1e-12


def test_one_lie_moves_a_mean_and_no_robust_statistic() -> None:
    honest = np.linspace(0.2, 0.4, 9)
    for lie in (-100.0, 100.0):
        told = np.append(honest, lie)
        assert not judge(told, "mean").has_passed()
        for statistic in ("median", "trimmed-mean"):
            assert judge(told, statistic).has_passed()
            assert not judge(np.append(-honest, lie), statistic).has_passed()


@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize("num_devices", [10, 50])
def test_the_standard_error_is_that_of_many_repetitions(statistic: Statistic, num_devices: int) -> None:
    random = np.random.default_rng(1)
    tests = [judge(random.normal(size=num_devices), statistic) for _ in range(2_000)]
    spread = np.std([test.gain for test in tests])
    said = math.sqrt(np.mean([test.standard_error**2 for test in tests]))
    assert said == pytest.approx(spread, rel=0.12)


def test_the_robust_statistics_by_hand() -> None:
    gains = np.array([1.0, 2.0, 4.0, 8.0, 100.0])
    median = judge(gains, "median")  # distances 3 2 0 4 96: MAD 3
    assert (median.gain, median.standard_error) == (4.0, pytest.approx(1.2533 * 1.4826 * 3 / math.sqrt(5)))
    trimmed = judge(gains, "trimmed-mean")  # of 2 4 8; 2 2 4 8 8 has the variance 9.2
    assert trimmed.gain == pytest.approx(14 / 3)
    assert trimmed.standard_error == pytest.approx(math.sqrt(9.2 * 4 / (3 * 2)))
    assert str(trimmed) == "5 of 5 devices do better with their own, trimmed mean gain 4.667 (standard error 2.5)"


@given(GAINS, ANY, st.floats(0, 4), st.floats(0, 4))
def test_whatever_passes_is_tolerable_and_more_tolerance_tolerates_more(
    gains: np.ndarray, statistic: Statistic, tolerance: float, more: float
) -> None:
    test = judge(gains, statistic)
    if test.has_passed():
        assert test.is_tolerable(0.0)
    if test.is_tolerable(tolerance):
        assert test.is_tolerable(tolerance + more)
    assume(test.is_tolerable(tolerance))
    assert -test.gain <= tolerance


@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize("gains", [[], [1.0], [1.0, math.nan], [math.inf, -math.inf, 2.0]])
def test_fewer_than_two_finite_gains_are_no_verdict(gains: list[float], statistic: Statistic) -> None:
    assert judge_swap(np.array(gains, dtype=np.float64), statistic) is None
