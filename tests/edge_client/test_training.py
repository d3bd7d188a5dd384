"""A round on the device: what it measures, tests, trains, summarizes and holds ready."""

from __future__ import annotations

import numpy as np
import pytest

from edge_client.dataset import Dataset, Split
from edge_client.generation import Traffic, compose_generation
from edge_client.training import RoundOutcome, RoundWork, measure, run_round, summarize_update
from simulations.loopback.numpy_program import NumpyProgram, initial_values, perceptron_manifest
from wire.manifest import LayerSpec, ParameterSpec
from wire.messages import RoundPlan, TrainingSettings
from wire.random import key_from_label, random_permutation
from wire.sketches import CountSketch
from wire.tensors import Dtype, decode_layer, flatten_layer, unflatten_layer

SIZES = (4, 8, 3)


@pytest.fixture
def program() -> NumpyProgram:
    return NumpyProgram(perceptron_manifest(SIZES))


@pytest.fixture
def dataset() -> Dataset:
    rng = np.random.default_rng(0)

    def split(size: int) -> Split:
        targets = np.arange(size) % 3
        inputs = np.eye(3, 4)[targets] * 2 + rng.normal(size=(size, 4))
        return Split(inputs.astype(np.float32), targets.astype(np.int64))

    return Dataset(split(25), split(12), split(12))


def make_plan(program: NumpyProgram, personal: tuple[str, ...] = (), **changes: object) -> RoundPlan:
    names = program.manifest.layer_names
    settings = {
        "fleet": "home",
        "epoch": 0,
        "round_number": 3,
        "model_id": "0" * 64,
        "shared_layers": dict.fromkeys((name for name in names if name not in personal), "1" * 64),
        "personal_layers": dict.fromkeys(personal, "2" * 64),
        "training": TrainingSettings(learning_rate=0.1, batch_size=10),
        "sketch_seed": 5,
        "sketch_width": 16,
        "duration_s": 60.0,
    }
    return RoundPlan(**{**settings, **changes})  # type: ignore[arg-type]


def make_work(program: NumpyProgram, plan: RoundPlan, own_seed: int | None = None) -> RoundWork:
    def vectors(seed: int) -> dict[str, np.ndarray]:
        return initial_values(program.manifest, np.random.default_rng(seed))

    return RoundWork(plan, "pi-1", vectors(1), None if own_seed is None else vectors(own_seed))


def train_by_hand(program: NumpyProgram, data: Split, work: RoundWork) -> dict[str, np.ndarray]:
    """SGD with momentum, written out."""
    params: dict[str, np.ndarray] = {}
    for layer in program.manifest.layers:
        params |= {name: value.copy() for name, value in unflatten_layer(layer, work.installed[layer.name]).items()}
    velocity = {name: np.zeros_like(value) for name, value in params.items()}
    order = random_permutation(key_from_label("batches/0/pi-1/0/3/0"), len(data.targets))
    for start in range(0, len(order), 10):
        batch = order[start : start + 10]
        for name, gradient in program.train_step(params, data.inputs[batch], data.targets[batch]).gradients.items():
            velocity[name] = 0.9 * velocity[name] + gradient
            params[name] = params[name] - 0.1 * velocity[name]
    return params


def test_training_is_sgd_with_momentum_over_one_epoch(program: NumpyProgram, dataset: Dataset) -> None:
    work = make_work(program, make_plan(program))
    outcome = run_round(program, dataset, work)
    expected = train_by_hand(program, dataset.train, work)
    assert outcome.num_steps == 3
    for layer in program.manifest.layers:
        np.testing.assert_allclose(outcome.own[layer.name], flatten_layer(layer, expected), rtol=1e-5, atol=1e-6)


def test_the_same_work_gives_the_same_bits_and_leaves_the_installed_values_alone(
    program: NumpyProgram, dataset: Dataset
) -> None:
    work = make_work(program, make_plan(program))
    before = {name: vector.copy() for name, vector in work.installed.items()}
    first, second = run_round(program, dataset, work), run_round(program, dataset, work)
    for name, vector in first.own.items():
        assert vector.tobytes() == second.own[name].tobytes()
        assert work.installed[name].tobytes() == before[name].tobytes()


def test_a_measuring_round_trains_and_summarizes_nothing(program: NumpyProgram, dataset: Dataset) -> None:
    plan = make_plan(program, training=TrainingSettings(num_epochs=0))
    outcome = run_round(program, dataset, make_work(program, plan))
    assert (outcome.own, outcome.layers, outcome.num_steps) == ({}, {}, 0)
    assert outcome.before == outcome.after
    assert outcome.test is not None


