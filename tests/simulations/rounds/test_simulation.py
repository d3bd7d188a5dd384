"""Rounds under every selector and local rule: what counts, what is kept, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from aggregator.evidence import Evidence
from aggregator.selection import SELECTOR_NAMES
from edge_client.dataset import Dataset, Split
from simulations.engines.planner import CPU_ENGINES
from simulations.rounds.job import Trained
from simulations.rounds.method import LocalRule, Method
from simulations.rounds.methods import METHODS
from tests.simulations.rounds.fleets import INITIAL, LAYERS, TRAINING, furthest, make_clients, run
from wire.errors import ConfigError, FleetError

NUM_CLIENTS = 5
SAME = 1e-4
OPTIONS: dict[str, dict[str, Any]] = {"fixed": {"layers": ["middle"]}, "fedlag": {"first_tested_round": 1}}
RULES = {
    "plain": LocalRule(),
    "proximal": LocalRule(proximal=0.5),
    "ditto": LocalRule(ditto=0.3),
    "personal layers first": LocalRule(personal_epochs=2),
    "frozen": LocalRule(frozen=("head",)),
}


def broken(data: Dataset) -> Dataset:
    """Return data of a sensor that shows plus or minus infinity: training on it leaves the numbers."""
    infinite = np.copysign(np.float32(np.inf), data.train.inputs)
    return Dataset(Split(infinite, data.train.targets), data.validation, data.test)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("selector", SELECTOR_NAMES)
def test_neither_the_chunk_nor_the_engine_matters(selector: str, rule: str, tmp_path: Path) -> None:
    method = Method(name="any", selector=selector, options=OPTIONS.get(selector, {}), local=RULES[rule])
    clients = make_clients(NUM_CLIENTS)
    first, *others = [
        run(tmp_path / str(number), method, 5, clients, engine=engine, chunk_size=chunk_size, cohort_size=4)
        for number, (engine, chunk_size) in enumerate([("stacked", 5), ("stacked", 1), ("vmap", 3)])
    ]
    for other in others:
        assert other.personal_layers == first.personal_layers
        assert furthest(other.averages, first.averages) < SAME
        measured, expected = other.simulation.measure("test"), first.simulation.measure("test")
        np.testing.assert_allclose(measured.loss, expected.loss, atol=SAME)
        for layer in first.simulation.decision.personal_layers:
            assert furthest(other.own(layer), first.own(layer)) < SAME


@pytest.mark.parametrize("engine", CPU_ENGINES)
def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(engine: str, tmp_path: Path) -> None:
    runs = [
        run(tmp_path / str(number), "fedper", 2, make_clients(4), engine=engine, cohort_size=3, seed=seed)
        for number, seed in enumerate([1, 1, 2])
    ]
    assert furthest(runs[0].averages, runs[1].averages) == furthest(runs[0].own("head"), runs[1].own("head")) == 0
    assert furthest(runs[0].averages, runs[2].averages) > 0


def test_a_client_that_was_not_asked_keeps_its_own_layers_and_one_without_starts_from_the_average(
    tmp_path: Path,
) -> None:
    fleet = run(tmp_path, "fedper", 6, make_clients(6), num_done=0, cohort_size=2)
    own: dict[str, np.ndarray] = {}
    for _ in range(6):
        fleet.go_on(1)
        now, asked = fleet.own("head"), {fleet.names[client] for client in fleet.records[-1].cohort}
        assert now.keys() == own.keys() | asked
        assert all(np.array_equal(now[name], own[name]) for name in own.keys() - asked)
        assert not any(np.array_equal(now[name], own[name]) for name in own.keys() & asked)
        own = now
    assert np.array_equal(fleet.averages["head"], INITIAL["head"])  # never shared, so never averaged


def test_a_client_that_has_never_trained_is_measured_with_the_averages(tmp_path: Path) -> None:
    clients = make_clients(6)
    fedavg, fedper = (run(tmp_path / name, name, 1, clients, cohort_size=2) for name in ("fedavg", "fedper"))
    idle = [client for client in range(6) if client not in fedper.records[0].cohort]
    fedavg.simulation.averages["head"] = INITIAL["head"]
    left, right = fedper.simulation.measure("test"), fedavg.simulation.measure("test")
    fedper_losses, fedavg_losses = left.loss[idle], right.loss[idle]
    np.testing.assert_allclose(fedper_losses, fedavg_losses, atol=SAME)


@pytest.mark.parametrize("method", ["fedavg", "fedper", "fedlag-swap", "ditto", "fedala"])
def test_a_diverged_client_does_not_count_and_keeps_nothing(method: str, tmp_path: Path) -> None:
    clients = make_clients(4)
    with_broken = clients | {"pi-01": broken(clients["pi-01"])}
    others = {name: data for name, data in clients.items() if name != "pi-01"}
    fleet = run(tmp_path / "all", method, 4, with_broken, chunk_size=3)
    expected = run(tmp_path / "others", method, 4, others)
    assert [record.diverged for record in fleet.records] == [(1,)] * 4
    assert [record.cohort for record in fleet.records] == [(0, 1, 2, 3)] * 4
    assert furthest(fleet.averages, expected.averages) < SAME
    for record, alone in zip(fleet.records, expected.records, strict=True):
        assert record.train_loss == pytest.approx(alone.train_loss, abs=SAME)
        assert record.decision == alone.decision
    kinds = ["head", "ditto.head", "mix.head"] if method in ("ditto", "fedala") else ["head"]
    for kind in kinds:
        assert "pi-01" not in fleet.own(kind)
        assert furthest(fleet.own(kind), expected.own(kind)) < SAME


def test_a_diverged_clients_swap_gains_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clients = make_clients(4)
    fleet = run(tmp_path, "fedlag-swap", 6, clients, num_done=1, options={"first_tested_round": 1})
    worker: Any = fleet.simulation._workers
    train = worker._worker._population.train
    begin, count = train.starts[2], train.counts[2]
    train.inputs[begin : begin + count] *= 1e38  # it could swap, and then it diverges
    seen: list[Evidence] = []

    count_evidence: Any = fleet.simulation._evidence

    def see(trained: Trained) -> Evidence:
        seen.append(count_evidence(trained))
        return seen[-1]

    monkeypatch.setattr(fleet.simulation, "_evidence", see)
    fleet.go_on(1)
    assert fleet.records[-1].diverged == (2,)
    assert {layer: len(gains) for layer, gains in seen[0].swap_gains.items()} == dict.fromkeys(LAYERS, 3)


def test_a_fleet_that_diverges_as_a_whole_says_what_to_do_and_stays_where_it_was(tmp_path: Path) -> None:
    clients = {name: broken(data) for name, data in make_clients(3).items()}
    fleet = run(tmp_path, "fedavg", 3, clients, num_done=0)
    with pytest.raises(FleetError, match="every client diverged in round 1: lower the learning rate"):
        fleet.go_on(1)
    assert fleet.simulation.round_number == 1
    assert furthest(fleet.averages, INITIAL) == 0


def test_a_cohort_larger_than_the_fleet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a cohort of 4 cannot come from 3 clients: lower cohort_size"):
        run(tmp_path, "fedavg", 1, make_clients(3), cohort_size=4)


def test_rounds_without_epochs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="raise num_epochs"):
        run(tmp_path, "fedavg", 1, make_clients(3), training=msgspec.structs.replace(TRAINING, num_epochs=0))


@pytest.mark.parametrize(
    ("local", "selector", "reason"),
    [
        (LocalRule(frozen=("tail",)), "fedavg", r"names \['tail'\], which the model does not have"),
        (LocalRule(adaptive=("tail",)), "fedavg", r"names \['tail'\]"),
        (LocalRule(frozen=LAYERS), "fedavg", "nothing would be trained"),
        (LocalRule(adaptive=("head",)), "fedper", "only goes with the selector fedavg"),
        (LocalRule(adaptive=("head",), ditto=0.1), "fedavg", "without Ditto"),
    ],
)
def test_a_method_that_does_not_fit_is_refused(local: LocalRule, selector: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=reason):
        run(tmp_path, Method(name="odd", selector=selector, local=local), 1, make_clients(3))


def test_clients_without_a_test_split_have_no_accuracy_and_others_have_theirs(tmp_path: Path) -> None:
    clients = make_clients(4)
    some = clients | {"pi-02": clients["pi-02"]._replace(test=None)}
    few = Split(*(part[:3] for part in clients["pi-01"].validation))
    some |= {"pi-01": clients["pi-01"]._replace(validation=few)}
    fleet = run(tmp_path, "fedlag-swap", 8, some, options={"first_tested_round": 1, "rounds_between_tests": 1})
    tested, validated = fleet.simulation.measure("test"), fleet.simulation.measure("validation")
    assert np.isnan(tested.accuracy).tolist() == np.isnan(tested.loss).tolist() == [False, False, True, False]
    assert validated.accuracy[1] * 3 == pytest.approx(round(validated.accuracy[1] * 3))
    assert np.isfinite(validated.loss).all()


def test_nobody_with_a_test_split_is_all_unknown(tmp_path: Path) -> None:
    clients = {name: data._replace(test=None) for name, data in make_clients(3).items()}
    measured = run(tmp_path, "fedavg", 1, clients).simulation.measure("test")
    assert np.isnan(measured.accuracy).all()
    assert np.isnan(measured.loss).all()


def test_watching_conflict_changes_no_bit(tmp_path: Path) -> None:
    plain, watched = (
        run(tmp_path / str(watches), "fedper", 3, make_clients(4), watches_conflict=watches)
        for watches in (False, True)
    )
    assert furthest(plain.averages, watched.averages) == 0
    assert [record.conflict_scores for record in plain.records] == [{}] * 3
    assert list(watched.records[-1].conflict_scores) == ["hidden", "middle"]


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"fedbn"}))  # the perceptron has no norms
def test_every_method_learns(name: str, tmp_path: Path) -> None:
    fleet = run(tmp_path, name, 8, make_clients(5))
    before = run(tmp_path / "before", name, 8, make_clients(5), num_done=0)
    measured = fleet.simulation.measure("test")
    assert np.isfinite(measured.loss).all()
    assert measured.accuracy.mean() > before.simulation.measure("test").accuracy.mean() + 0.1
    assert fleet.records[-1].train_loss < fleet.records[0].train_loss
