"""What each method shares, keeps and trains, over the rounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from edge_client.dataset import Dataset, Split
from simulations.engines.batches import gather_batches
from simulations.engines.engine import StepRule
from simulations.engines.model import SimulatedModel, install, layer_rows, simulate_model
from simulations.engines.planner import make_engine
from simulations.engines.population import gather_population
from simulations.models import load_simulation_model
from simulations.rounds.methods import METHODS, make_method, norm_layers
from tests.simulations.engines.cases import make_case
from tests.simulations.rounds.fleets import (
    INITIAL,
    LAYERS,
    TRAINING,
    Run,
    furthest,
    make_clients,
    run,
    simulated_perceptron,
)
from wire.errors import ConfigError

CLIENTS = make_clients(5)
ROUNDS = 6


def follow(tmp_path: Path, name: str, **options: Any) -> Run:
    return run(tmp_path / name, name, ROUNDS, CLIENTS, options=options)


def averaged(fleet: Run) -> set[str]:
    """Return the layers whose average is no longer the initial one."""
    return {layer for layer in LAYERS if not np.array_equal(fleet.averages[layer], INITIAL[layer])}


def kept(fleet: Run) -> set[str]:
    return {layer for layer in LAYERS if fleet.own(layer)}


@pytest.mark.parametrize(
    ("name", "options", "personal"),
    [
        ("fedavg", {}, set()),
        ("local", {}, set(LAYERS)),
        ("fedper", {}, {"head"}),
        ("fedper", {"num_personal": 2}, {"middle", "head"}),
        ("fedrep", {}, {"head"}),
        ("lg-fedavg", {}, {"hidden"}),
        ("lg-fedavg", {"num_personal": 2}, {"hidden", "middle"}),
        ("fedprox", {}, set()),
        ("ditto", {}, set()),
    ],
)
def test_a_fixed_method_averages_the_shared_layers_and_clients_keep_the_personal_ones(
    name: str, options: dict[str, Any], personal: set[str], tmp_path: Path
) -> None:
    fleet = follow(tmp_path, name, **options)
    assert averaged(fleet) == set(LAYERS) - personal
    assert kept(fleet) == personal
    assert {frozenset(layers) for layers in fleet.personal_layers} == {frozenset(personal)}
    assert fleet.records[-1].shared_params == sum(INITIAL[layer].size for layer in set(LAYERS) - personal)


def test_random_layers_are_drawn_once_by_their_own_seed(tmp_path: Path) -> None:
    drawn = set()
    for seed in range(12):
        method = make_method("random-k", simulated_perceptron(), ROUNDS, num_personal=1, seed=seed)
        fleet = run(tmp_path / str(seed), method, 2, CLIENTS)
        assert len(set(fleet.personal_layers)) == 1
        drawn.add(fleet.personal_layers[0])
    assert drawn == {(layer,) for layer in LAYERS}


@pytest.mark.parametrize(
    ("name", "num_shared"), [("fedavg-finetuned", ROUNDS - 3), ("fedavg-then-local", 3), ("fedbabu", 3)]
)
def test_rounds_alone_follow_the_shared_ones_and_start_from_what_each_client_has(
    name: str, num_shared: int, tmp_path: Path
) -> None:
    fleet = run(tmp_path, name, ROUNDS, CLIENTS, num_done=num_shared)
    shared = {layer: values.copy() for layer, values in fleet.averages.items()}
    own = fleet.own("hidden")
    fleet.go_on(ROUNDS - num_shared)
    assert fleet.personal_layers == [()] * num_shared + [LAYERS] * (ROUNDS - num_shared)
    assert furthest(fleet.averages, shared) == 0
    assert len(own) == len(CLIENTS)
    assert all(0 < np.abs(values - own[name]).max() < 1 for name, values in fleet.own("hidden").items())


def test_fedavg_finetuned_is_fedavg_until_it_is_finetuned(tmp_path: Path) -> None:
    fedavg = run(tmp_path / "fedavg", "fedavg", ROUNDS, CLIENTS, num_done=4)
    tuned = run(tmp_path / "tuned", "fedavg-finetuned", ROUNDS, CLIENTS, options={"num_local_rounds": 2})
    assert furthest(tuned.averages, fedavg.averages) == 0


@pytest.mark.parametrize("personal_epochs", [1, 3])
def test_fedreps_head_moves_only_in_its_own_epochs_and_the_body_only_in_its(
    personal_epochs: int, tmp_path: Path
) -> None:
    client, model = {"pi-00": CLIENTS["pi-00"]}, simulated_perceptron()
    method = make_method("fedrep", model, 1, personal_epochs=personal_epochs)
    fleet = run(tmp_path, method, 1, client)
    labels = [[f"batches/0/pi-00/0/1/{epoch}"] for epoch in range(personal_epochs + 1)]
    train, engine = gather_population(client).train, make_engine("serial", model)
    params = install(model, {name: torch.from_numpy(values) for name, values in INITIAL.items()}, 1)
    for layers, its_labels in ((("head",), labels[:-1]), (("hidden", "middle"), labels[-1:])):
        rule = StepRule(TRAINING.learning_rate, 0.9, 5.0, trained=model.parameters_of(frozenset(layers)))
        params, _ = engine.train(params, gather_batches(train, [0], its_labels, TRAINING.batch_size), rule)
    expected = {layer.name: layer_rows(layer, params)[0].numpy() for layer in model.layers}
    found = {**fleet.averages, "head": fleet.own("head")["pi-00"]}
    assert furthest(found, expected) < 1e-5


def test_fedbabus_head_stays_at_its_initial_bits_as_long_as_anything_is_shared(tmp_path: Path) -> None:
    fleet = run(tmp_path, "fedbabu", ROUNDS, CLIENTS, num_done=ROUNDS - 3)
    assert fleet.averages["head"].tobytes() == INITIAL["head"].tobytes()
    assert averaged(fleet) == {"hidden", "middle"}
    assert {values.tobytes() for values in fleet.own("head").values()} == {INITIAL["head"].tobytes()}
    fleet.go_on(1)
    assert len({values.tobytes() for values in fleet.own("head").values()}) == len(CLIENTS)


def test_dittos_shared_model_has_fedavgs_bits_and_its_personal_models_have_not(tmp_path: Path) -> None:
    fedavg, ditto = follow(tmp_path, "fedavg"), follow(tmp_path, "ditto")
    assert furthest(ditto.averages, fedavg.averages) == 0
    assert kept(ditto) == set()
    assert len({values.tobytes() for values in ditto.own("ditto.head").values()}) == len(CLIENTS)
    measured, of_shared = ditto.simulation.measure("test"), fedavg.simulation.measure("test")
    assert measured.loss.mean() < of_shared.loss.mean()


def test_ditto_models_that_diverge_are_not_kept_and_leave_the_shared_model_alone(tmp_path: Path) -> None:
    unclipped = msgspec.structs.replace(TRAINING, max_gradient_norm=1e9)
    fedavg = run(tmp_path / "fedavg", "fedavg", 3, CLIENTS, training=unclipped)
    ditto = run(tmp_path / "ditto", "ditto", 3, CLIENTS, training=unclipped, options={"pull": 1e30})
    assert furthest(ditto.averages, fedavg.averages) == 0
    assert [record.diverged for record in ditto.records] == [()] * 3
    assert ditto.own("ditto.head") == {}
    assert np.isfinite(ditto.simulation.measure("test").loss).all()


def test_dittos_pull_decides_how_far_personal_models_go(tmp_path: Path) -> None:
    distances = []
    for pull in (0.01, 1.0, 5.0):
        fleet = run(tmp_path / str(pull), "ditto", 4, CLIENTS, options={"pull": pull})
        rows = np.stack(list(fleet.own("ditto.hidden").values()))
        distances.append(float(np.linalg.norm(rows - fleet.averages["hidden"], axis=1).mean()))
    assert distances[0] > 1.5 * distances[1] > 2 * distances[2]


def test_fedprox_without_a_pull_is_fedavg_and_with_one_clients_stay_nearer(tmp_path: Path) -> None:
    fedavg = follow(tmp_path, "fedavg")
    assert furthest(follow(tmp_path / "none", "fedprox", proximal=0.0).averages, fedavg.averages) == 0
    near = run(tmp_path / "near", "fedprox", 1, CLIENTS, options={"proximal": 5.0}, watches_conflict=True)
    far = run(tmp_path / "far", "fedavg", 1, CLIENTS, watches_conflict=True)
    start = np.concatenate([INITIAL[layer] for layer in LAYERS])
    moved = [np.linalg.norm(np.concatenate([it.averages[layer] for layer in LAYERS]) - start) for it in (near, far)]
    assert moved[0] < 0.7 * moved[1]


def test_fedlag_paper_freezes_what_it_chose_and_every_round_does_not(tmp_path: Path) -> None:
    frozen = run(tmp_path / "frozen", "fedlag-paper", 8, CLIENTS, options={"num_personal": 1})
    assert frozen.personal_layers[:4] == [()] * 4
    assert len(frozen.personal_layers[4]) == 1
    assert set(frozen.personal_layers[4:]) == {frozen.personal_layers[4]}
    anew = run(tmp_path / "anew", "fedlag-paper-every-round", 8, CLIENTS, options={"num_personal": 1})
    assert anew.personal_layers[0] == ()
    assert all(len(layers) == 1 for layers in anew.personal_layers[1:])


def test_fedlag_paper_exact_counts_the_updates_themselves_even_of_personal_layers(tmp_path: Path) -> None:
    options = {"num_personal": 1, "num_warmup_rounds": 1}
    exact = run(tmp_path, "fedlag-paper-exact", 3, CLIENTS, options=options, sketch_width=2)
    assert list(exact.records[-1].conflict_scores) == list(LAYERS)
    wide = run(tmp_path / "wide", "fedlag-paper", 3, CLIENTS, options=options, sketch_width=1024)
    assert exact.records[0].conflict_scores == wide.records[0].conflict_scores
    assert exact.personal_layers == wide.personal_layers


@pytest.mark.parametrize("name", ["fedlag-swap", "fedprox+fedlag", "ditto+fedlag"])
def test_fedlag_with_another_rule_personalizes_where_sensors_differ(name: str, tmp_path: Path) -> None:
    early = {"first_tested_round": 2, "rounds_between_tests": 1}
    fleet = run(tmp_path, name, 12, CLIENTS, options=early)
    assert fleet.personal_layers[0] == ()
    assert fleet.personal_layers[-1] != ()
    assert (len(fleet.own("ditto.head")) > 0) == (name == "ditto+fedlag")


def test_norms_are_found_by_the_types_of_their_modules_and_are_fedbns_personal_layers(tmp_path: Path) -> None:
    model = simulate_model(load_simulation_model("image-cnn"))
    assert norm_layers(model) == ("norm1", "norm2")
    assert make_method("fedbn", model, 3).options == {"layers": ("norm1", "norm2")}
    small = simulate_model(load_simulation_model("resnet9-gn"))
    assert norm_layers(small)[:2] == ("conv1.norm", "conv2.norm")
    with pytest.raises(ConfigError, match="the model has none: take another model or method"):
        run(tmp_path, "fedbn", 3, CLIENTS)


def test_fedbn_averages_all_but_the_norms(tmp_path: Path) -> None:
    case = make_case("norms", (9, 7, 5))
    splits = [
        Split(
            case.population.train.inputs[begin : begin + 5].numpy(),
            case.population.train.targets[begin : begin + 5].numpy(),
        )
        for begin in (0, 9, 16)
    ]
    clients = {f"pi-{index}": Dataset(split, split, None) for index, split in enumerate(splits)}
    fleet, before = run(tmp_path, "fedbn", 2, clients, model=case.model), case.model.initial_values()
    assert {layer for layer in before if np.array_equal(fleet.averages[layer], before[layer])} == {"1"}
    assert len({values.tobytes() for values in fleet.own("1").values()}) == 3


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_its_name_and_is_the_same_each_time(name: str) -> None:
    torch.manual_seed(0)
    model = simulate_model(load_simulation_model("image-cnn"))
    method = make_method(name, model, 10)
    assert method.name == name
    assert method == make_method(name, model, 10)


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("fedlags", {}, "no method is called 'fedlags'; choose one of fedavg"),
        ("fedbn", {"k": 1}, "method fedbn has no option 'k'; it has none"),
        ("ditto", {"mu": 1}, "method ditto has no option 'mu'; it has pull"),
        ("ditto", {"pull": 0}, "method ditto: .*> 0"),
        ("fedprox", {"proximal": -1}, "method fedprox: .*>= 0"),
        ("fedprox+fedlag", {"pull": 1}, "selector fedlag-swap has no option 'pull'"),
        ("random-k", {"num_personal": 9}, "num_personal = 9, but the model has 3 layers"),
        ("fedper", {"num_personal": 4}, "num_personal = 4"),
        ("fedala", {"num_adaptive": 4}, "num_adaptive = 4, but the model has 3 layers"),
        ("fedala", {"adaptive_share": 1.5}, "method fedala: .*<= 1"),
        ("fedavg-finetuned", {"num_local_rounds": ROUNDS}, "trains alone for 6 of 6 rounds"),
        ("fedbabu", {"num_local_rounds": 0}, "at least 1, and not all"),
        ("fedlag-paper", {"conflict_threshold": 0.5}, "selector fedlag-paper: "),
    ],
)
def test_what_a_method_cannot_do_is_refused_by_name(name: str, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        make_method(name, simulated_perceptron(), ROUNDS, **options)


def test_a_model_of_one_layer_has_no_body_for_fedbabu() -> None:
    layers = simulated_perceptron().layers[-1:]
    model = SimulatedModel(torch.nn.Sequential(), layers, (6,), 3)
    with pytest.raises(ConfigError, match="fedbabu freezes all layers"):
        make_method("fedbabu", model, ROUNDS)