def test_a_swap_gain_is_the_loss_with_the_average_minus_the_loss_with_the_own_layer(
    program: NumpyProgram, dataset: Dataset
) -> None:
    names = program.manifest.layer_names
    plan = make_plan(program, personal=names[:1], swap_candidates=names[1:])
    work = make_work(program, plan, own_seed=2)
    assert work.own is not None
    outcome = run_round(program, dataset, work)

    def loss(layers: dict[str, np.ndarray]) -> float:
        params: dict[str, np.ndarray] = {}
        for layer in program.manifest.layers:
            params |= unflatten_layer(layer, layers[layer.name])
        return measure(program, params, dataset.validation).loss

    base = {**work.installed, names[0]: work.own[names[0]]}
    for name in names[1:]:
        expected = loss(base) - loss({**base, name: work.own[name]})
        assert outcome.swap_gains[name] == pytest.approx(expected, abs=1e-12)


def test_a_device_that_missed_the_round_before_tests_no_swaps(program: NumpyProgram, dataset: Dataset) -> None:
    plan = make_plan(program, swap_candidates=program.manifest.layer_names)
    assert run_round(program, dataset, make_work(program, plan)).swap_gains == {}


def test_training_that_diverges_is_not_finite(program: NumpyProgram, dataset: Dataset) -> None:
    settings = TrainingSettings(learning_rate=3e38, max_gradient_norm=1e30)
    with np.errstate(all="ignore"):
        outcome = run_round(program, dataset, make_work(program, make_plan(program, training=settings)))
    assert not outcome.is_finite


def test_of_a_personal_layer_only_the_norm_is_told_unless_the_plan_declares_a_narrow_sketch(
    program: NumpyProgram,
) -> None:
    layer = LayerSpec("layer1", (ParameterSpec("w", (64,)),))
    update = np.random.default_rng(0).normal(size=64).astype(np.float32)
    norm = pytest.approx(float(np.linalg.norm(update)))
    shared = summarize_update(make_plan(program), layer, update)
    assert (shared.norm, len(shared.sketch)) == (norm, 4 * 16)
    personal = {"layer1": "2" * 64}
    silent = summarize_update(make_plan(program, personal_layers=personal, shared_layers={}), layer, update)
    assert (silent.norm, silent.sketch) == (norm, b"")
    plan = make_plan(program, personal_layers=personal, shared_layers={}, sketch_personal=True)
    narrow = np.frombuffer(summarize_update(plan, layer, update).sketch, dtype="<f4")
    np.testing.assert_array_equal(narrow, CountSketch(5, "layer1", 64, 8, personal=True).summarize(update))


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_what_rounding_loses_in_an_upload_is_carried_over_to_the_next(
    program: NumpyProgram, dataset: Dataset, dtype: Dtype
) -> None:
    plan = make_plan(program, training=TrainingSettings(upload_dtype=dtype))
    work = make_work(program, plan)
    outcome: RoundOutcome = run_round(program, dataset, work)
    generation, sent = None, {layer.name: np.zeros(layer.num_params) for layer in program.manifest.layers}
    num_rounds = 20
    for _ in range(num_rounds):
        generation = compose_generation(program.manifest, work, outcome, generation, 25, Traffic())
        for item in generation.upload.summary.inventory:
            layer = program.manifest.layer(item.layer)
            sent[item.layer] += decode_layer(generation.upload.blobs[item.digest], layer)
    for name, total in sent.items():
        once = np.abs(outcome.own[name]).max() / (256 if dtype == "bfloat16" else 254)
        np.testing.assert_allclose(total / num_rounds, outcome.own[name], atol=2 * once / num_rounds)


def test_an_upload_holds_the_shared_layers_alone(program: NumpyProgram, dataset: Dataset) -> None:
    names = program.manifest.layer_names
    work = make_work(program, make_plan(program, personal=names[:1]))
    generation = compose_generation(
        program.manifest, work, run_round(program, dataset, work), None, 25, Traffic(bytes_up=7, bytes_down=9)
    )
    summary = generation.upload.summary
    assert [item.layer for item in summary.inventory] == list(names[1:])
    assert set(generation.own) == set(names)
    assert (summary.bytes_up, summary.bytes_down, summary.num_examples) == (7, 9, 25)
