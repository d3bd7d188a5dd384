"""Rules that do not look at evidence: what they choose, when they change, and that nothing else moves them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.selection import SELECTOR_NAMES, Evidence, Selector, make_selector
from wire.errors import ConfigError

NAMES = [f"layer{index}" for index in range(9)]
MODELS = st.integers(1, 9).map(lambda count: {name: 10 * (index + 1) for index, name in enumerate(NAMES[:count])})
BLIND = ("fedavg", "local", "fedper", "lg-fedavg", "fixed", "random", "fedavg-then-local")
SIZES = {"conv1": 80, "norm1": 16, "conv2": 800, "norm2": 32, "head": 90}


def plans(selector: Selector, sizes: dict[str, int], num_rounds: int, seed: int = 0) -> list[tuple[str, ...]]:
    """The personal layers of plans 1, 2, ..., num_rounds + 1, under evidence that would move any other rule."""
    random = np.random.default_rng(seed)
    state, decision = selector.start(sizes)
    personal_layers = [decision.personal_layers]
    for round_number in range(1, num_rounds + 1):
        sketches = {layer: random.normal(size=(4, 8)).astype(np.float32) for layer in sizes}
        norms = {layer: np.ones(4) for layer in sizes}
        gains = {layer: random.uniform(0, 1, size=4) for layer in sizes}
        state, decision = selector.decide(state, Evidence(round_number, sizes, sketches, norms, gains))
        personal_layers.append(decision.personal_layers)
        assert decision.swap_candidates == ()
    return personal_layers


@given(MODELS, st.data())
def test_first_and_last_layers_part_a_model(sizes: dict[str, int], data: st.DataObject) -> None:
    num_first = data.draw(st.integers(1, len(sizes)))
    first = make_selector("lg-fedavg", {"num_personal": num_first}, None).start(sizes)[1].personal_layers
    assert first == tuple(sizes)[:num_first]
    if num_first < len(sizes):
        rest = {"num_personal": len(sizes) - num_first}
        last = make_selector("fedper", rest, None).start(sizes)[1].personal_layers
        assert first + last == tuple(sizes)


@given(MODELS, st.data())
def test_any_set_of_layers_can_be_fixed(sizes: dict[str, int], data: st.DataObject) -> None:
    layers = data.draw(st.lists(st.sampled_from(sorted(sizes)), unique=True))
    selector = make_selector("fixed", {"layers": layers}, None)
    assert set(plans(selector, sizes, 3)) == {tuple(layer for layer in sizes if layer in layers)}


def test_norm_layers_of_one_s_own_are_named() -> None:
    selector = make_selector("fixed", {"layers": ["norm2", "norm1"], "pinned": ["head"]}, None)
    _, decision = selector.start(SIZES)
    assert decision.personal_layers == ("norm1", "norm2", "head")
    assert decision.reasons["norm1"] == "personal from round 1 on (fixed)"
    assert decision.reasons["head"] == "personal from round 1 on (pinned)"


@given(MODELS, st.integers(0, 2**53), st.data())
def test_random_layers_are_as_many_as_asked_and_the_same_for_the_same_seed(
    sizes: dict[str, int], seed: int, data: st.DataObject
) -> None:
    pinned = data.draw(st.lists(st.sampled_from(sorted(sizes)), unique=True, max_size=len(sizes) - 1))
    num_personal = data.draw(st.integers(1, len(sizes) - len(pinned)))
    options = {"num_personal": num_personal, "seed": seed, "pinned": pinned}
    chosen = plans(make_selector("random", options, 20), sizes, 4)
    assert len(set(chosen)) == 1
    assert len(chosen[0]) == num_personal + len(pinned)
    assert set(pinned) <= set(chosen[0])
    assert make_selector("random", options, None).start(sizes)[1].personal_layers == chosen[0]


def test_every_random_choice_is_about_as_likely_as_any_other() -> None:
    drawn = Counter(
        make_selector("random", {"seed": seed}, None).start(SIZES)[1].personal_layers for seed in range(2_000)
    )
    assert len(drawn) == 10  # pairs of 5 layers
    assert max(drawn.values()) < 260  # 200 expected, standard deviation 13
    assert min(drawn.values()) > 140


def test_the_draw_of_a_seed_is_for_ever() -> None:
    drawn = [make_selector("random", {"seed": seed}, None).start(SIZES)[1].personal_layers for seed in range(4)]
    assert drawn == [("conv2", "head"), ("norm1", "head"), ("conv1", "head"), ("norm2", "head")]


@given(MODELS, st.integers(2, 40), st.data())
def test_a_fleet_shares_all_and_then_nothing(sizes: dict[str, int], num_rounds: int, data: st.DataObject) -> None:
    num_shared_rounds = data.draw(st.none() | st.integers(1, num_rounds - 1))
    pinned = data.draw(st.lists(st.sampled_from(sorted(sizes)), unique=True))
    options = (
        {"pinned": pinned} if num_shared_rounds is None else {"pinned": pinned, "num_shared_rounds": num_shared_rounds}
    )
    num_shared = num_rounds // 2 if num_shared_rounds is None else num_shared_rounds
    first = tuple(layer for layer in sizes if layer in pinned)
    expected = [first] * num_shared + [tuple(sizes)] * (num_rounds + 1 - num_shared)
    assert plans(make_selector("fedavg-then-local", options, num_rounds), sizes, num_rounds) == expected


def test_the_change_to_local_training_is_explained_once() -> None:
    selector = make_selector("fedavg-then-local", {"num_shared_rounds": 2, "pinned": ["head"]}, None)
    state, decision = selector.start(SIZES)
    for round_number, num_reasons in ((1, 0), (2, 4), (3, 0)):
        state, decision = selector.decide(state, Evidence(round_number, SIZES))
        assert len(decision.reasons) == num_reasons
        if num_reasons:
            assert decision.reasons["conv1"] == "personal from round 3 on: each device trains alone now"


def test_more_rounds_for_a_fleet_that_trains_alone_share_nothing_again() -> None:
    state, _ = make_selector("fedavg-then-local", {}, 4).start(SIZES)
    state, _ = make_selector("fedavg-then-local", {}, 4).decide(state, Evidence(2, SIZES))
    _, decision = make_selector("fedavg-then-local", {}, 40).decide(state, Evidence(5, SIZES))
    assert decision.personal_layers == tuple(SIZES)


@pytest.mark.parametrize("name", SELECTOR_NAMES)
def test_a_rule_says_whether_it_looks_at_evidence(name: str) -> None:
    selector = make_selector(name, {"num_shared_rounds": 3} if name == "fedavg-then-local" else {}, 12)
    assert selector.needs_evidence is (name not in BLIND)
    assert selector.needs_evidence or not selector.needs_personal_sketches
    if not selector.needs_evidence:
        state, decision = selector.start(SIZES)
        bare = [decision.personal_layers]
        for round_number in range(1, 13):
            state, decision = selector.decide(state, Evidence(round_number, SIZES))
            bare.append(decision.personal_layers)
        assert bare == plans(selector, SIZES, 12)


@pytest.mark.parametrize(
    ("name", "options", "num_rounds", "message"),
    [
        ("lg-fedavg", {"num_personal": 6}, 9, "num_personal = 6, but the model has 5 layers$"),
        ("fixed", {"layers": ["norm3"]}, 9, "layer 'norm3' is not in the model; it has conv1, norm1"),
        ("random", {"num_personal": 4, "pinned": ["head", "conv1"]}, 9, "num_personal = 4, .* 3 layers that are not"),
        ("fedavg-then-local", {}, None, "a fleet without an end needs the option num_shared_rounds"),
        ("fedavg-then-local", {}, 1, "num_shared_rounds = 1 leaves none of 1 rounds"),
        ("fedavg-then-local", {"num_shared_rounds": 9}, 9, "num_shared_rounds = 9 leaves none of 9 rounds"),
    ],
)
def test_what_does_not_fit_the_model_or_the_fleet_is_refused(
    name: str, options: dict[str, object], num_rounds: int | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_selector(name, options, num_rounds).start(SIZES)
