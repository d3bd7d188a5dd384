"""A simulated client sees the batches that a device of its name sees, and steps as the device does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edge_client.dataset import Dataset, Split
from edge_client.training import RoundWork, run_round
from simulations.engines.batches import gather_batches, num_steps
from simulations.engines.model import SimulatedModel, install, layer_rows
from simulations.engines.planner import CPU_ENGINES, make_engine
from simulations.engines.population import gather_population
from simulations.loopback.numpy_program import NumpyProgram, initial_values, perceptron_manifest
from simulations.rounds.method import step_rule
from tests.simulations.engines.cases import make_case, tanh_perceptron
from wire.messages import RoundPlan, TrainingSettings
from wire.random import key_from_label, random_permutation


@given(
    counts=st.lists(st.integers(1, 20), min_size=1, max_size=6),
    batch_size=st.integers(1, 7),
    num_epochs=st.integers(1, 3),
)
def test_every_epoch_shows_a_client_each_of_its_examples_once_in_a_devices_order(
    counts: list[int], batch_size: int, num_epochs: int
) -> None:
    counts.sort(key=lambda count: -(-count // batch_size), reverse=True)
    numbers = np.arange(sum(counts), dtype=np.float32).reshape(-1, 1)
    ends = np.cumsum(counts)
    splits = [
        Split(numbers[end - count : end], np.zeros(count, dtype=np.int64))
        for count, end in zip(counts, ends, strict=True)
    ]
    clients = {f"client-{index}": Dataset(split, split, None) for index, split in enumerate(splits)}
    labels = [[f"{name}/{epoch}" for name in clients] for epoch in range(num_epochs)]
    batches = gather_batches(gather_population(clients).train, range(len(counts)), labels, batch_size)
    steps = num_steps(np.array(counts), batch_size)
    assert len(batches.active) == num_epochs * steps[0]
    for client, (count, end) in enumerate(zip(counts, ends, strict=True)):
        for epoch in range(num_epochs):
            of_epoch = slice(epoch * int(steps[0]), (epoch + 1) * int(steps[0]))
            order = random_permutation(key_from_label(labels[epoch][client]), count)
            seen = torch.cat([batches.of_client(client, step)[0] for step in range(len(batches.active))[of_epoch]])
            assert np.array_equal(seen.flatten().numpy(), (order + end - count).astype(np.float32))
            sums = batches.weights[of_epoch, client].sum(1)
            assert torch.allclose(sums[: steps[client]], torch.ones(int(steps[client])))
            assert batches.active[of_epoch] == tuple(int((steps > step).sum()) for step in range(int(steps[0])))


def test_without_labels_the_examples_come_as_they_lie() -> None:
    case = make_case("tanh", (7, 3))
    batches = gather_batches(case.population.train, [0, 1], [["", ""], ["", ""]], batch_size=4)
    begins = [0, 7]
    for client, count in enumerate((7, 3)):
        seen = torch.cat([batches.of_client(client, step)[0] for step in range(4)])
        examples = case.population.train.inputs[begins[client] : begins[client] + count]
        assert torch.equal(seen, torch.cat([examples, examples]))


def test_clients_with_fewer_steps_first_are_refused() -> None:
    case = make_case("tanh", (3, 12))
    with pytest.raises(ValueError, match="more steps must come first"):
        case.batches()


def test_a_client_without_examples_is_refused() -> None:
    case = make_case("tanh", (3, 0))
    with pytest.raises(ValueError, match="each must have an example"):
        case.batches()


@pytest.mark.parametrize("engine", CPU_ENGINES)
@pytest.mark.parametrize(
    "training",
    [
        TrainingSettings(learning_rate=0.1, momentum=0.9, num_epochs=3, batch_size=4),
        TrainingSettings(learning_rate=0.2, momentum=0.0, max_gradient_norm=1e9, batch_size=7),
        TrainingSettings(learning_rate=0.5, momentum=0.5, max_gradient_norm=0.3, batch_size=5),
        TrainingSettings(learning_rate=0.1, nesterov=True, weight_decay=0.1, proximal=0.5, num_epochs=2, batch_size=5),
        TrainingSettings(learning_rate=0.01, optimizer="adamw", weight_decay=0.1, num_epochs=2, batch_size=4),
        TrainingSettings(learning_rate=0.01, optimizer="adam", momentum=0.5, weight_decay=0.1, batch_size=4),
    ],
    ids=["momentum", "plain", "clipped", "nesterov", "adamw", "adam"],
)
def test_a_round_is_that_of_a_device_with_its_own_optimizer_and_program(
    engine: str, training: TrainingSettings
) -> None:
    sizes, num_examples = [6, 8, 5, 4], 18
    manifest, rng = perceptron_manifest(sizes), np.random.default_rng(2)
    split = Split(rng.normal(size=(num_examples, 6)).astype(np.float32), rng.integers(4, size=num_examples))
    start = initial_values(manifest, rng)
    digests = dict.fromkeys(start, "0" * 64)
    plan = RoundPlan(
        fleet="home", epoch=0, round_number=3, model_id="0" * 64, shared_layers=digests, personal_layers={},
        training=training, sketch_seed=0, sketch_width=8, duration_s=60.0,
    )  # fmt: skip
    data = Dataset(split, split, None)
    device = run_round(NumpyProgram(manifest), data, RoundWork(plan, "kitchen", start, None))

    model = SimulatedModel(tanh_perceptron(sizes), manifest.layers, (6,), 4)
    labels = [[f"batches/{training.seed}/kitchen/0/3/{epoch}"] for epoch in range(training.num_epochs)]
    batches = gather_batches(gather_population({"kitchen": data}).train, [0], labels, training.batch_size)
    params = install(model, {name: torch.from_numpy(values) for name, values in start.items()}, 1)
    trained, losses = make_engine(engine, model).train(params, batches, step_rule(training), params)

    for layer in manifest.layers:
        np.testing.assert_allclose(layer_rows(layer, trained)[0].numpy(), device.own[layer.name], atol=2e-6)
    assert float(losses[0]) == pytest.approx(device.train_loss, abs=1e-5)
    assert len(batches.active) == device.num_steps
