"""Fleets of processes on other programs: with batch norm and dropout, and of a part of a model."""

from __future__ import annotations

import signal
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.numpy import save_file
from torch import nn

from aggregator.keeping.store import FleetStore
from export.model_folder import INITIAL_VALUES, export_program
from export.models import TrainableModel, load_model
from tests.e2e.home import NUM_CLASSES, Home
from wire.manifest import decode_manifest
from wire.tensors import decode_layer, flatten_layer

NUM_ROUNDS = 4


def with_batch_norm() -> TrainableModel:
    module = nn.Sequential(
        OrderedDict(
            fc1=nn.Linear(64, 32),
            norm1=nn.BatchNorm1d(32),
            relu=nn.ReLU(),
            drop=nn.Dropout(0.2),
            head=nn.Linear(32, NUM_CLASSES),
        )
    )
    return TrainableModel(module, input_shape=(64,), num_classes=NUM_CLASSES)


@pytest.mark.slow
def test_running_statistics_stay_on_their_devices_and_the_fleet_learns(home: Home, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = with_batch_norm()
    home.program = tmp_path / "program"
    export_program(model, "with-batch-norm", home.program)
    values = {name: it.numpy() for name, it in model.module.state_dict().items() if it.is_floating_point()}
    save_file(values, home.program / INITIAL_VALUES)
    home.device("kitchen", runtime="executorch", seed=1)
    home.device("attic", seed=2)
    names = ("kitchen", "attic")
    server = home.fedlag("aggregator", "run", home.aggregator("fedavg", num_devices=2, num_rounds=NUM_ROUNDS))
    edges = [home.fedlag("edge", "run", home.folder / f"{name}.toml") for name in names]
    assert home.end(server) == 0, home.logs()
    assert [home.end(edge, signal.SIGTERM) for edge in edges] == [0, 0], home.logs()
    reports = home.reports()
    assert [report.personal_layers for report in reports] == [("norm1.statistics",)] * (NUM_ROUNDS + 1)
    first, last = reports[0].counted["attic"].before, reports[-1].counted["attic"].before
    assert last.loss < first.loss - 0.3, "the fleet learns, and predicts with the running statistics"
    assert last.accuracy > first.accuracy + 0.3


@pytest.mark.slow
def test_a_fleet_that_trains_the_head_moves_nothing_else_on_the_smaller_program(home: Home, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = load_model("digits-mlp")
    home.program = tmp_path / "program"
    export_program(model, "digits-mlp", home.program, [["head"]])
    before = {name: it.numpy() for name, it in model.module.state_dict().items()}
    save_file(before, home.program / INITIAL_VALUES)
    for name, runtime in (("kitchen", "executorch"), ("attic", "onnx")):
        path = home.device(name, runtime=runtime)
        path.write_text(f"memory_mb = 1\n{path.read_text()}")
    config = home.aggregator("fedavg", num_devices=2, num_rounds=2)
    config.write_text(config.read_text() + 'trained_layers = ["head"]\n')
    server = home.fedlag("aggregator", "run", config)
    edges = [home.fedlag("edge", "run", home.folder / f"{name}.toml") for name in ("kitchen", "attic")]
    assert home.end(server) == 0, home.logs()
    assert [home.end(edge, signal.SIGTERM) for edge in edges] == [0, 0], home.logs()
    manifest = decode_manifest((home.program / "manifest.json").read_bytes())
    store = FleetStore(home.folder / "aggregator")
    state = store.load_state()
    assert state is not None
    moved = {}
    for layer in manifest.layers:
        values = decode_layer(store.layers.load(state.layers[layer.name]), layer)
        moved[layer.name] = bool((values != flatten_layer(layer, before)).any())
    assert moved == {"fc1": False, "head": True}
