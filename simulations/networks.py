"""Small networks for simulations: CNNs of five layers, perceptrons, and a recurrent network for characters."""

from __future__ import annotations

import torch
from torch import nn

from export.models import initialize_uniformly

__all__ = ["CharGru", "FedAvgCnn", "ImageCnn14", "TilesCnn", "perceptron"]


class ImageCnn14(nn.Module):
    """The study's CNN for gray images of 14x14 in ten classes: three convolutions, two linear layers."""

    def __init__(self) -> None:
        """Initialize every layer uniformly, with unit gain."""
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, kernel_size=3, padding=1)
        self.conv3 = nn.Conv2d(32, 64, kernel_size=3, padding=1)
        self.fc1 = nn.Linear(576, 128)
        self.head = nn.Linear(128, 10)
        _initialize_layers(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits, shape ``(batch, 10)``."""
        x = nn.functional.max_pool2d(self.conv1(x).relu(), 2)
        x = nn.functional.max_pool2d(self.conv2(x).relu(), 2)
        return self.head(self.fc1(self.conv3(x).relu().flatten(1)).relu())


class TilesCnn(nn.Module):
    """The study's CNN for shuffled tiles: its first layer sees each 2x2 tile as a whole, and could put it in order."""

    def __init__(self) -> None:
        """Initialize every layer uniformly, with unit gain."""
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, kernel_size=2, stride=2)
        self.conv2 = nn.Conv2d(16, 32, kernel_size=3, padding=1)
        self.conv3 = nn.Conv2d(32, 64, kernel_size=3, padding=1)
        self.fc1 = nn.Linear(576, 128)
        self.head = nn.Linear(128, 10)
        _initialize_layers(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits, shape ``(batch, 10)``."""
        x = nn.functional.max_pool2d(self.conv2(self.conv1(x).relu()).relu(), 2)
        return self.head(self.fc1(self.conv3(x).relu().flatten(1)).relu())


class FedAvgCnn(nn.Module):
    """The CNN of the FedAvg paper as PFLlib has it, for gray images of 28x28: 582,026 parameters with ten classes."""

    def __init__(self, num_classes: int) -> None:
        """Initialize as torch does."""
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, kernel_size=5)
        self.conv2 = nn.Conv2d(32, 64, kernel_size=5)
        self.fc1 = nn.Linear(1024, 512)
        self.head = nn.Linear(512, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits, shape ``(batch, num_classes)``."""
        for convolution in (self.conv1, self.conv2):
            x = nn.functional.max_pool2d(convolution(x).relu(), 2)
        return self.head(self.fc1(x.flatten(1)).relu())


class CharGru(nn.Module):
    """Predicts the next character from whole numbers that arrive as float32, as all of a device's inputs do."""

    def __init__(self, num_symbols: int, width: int = 64) -> None:
        """Initialize as torch does."""
        super().__init__()
        self.embedding = nn.Embedding(num_symbols, 16)
        self.gru = nn.GRU(16, width, batch_first=True)
        self.head = nn.Linear(width, num_symbols)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits, shape ``(batch, num_symbols)``."""
        states, _ = self.gru(self.embedding(x.long()))
        return self.head(states[:, -1])


def perceptron(num_features: int, widths: tuple[int, ...], num_classes: int) -> nn.Module:
    """Return linear layers ``fc1``, ``fc2`` and so on and ``head``, with ReLU between them.

    Args:
        num_features: Length of an input.
        widths: Of the layers before the head.
        num_classes: Number of logits.

    Example:
        >>> [name for name, _ in perceptron(4, (3,), 2).named_children()]
        ['fc1', 'relu1', 'head']
    """
    module = nn.Sequential()
    for number, width in enumerate(widths, start=1):
        module.add_module(f"fc{number}", nn.Linear(num_features, width))
        module.add_module(f"relu{number}", nn.ReLU())
        num_features = width
    module.add_module("head", nn.Linear(num_features, num_classes))
    _initialize_layers(module)
    return module


def _initialize_layers(module: nn.Module) -> None:
    """Initialize every convolution and linear layer uniformly, with unit gain."""
    for layer in module.children():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            initialize_uniformly(layer)
