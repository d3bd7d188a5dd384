"""What a program is held against: batches with every class among their targets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edge_client.program import Params, TrainStep
from export.model_check import check_model
from export.models import TrainableModel
from export.verify import Batch, run_autograd, verify_program
from wire.manifest import ModelManifest


class Eager:
    """torch itself as a program; it notes the targets that it was given."""

    runtime = "torch"

    def __init__(self, num_classes: int) -> None:
        torch.manual_seed(0)
        self.checked = check_model(TrainableModel(nn.Sequential(nn.Linear(3, num_classes)), (3,), num_classes))
        self.manifest = ModelManifest("eager", self.checked.layers, (3,), num_classes, {})
        self.seen: set[int] = set()

    def train_step(self, params: Params, inputs: np.ndarray, targets: np.ndarray, masks: object = ()) -> TrainStep:  # noqa: ARG002 - it has no dropout
        self.seen |= set(targets.tolist())
        return run_autograd(self.checked, params, Batch(inputs, targets, ()))

    def predict(self, params: Params, inputs: np.ndarray) -> np.ndarray:
        logits: np.ndarray = inputs @ params["0.weight"].T + params["0.bias"]
        return logits


@pytest.mark.parametrize("num_classes", [2, 10, 64, 65, 150, 151, 400])
def test_every_class_is_among_the_targets(num_classes: int) -> None:
    program = Eager(num_classes)
    verify_program(program.checked, program)
    assert program.seen == set(range(num_classes))
