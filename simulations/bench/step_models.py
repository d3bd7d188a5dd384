"""The models whose training step is timed: one of each kind that people train on devices."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import nn

from export.models import TrainableModel, watch_cnn

__all__ = ["STEP_MODELS"]


class _Sequence(nn.Module):
    """A GRU over twelve readings of eight sensors, and a linear layer on its last state."""

    def __init__(self) -> None:
        """Initialize as torch does."""
        super().__init__()
        self.gru = nn.GRU(8, 32, batch_first=True)
        self.head = nn.Linear(32, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits, shape ``(batch, 6)``."""
        logits: torch.Tensor = self.head(self.gru(x)[0][:, -1])
        return logits


class _Transformer(nn.Module):
    """One block of attention over sixteen patches of 32 values."""

    def __init__(self) -> None:
        """Initialize as torch does."""
        super().__init__()
        self.place = nn.Parameter(0.02 * torch.randn(16, 64))
        self.patch = nn.Linear(32, 64)
        self.block = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True, norm_first=True)
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits, shape ``(batch, 10)``."""
        logits: torch.Tensor = self.head(self.block(self.patch(x) + self.place).mean(1))
        return logits


def _color_cnn() -> TrainableModel:
    """Return two 5x5 convolutions and two linear layers over 32x32 colors."""
    module = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(3, 16, 5),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(16, 32, 5),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flat=nn.Flatten(),
            fc1=nn.Linear(800, 128),
            relu3=nn.ReLU(),
            head=nn.Linear(128, 10),
        )
    )
    return TrainableModel(module, input_shape=(3, 32, 32), num_classes=10)


def _perceptron() -> TrainableModel:
    """Return three linear layers."""
    module = nn.Sequential(
        OrderedDict(
            fc1=nn.Linear(561, 128), relu1=nn.ReLU(), fc2=nn.Linear(128, 64), relu2=nn.ReLU(), head=nn.Linear(64, 6)
        )
    )
    return TrainableModel(module, input_shape=(561,), num_classes=6)


STEP_MODELS: dict[str, Callable[[], TrainableModel]] = {
    "watch-cnn": watch_cnn,
    "color-cnn": _color_cnn,
    "perceptron": _perceptron,
    "transformer": lambda: TrainableModel(_Transformer(), input_shape=(16, 32), num_classes=10),
    "gru": lambda: TrainableModel(_Sequence(), input_shape=(12, 8), num_classes=6),
}
"""Their names, and how they are built; values come from torch's global generator."""
