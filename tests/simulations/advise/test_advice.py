"""The decision: the default unless another rule is clearly better, and never surer than the differences allow."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simulations.advise.advice import make_advice
from simulations.advise.pairing import paired_over_devices
from simulations.advise.result import TrialResult
from simulations.advise.sentences import (
    expectation_sentences,
    layer_sentences,
    verdict_sentences,
    warning_sentences,
)
from simulations.study.estimates import paired_difference
from wire.errors import FleetError

MakeResult = Callable[..., TrialResult]

ALIKE = {"fedavg": 0.8, "local": 0.8, "fedper": 0.8, "fedlag-swap": 0.8, "fedlag-paper": 0.8}

ACCURACIES = st.dictionaries(
    st.integers(0, 2),
    st.dictionaries(st.sampled_from("abcd"), st.floats(0, 1), min_size=2, max_size=4),
    min_size=1,
    max_size=3,
)


@given(ACCURACIES, ACCURACIES)
def test_a_difference_turned_around_changes_its_sign_alone(
    ours: dict[int, dict[str, float]], theirs: dict[int, dict[str, float]]
) -> None:
    forth, back = paired_over_devices(ours, theirs), paired_over_devices(theirs, ours)
    if forth is None or back is None:
        assert forth is back
        return
    assert forth.mean == pytest.approx(-back.mean)
    assert forth.standard_error == pytest.approx(back.standard_error)
    assert not (forth.is_clear(2.5, 0.005) and back.is_clear(2.5, 0.005))


@given(st.lists(st.floats(0, 1), min_size=2, max_size=9))
def test_with_one_seed_the_error_is_that_of_the_devices(values: list[float]) -> None:
    zeros = dict.fromkeys(map(str, range(len(values))), 0.0)
    found = paired_over_devices({0: dict(zip(zeros, values, strict=True))}, {0: zeros})
    expected = paired_difference(dict(enumerate(values)), dict.fromkeys(range(len(values)), 0.0))
    assert found is not None
    assert expected is not None
    assert found == pytest.approx(expected)


def test_seeds_that_disagree_make_the_error_larger() -> None:
    flat = {seed: dict.fromkeys("abc", 0.5) for seed in range(2)}
    steady = {seed: dict(zip("abc", (0.6, 0.7, 0.8), strict=True)) for seed in range(2)}
    torn = {seed: {device: value + (0.1, -0.1)[seed] for device, value in by.items()} for seed, by in steady.items()}
    sure, unsure = paired_over_devices(steady, flat), paired_over_devices(torn, flat)
    assert sure is not None
    assert unsure is not None
    assert unsure.mean == pytest.approx(sure.mean)
    assert unsure.standard_error > sure.standard_error


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(sorted(ALIKE)), st.floats(0.1, 0.9), min_size=1))
def test_the_rule_was_tried_and_every_other_method_is_beaten_or_a_rival(
    make_result: MakeResult, means: dict[str, float]
) -> None:
    advice = make_advice(make_result(means))
    assert advice.rule in means
    assert {advice.rule, *advice.beaten, *advice.rivals} == set(means)
    assert len(advice.beaten) + len(advice.rivals) == len(means) - 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(20, 80), min_size=5, max_size=5, unique=True), st.floats(-0.1, 0.1))
def test_what_all_methods_gain_alike_does_not_change_the_decision(
    make_result: MakeResult, percents: list[int], gain: float
) -> None:
    means = dict(zip(ALIKE, (percent / 100 for percent in percents), strict=True))  # no tie that rounding could break
    before, after = (make_advice(make_result({name: it + more for name, it in means.items()})) for more in (0, gain))
    assert before.rule == after.rule


def test_where_nothing_differs_the_default_is_advised_and_said_to_be_no_finding(make_result: MakeResult) -> None:
    advice = make_advice(make_result(ALIKE))
    assert advice.rule == "fedlag-swap"
    assert not advice.is_clear
    assert "Nothing that was tried differs from it beyond noise, so this is the default, not a finding." in (
        verdict_sentences(advice)
    )


@pytest.mark.parametrize("winner", ["fedavg", "local", "fedper", "fedlag-paper"])
def test_a_rule_that_is_clearly_better_is_advised_with_its_lead(winner: str, make_result: MakeResult) -> None:
    result = make_result({**ALIKE, winner: 0.85})
    advice = make_advice(result)
    assert advice.rule == winner
    assert advice.is_clear
    assert any("clearly better here than the default, fedlag-swap: +5.0" in it for it in verdict_sentences(advice))
    assert any("a little flattering" in it for it in warning_sentences(result, advice))


@pytest.mark.parametrize(("lead", "spread"), [(0.05, 0.3), (0.004, 0.0001)])
def test_a_lead_within_noise_or_too_small_to_matter_does_not_replace_the_default(
    lead: float, spread: float, make_result: MakeResult
) -> None:
    assert make_advice(make_result({**ALIKE, "local": 0.8 + lead}, spread=spread)).rule == "fedlag-swap"


def test_a_default_that_beats_all_others_is_clear(make_result: MakeResult) -> None:
    advice = make_advice(make_result({**ALIKE, "fedlag-swap": 0.9}))
    assert advice.is_clear
    assert "fedavg, local, fedper and fedlag-paper are clearly worse." in verdict_sentences(advice)


def test_an_equal_rival_that_sends_less_is_named(make_result: MakeResult) -> None:
    assert any(it.startswith("local sends nothing") for it in verdict_sentences(make_advice(make_result(ALIKE))))


def test_without_the_default_the_best_of_the_others_is_advised(make_result: MakeResult) -> None:
    advice = make_advice(make_result({"fedavg": 0.6, "local": 0.7}))
    assert advice.rule == "local"
    assert any("came to no result here" in it for it in verdict_sentences(advice))


def test_without_any_result_there_is_no_advice(make_result: MakeResult) -> None:
    with pytest.raises(FleetError, match="nothing to advise"):
        make_advice(make_result({}))


def test_layers_in_conflict_and_layers_that_became_personal_are_told_apart(make_result: MakeResult) -> None:
    result = make_result(ALIKE, conflict={"fc1": 0.1, "head": 0.4}, personal_layers=("fc1",))
    told = " ".join(layer_sentences(make_advice(result)))
    assert "In conflict: head (40% of the pairs of devices)" in told
    assert "fc1 ended personal" in told
    assert "not the layers most in conflict" in told


def test_a_layer_that_became_personal_with_one_seed_only_says_so(make_result: MakeResult) -> None:
    result = make_result(ALIKE)
    swap = next(it for it in result.methods if it.method == "fedlag-swap")
    swap.personal_layers.update({0: ("head",), 1: ()})
    assert any("head (in 1 of 2 seeds)" in it for it in layer_sentences(make_advice(result)))


def test_without_marked_conflict_the_largest_share_is_told(make_result: MakeResult) -> None:
    told = layer_sentences(make_advice(make_result(ALIKE)))
    assert told[0].startswith("No layer is in marked conflict; the most is head (20%")
    assert told[1] == "Under fedlag-swap no layer became personal: it did what fedavg does."


def test_the_expected_range_holds_most_devices(make_result: MakeResult) -> None:
    result = make_result(ALIKE)
    expected = make_advice(result).expectation
    assert expected is not None
    swap = next(it for it in result.methods if it.method == "fedlag-swap")
    values = np.mean([list(by.values()) for by in swap.accuracy.values()], axis=0)
    assert expected.accuracy == pytest.approx(values.mean())
    assert 0.75 <= np.mean((values >= expected.low) & (values <= expected.high)) <= 0.85
    assert any("80.0%" in it for it in expectation_sentences(make_advice(result)))


def test_without_test_examples_nothing_is_expected_and_the_default_stays(make_result: MakeResult) -> None:
    result = make_result(ALIKE)
    for method in result.methods:
        for by in method.accuracy.values():
            by.clear()
    advice = make_advice(result)
    assert advice.rule == "fedlag-swap"
    assert expectation_sentences(advice) == ["The devices have no test examples, so no accuracy can be expected."]


@pytest.mark.parametrize(
    ("weakness", "warning"),
    [
        ({"num_rounds": 11}, "without a second test"),
        ({"num_validation": {"a": 5, "b": 7, "c": 90}}, "7 validation examples or fewer"),
        ({"num_test": {"a": 5, "b": 7, "c": 90}}, "7 test examples or fewer"),
        ({"num_seeds": 1}, "one seed says nothing"),
        ({"num_devices": 4}, "with 4 devices the standard errors"),
        ({"num_found": 90}, "20 of 90 devices were tried"),
        ({"failures": ("fedper: no learning rate worked",)}, "fedper: no learning rate worked"),
    ],
)
def test_each_weakness_of_a_trial_is_a_warning(
    weakness: dict[str, object], warning: str, make_result: MakeResult
) -> None:
    sound, weak = make_result(ALIKE), make_result(ALIKE, **weakness)
    assert not any(warning in it for it in warning_sentences(sound, make_advice(sound)))
    assert any(warning in it for it in warning_sentences(weak, make_advice(weak)))


def test_a_sound_trial_has_no_warning(make_result: MakeResult) -> None:
    result = make_result(ALIKE)
    assert warning_sentences(result, make_advice(result)) == []
