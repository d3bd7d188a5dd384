"""A fleet of processes on a program with state and chance: batch norm and dropout."""

from __future__ import annotations

import signal
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from export.model_folder import INITIAL_VALUES, export_program
from export.models import TrainableModel
from tests.e2e.home import NUM_CLASSES, Home

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
    from safetensors.torch import save_file  # noqa: PLC0415 - the test's own way to write initial values

    torch.manual_seed(1)
    model = with_batch_norm()
    home.program = tmp_path / "program"
    export_program(model, "with-batch-norm", home.program)
    values = {name: it for name, it in model.module.state_dict().items() if it.is_floating_point()}
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
