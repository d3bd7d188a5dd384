"""A device's whole round with batch norm and dropout, held against a torch loop over the same batches and masks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from edge_client.dataset import Dataset, Split
from edge_client.masks import draw_masks
from edge_client.training import RoundWork, run_round
from export.stateful import PureFunctions, masked_dropouts
from export.verify import draw_batch
from wire.messages import RoundPlan, TrainingSettings
from wire.random import key_from_label, random_permutation
from wire.tensors import flatten_layer

if TYPE_CHECKING:
    from tests.export.conftest import Exported

SETTINGS = TrainingSettings(num_epochs=2, batch_size=7, learning_rate=0.05, momentum=0.9, max_gradient_norm=1e6)


def draw_split(exported: Exported, size: int, seed: int) -> Split:
    return Split(*draw_batch(exported.checked, size, torch.Generator().manual_seed(seed))[:2])


def train_in_torch(exported: Exported, data: Split) -> torch.nn.Module:
    """Two epochs of SGD with momentum, as torch's users write them."""
    module, manifest = copy.deepcopy(exported.model.module), exported.report.manifest
    optimizer = torch.optim.SGD(module.parameters(), SETTINGS.learning_rate, SETTINGS.momentum)
    for epoch in range(SETTINGS.num_epochs):
        label = f"batches/{SETTINGS.seed}/attic/0/1/{epoch}"
        order = random_permutation(key_from_label(label), len(data.targets))
        for start in range(0, len(order), SETTINGS.batch_size):
            batch = order[start : start + SETTINGS.batch_size]
            masks = draw_masks(manifest, f"{label}/{start}", len(batch))
            with masked_dropouts(PureFunctions({}, [torch.from_numpy(mask) for mask in masks])):
                logits = module(torch.from_numpy(data.inputs[batch]))
            targets = torch.from_numpy(data.targets[batch])
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
    return module


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnx", "executorch"])
def test_a_round_trains_batch_norm_and_dropout_as_torch_does(exported: Callable[[str], Exported], runtime: str) -> None:
    model = exported("separable")
    manifest, params = model.report.manifest, model.params()
    installed = {layer.name: flatten_layer(layer, params) for layer in manifest.layers}
    personal = dict.fromkeys(manifest.statistics_layers, "0" * 64)
    plan = RoundPlan(
        fleet="home",
        epoch=0,
        round_number=1,
        model_id="0" * 64,
        shared_layers={name: "0" * 64 for name in manifest.layer_names if name not in personal},
        personal_layers=personal,
        training=SETTINGS,
        sketch_seed=0,
        sketch_width=16,
        duration_s=60,
    )
    data = Dataset(draw_split(model, 30, 0), draw_split(model, 9, 1), None)
    outcome = run_round(model.load(runtime), data, RoundWork(plan, "attic", installed, None))
    trained = train_in_torch(model, data.train)
    held = {name: values.detach().numpy() for name, values in trained.state_dict().items()}
    for layer in manifest.layers:
        expected = flatten_layer(layer, held)
        scale = max(float(np.abs(expected).max()), 1e-2)
        assert np.abs(outcome.own[layer.name] - expected).max() / scale < 1e-4, layer.name
        assert np.abs(outcome.own[layer.name] - installed[layer.name]).max() > 0, f"{layer.name} moved"
    assert all(not outcome.layers[name].sketch for name in personal), "statistics stay on the device"
    with torch.no_grad():
        logits = trained.eval()(torch.from_numpy(data.validation.inputs))
    targets = torch.from_numpy(data.validation.targets)
    expected_loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets).item()
    assert outcome.after.loss == pytest.approx(expected_loss, rel=1e-4)
