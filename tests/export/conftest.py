from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edge_client.executorch_program import load_executorch_program
from edge_client.executorch_torch import torch_loader
from edge_client.onnx_program import load_onnx_program
from edge_client.program import TrainingProgram
from export.model_folder import ExportReport, export_program
from export.models import TrainableModel, load_model
from tests.edge_client.native.compiled import load_natively

torch.set_num_threads(1)

SPATIAL_OPERATORS: dict[str, Callable[[], nn.Module]] = {
    "conv2d": lambda: nn.Conv2d(4, 6, (1, 2)),
    "conv2d_strided": lambda: nn.Conv2d(4, 6, (3, 2), stride=(2, 3), padding=1),
    "conv2d_grouped": lambda: nn.Conv2d(4, 6, (2, 1), groups=2, bias=False),
    "conv2d_depthwise_dilated": lambda: nn.Conv2d(4, 4, (2, 2), groups=4, dilation=2, padding=1),
    "conv2d_padded_beyond_its_kernel": lambda: nn.Conv2d(4, 2, 1, padding=1),
    "max_pool": lambda: nn.MaxPool2d((2, 3)),
    "max_pool_overlapping_and_padded": lambda: nn.MaxPool2d(3, stride=2, padding=1),
    "average_pool": lambda: nn.AvgPool2d(2),
    "average_pool_overlapping_and_padded": lambda: nn.AvgPool2d((3, 2), stride=(2, 1), padding=1),
    "adaptive_average_pool": lambda: nn.AdaptiveAvgPool2d((4, 1)),
    "group_norm": lambda: nn.GroupNorm(2, 4),
    "instance_norm": lambda: nn.InstanceNorm2d(4, affine=True),
}

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "silu": nn.SiLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "hardswish": nn.Hardswish,
    "softmax": lambda: nn.Softmax(-1),
    "layer_norm": lambda: nn.LayerNorm(6),
}


class Scale(nn.Module):
    """Multiplies each input by its own factor, whose gradient shows what came back from the operator behind it."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.factor = nn.Parameter(1 + 0.1 * torch.randn(shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor


class Branches(nn.Module):
    """Sums the logits of several operators, each between two layers of its own."""

    def __init__(self, input_shape: tuple[int, ...], operators: dict[str, Callable[[], nn.Module]]) -> None:
        super().__init__()
        self.branches = nn.ModuleDict(
            {
                name: nn.Sequential(
                    OrderedDict(
                        before=Scale(input_shape), operator=operator(), flat=nn.Flatten(), head=nn.LazyLinear(5)
                    )
                )
                for name, operator in operators.items()
            }
        )
        self(torch.zeros(1, *input_shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([branch(x) for branch in self.branches.values()]).sum(0)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.fc1 = nn.Linear(8, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x + self.attention(x, x, x, need_weights=False)[0])
        logits: torch.Tensor = self.head(nn.functional.gelu(self.fc1(x)).mean(1))
        return logits


def spatial_model() -> TrainableModel:
    return TrainableModel(Branches((4, 8, 7), SPATIAL_OPERATORS), input_shape=(4, 8, 7), num_classes=5)


def activation_model() -> TrainableModel:
    return TrainableModel(Branches((6,), ACTIVATIONS), input_shape=(6,), num_classes=5)


def attention_model() -> TrainableModel:
    return TrainableModel(Attention(), input_shape=(6, 8), num_classes=5)


MODELS: dict[str, Callable[[], TrainableModel]] = {
    "watch-cnn": lambda: load_model("watch-cnn"),
    "spatial": spatial_model,
    "activations": activation_model,
    "attention": attention_model,
}


@dataclass(frozen=True)
class Exported:
    model: TrainableModel
    report: ExportReport
    folder: Path

    def load(self, runtime: str) -> TrainingProgram:
        """Load it in ``onnx``, ``executorch`` (without torch) or ``executorch-torch``."""
        if runtime == "onnx":
            return load_onnx_program(self.folder, self.report.manifest)
        load = torch_loader() if runtime == "executorch-torch" else load_natively()
        return load_executorch_program(self.folder, self.report.manifest, load)

    def params(self) -> dict[str, np.ndarray]:
        return {name: values.detach().numpy().copy() for name, values in self.model.module.named_parameters()}


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """Exports each model once."""

    @cache
    def export(name: str) -> Exported:
        torch.manual_seed(1)
        model = MODELS[name]()
        folder = tmp_path_factory.mktemp("exported") / name
        return Exported(model, export_program(model, name, folder), folder)

    return export
