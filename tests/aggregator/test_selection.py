"""Every selector by hand, the options that a configuration may give, and states that survive a restart."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.evidence import FixedState, PaperState
from aggregator.selection import SELECTOR_NAMES, Decision, Evidence, Selector, SelectorState, make_selector
from wire.errors import ConfigError, FleetError

SIZES = {"conv1": 80, "conv2": 800, "fc1": 8000, "head": 90}
WIDTH = 16


def sketches_with(num_conflicts: int, num_devices: int = 4) -> np.ndarray:
    """One device against so many others, who agree with each other; the rest are at right angles to all."""
    sketches = np.eye(num_devices, WIDTH, dtype=np.float32)
    sketches[1 : 1 + num_conflicts, 0] = -10
    return sketches


def evidence_of(round_number: int, num_conflicts: dict[str, int]) -> Evidence:
    sketches = {layer: sketches_with(number) for layer, number in num_conflicts.items()}
    norms = {layer: np.ones(len(rows)) for layer, rows in sketches.items()}
    return Evidence(round_number, SIZES, sketches, norms)


def play(selector: Selector, evidence: list[Evidence]) -> list[tuple[str, ...]]:
    """Return the personal layers of plans 1, 2, ...; the state is stored and loaded after every round."""
    state, decision = selector.start(SIZES)
    personal_layers = [decision.personal_layers]
    for one in evidence:
        stored = msgspec.msgpack.encode(state)
        state, decision = selector.decide(msgspec.msgpack.decode(stored, type=SelectorState), one)
        personal_layers.append(decision.personal_layers)
    return personal_layers


@pytest.mark.parametrize(
    ("name", "options", "personal_layers"),
    [
        ("fedavg", {}, ()),
        ("local", {}, ("conv1", "conv2", "fc1", "head")),
        ("fedper", {}, ("head",)),
        ("fedper", {"num_personal": 2}, ("fc1", "head")),
        ("fedper", {"num_personal": 4}, ("conv1", "conv2", "fc1", "head")),
        ("fedavg", {"pinned": ["fc1", "conv1"]}, ("conv1", "fc1")),
        ("fedper", {"pinned": ["conv2", "head"]}, ("conv2", "head")),
    ],
)
def test_selectors_without_evidence_never_change(
    name: str, options: dict[str, object], personal_layers: tuple[str, ...]
) -> None:
    selector = make_selector(name, options, num_rounds=40)
    evidence = [evidence_of(r, {"conv1": 3, "fc1": 2}) for r in range(1, 41)]
    assert set(play(selector, evidence)) == {personal_layers}
    assert selector.name == name
    assert not selector.needs_personal_sketches


def test_the_paper_sums_scores_over_half_the_rounds_and_then_keeps_its_choice() -> None:
    selector = make_selector("fedlag-paper", {}, num_rounds=9)  # W = 4
    scores = [{"conv1": 1, "conv2": 0, "fc1": 2, "head": 0}, {"conv1": 1, "conv2": 0, "fc1": 2, "head": 3}]
    evidence = [evidence_of(r, scores[r == 4]) for r in range(1, 5)]  # sums: conv1 4, conv2 0, fc1 8, head 3
    evidence += [evidence_of(r, {"conv2": 3, "head": 3}) for r in range(5, 9)]
    assert play(selector, evidence) == [()] * 4 + [("conv1", "fc1")] * 5
    assert not selector.needs_personal_sketches


@pytest.mark.parametrize(
    ("num_rounds", "options", "last_warmup_round"),
    [(40, {}, 20), (100, {}, 30), (None, {}, 30), (1, {}, 1), (40, {"num_warmup_rounds": 5}, 5)],
)
def test_the_warm_up_is_half_of_the_rounds_and_at_most_thirty(
    num_rounds: int | None, options: dict[str, int], last_warmup_round: int
) -> None:
    selector = make_selector("fedlag-paper", options, num_rounds)
    plans = play(selector, [evidence_of(r, {"conv1": 1, "head": 2}) for r in range(1, 41)])
    assert plans == [()] * last_warmup_round + [("conv1", "head")] * (41 - last_warmup_round)


def test_every_round_takes_the_most_in_conflict_of_the_round_before() -> None:
    selector = make_selector("fedlag-paper", {"schedule": "every_round"}, num_rounds=None)
    evidence = [
        evidence_of(1, {"conv1": 3, "conv2": 2, "fc1": 1, "head": 0}),
        evidence_of(2, {"conv1": 0, "conv2": 2, "fc1": 1, "head": 0}),
        evidence_of(3, {"conv1": 0, "fc1": 3, "head": 1}),  # nothing came of conv2: it keeps its score
        evidence_of(4, {}),
    ]
    assert play(selector, evidence) == [
        (),
        ("conv1", "conv2"),
        ("conv2", "fc1"),
        ("conv2", "fc1"),
        ("conv2", "fc1"),
    ]
    assert selector.needs_personal_sketches


def test_a_change_says_why() -> None:
    selector = make_selector("fedlag-paper", {"schedule": "every_round", "num_personal": 1}, num_rounds=None)
    state, _ = selector.start(SIZES)
    state, decision = selector.decide(state, evidence_of(1, {"conv1": 3, "head": 0}))
    assert decision.reasons == {
        "conv1": "personal from round 2 on: its conflict score, 0.500, is among the 1 highest",
    }
    state, decision = selector.decide(state, evidence_of(2, {"conv1": 1, "head": 2}))
    assert decision.reasons == {
        "conv1": "shared again from round 3 on: its conflict score, 0.167, is no longer among the 1 highest",
        "head": "personal from round 3 on: its conflict score, 0.333, is among the 1 highest",
    }
    assert not selector.decide(state, evidence_of(3, {}))[1].reasons


def test_of_equal_scores_the_earlier_layers_win() -> None:
    selector = make_selector("fedlag-paper", {"schedule": "every_round"}, num_rounds=None)
    backwards = dict.fromkeys(reversed(SIZES), 1)
    assert play(selector, [evidence_of(1, backwards)])[-1] == ("conv1", "conv2")


def test_pinned_layers_do_not_count_among_those_that_the_paper_chooses() -> None:
    selector = make_selector("fedlag-paper", {"num_warmup_rounds": 1, "pinned": ["fc1"]}, num_rounds=None)
    assert play(selector, [evidence_of(1, {"conv1": 1, "conv2": 2, "fc1": 3, "head": 3})]) == [
        ("fc1",),
        ("conv2", "fc1", "head"),
    ]


def test_without_any_pair_nothing_is_frozen() -> None:
    selector = make_selector("fedlag-paper", {"num_warmup_rounds": 2}, num_rounds=None)
    alone = Evidence(1, SIZES, {"conv1": np.ones((1, 4), dtype=np.float32)}, {"conv1": np.ones(1)})
    evidence = [alone, evidence_of(2, {}), evidence_of(3, {"head": 2})]
    assert play(selector, evidence) == [(), (), (), ("conv1", "head")]


def test_small_angles_of_sketches_are_no_conflict_and_of_exact_updates_are() -> None:
    slightly_obtuse = np.array([[1] * 4, [1, -1, 1, -1.2]], dtype=np.float32)  # cosine -.05
    norms = {"conv1": np.ones(2), "head": np.ones(2)}
    sizes = {"conv1": 400, "head": 4}
    both = Evidence(1, sizes, {"conv1": slightly_obtuse, "head": slightly_obtuse}, norms)
    selector = make_selector("fedlag-paper", {"num_personal": 1, "schedule": "every_round"}, num_rounds=None)
    assert selector.decide(selector.start(sizes)[0], both)[1].personal_layers == ("head",)
    strict = make_selector(
        "fedlag-paper", {"num_personal": 1, "schedule": "every_round", "conflict_threshold": 0}, num_rounds=None
    )
    assert strict.decide(strict.start(sizes)[0], both)[1].personal_layers == ("conv1",)


def test_a_device_with_norm_zero_leaves_the_pairs() -> None:
    sketches = np.array([[1, 0], [-1, 0], [1, 1]], dtype=np.float32)
    one = Evidence(1, {"conv1": 8, "head": 2}, {"conv1": sketches, "head": sketches}, {
        "conv1": np.array([1.0, 1.0, 1.0]),
        "head": np.array([1.0, 0.0, 1.0]),
    })  # fmt: skip
    selector = make_selector(
        "fedlag-paper", {"num_personal": 1, "schedule": "every_round", "conflict_threshold": 0}, num_rounds=None
    )
    state, _ = selector.decide(selector.start(one.num_params)[0], one)
    assert isinstance(state, PaperState)
    assert state.scores == {"conv1": 2 / 3, "head": 0.0}


def test_sketches_without_norms_are_refused() -> None:
    selector = make_selector("fedlag", {}, num_rounds=None)
    with pytest.raises(FleetError, match="layer 'head': 4 sketches"):
        selector.decide(selector.start(SIZES)[0], Evidence(1, SIZES, {"head": sketches_with(1)}, {"head": np.ones(3)}))


@pytest.mark.parametrize("name", SELECTOR_NAMES)
def test_every_selector_keeps_pinned_layers_personal(name: str) -> None:
    selector = make_selector(name, {"pinned": ["head", "conv1"]}, num_rounds=12)
    evidence = [evidence_of(r, {"conv2": 1, "fc1": 2}) for r in range(1, 13)]
    for personal_layers in play(selector, evidence):
        assert {"conv1", "head"} <= set(personal_layers)
        assert list(personal_layers) == [layer for layer in SIZES if layer in personal_layers]
    assert selector.start(SIZES)[1].reasons["head"] == "personal from round 1 on (pinned)"


def test_fedlag_means_the_confirmed_swap() -> None:
    assert make_selector("fedlag", {}, num_rounds=None).name == "fedlag-swap"
    assert SELECTOR_NAMES[0] == "fedlag"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fedprox", {}, "no selector is called 'fedprox'; choose one of fedlag, fedlag-swap, fedlag-paper, fedavg"),
        ("fedper", {"layers": 2}, "selector fedper has no option 'layers'; it has pinned, num_personal"),
        ("fedavg", {"num_rounds": 2}, "no option 'num_rounds'"),
        ("fedper", {"num_personal": 0}, "selector fedper: .*num_personal"),
        ("fedlag-paper", {"schedule": "often"}, "selector fedlag-paper: .*schedule"),
        ("fedlag-paper", {"conflict_threshold": 0.5}, "conflict_threshold"),
        ("fedlag-swap", {"pinned": "conv1"}, "selector fedlag-swap: .*pinned"),
    ],
)
def test_wrong_configurations_name_the_choices(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_selector(name, options, num_rounds=10)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fedlag", {"pinned": ["conv9"]}, "pinned layer 'conv9' is not in the model; it has conv1, conv2, fc1, head"),
        ("local", {"pinned": ["conv9"]}, "conv9"),
        ("fedper", {"num_personal": 5}, "num_personal = 5, but the model has 4 layers"),
        ("fedlag-paper", {"num_personal": 4, "pinned": ["fc1"]}, "num_personal = 4, but only 3 layers are not pinned"),
    ],
)
def test_options_that_do_not_fit_the_model_are_refused(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_selector(name, options, num_rounds=10).start(SIZES)


@pytest.mark.parametrize(("name", "kind"), [("fedavg", "paper"), ("fedlag-paper", "fixed"), ("fedlag", "fixed")])
def test_the_state_of_another_selector_is_refused(name: str, kind: str) -> None:
    foreign = PaperState(()) if kind == "paper" else FixedState(())
    with pytest.raises(FleetError, match=f"kind '{kind}', which fedavg|fedlag"):
        make_selector(name, {}, num_rounds=None).decide(foreign, evidence_of(1, {}))


@given(st.lists(st.dictionaries(st.sampled_from(list(SIZES)), st.integers(0, 3)), max_size=8), st.integers(1, 4))
def test_the_paper_always_keeps_exactly_as_many_layers_as_asked(
    rounds: list[dict[str, int]], num_personal: int
) -> None:
    options = {"num_personal": num_personal, "schedule": "every_round"}
    selector = make_selector("fedlag-paper", options, num_rounds=None)
    plans = play(selector, [evidence_of(r, scores) for r, scores in enumerate(rounds, start=1)])
    has_begun = False
    for scores, plan in zip(rounds, plans[1:], strict=True):
        has_begun |= bool(scores)
        assert len(plan) == (num_personal if has_begun else 0)


@pytest.mark.parametrize("name", SELECTOR_NAMES)
def test_the_page_for_users_names_every_selector_and_option(name: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "fedlag.md").read_text()
    selector = make_selector(name, {}, num_rounds=None)
    options = {*msgspec.structs.asdict(cast("msgspec.Struct", selector))} - {"num_rounds"}
    assert all(f"`{word}`" in page for word in {name, *options})


def test_decisions_can_be_stored() -> None:
    _, decision = make_selector("fedper", {}, num_rounds=None).start(SIZES)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(decision), type=Decision) == decision


@pytest.mark.parametrize("name", SELECTOR_NAMES)
def test_running_statistics_are_personal_unless_the_options_say_what_is_pinned(name: str) -> None:
    options: dict[str, object] = {"layers": []} if name == "fixed" else {}
    _, decision = make_selector(name, options, 40, ("conv2",)).start(SIZES)
    assert "conv2" in decision.personal_layers
    if name not in {"local", "random", "lg-fedavg", "fedper"}:
        _, decision = make_selector(name, {**options, "pinned": ["head"]}, 40, ("conv2",)).start(SIZES)
        assert decision.personal_layers == ("head",)
        _, decision = make_selector(name, {**options, "pinned": []}, 40, ("conv2",)).start(SIZES)
        assert decision.personal_layers == ()
