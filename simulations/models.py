"""The models of the simulations by name, beside those that ``export.models`` knows.

Every module at the top is a layer: something that can be personal. Names run from ``conv1`` to ``head``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from export.models import TrainableModel, load_model
from simulations.networks import CharGru, FedAvgCnn, ImageCnn14, TilesCnn, perceptron
from simulations.resnets import ResNet9, ResNet20

__all__ = ["load_simulation_model", "simulation_models"]


def _images(build: Callable[[int, int], nn.Module], channels: int, side: int, num_classes: int) -> TrainableModel:
    return TrainableModel(build(channels, num_classes), (channels, side, side), num_classes)


def _perceptron(num_features: int, widths: tuple[int, ...], num_classes: int) -> TrainableModel:
    return TrainableModel(perceptron(num_features, widths, num_classes), (num_features,), num_classes)


def _char_gru() -> TrainableModel:
    return TrainableModel(CharGru(77), (20,), 77)


MODELS: dict[str, Callable[[], TrainableModel]] = {
    "fashion14-cnn": lambda: TrainableModel(ImageCnn14(), (1, 14, 14), 10),
    "tiles-cnn": lambda: TrainableModel(TilesCnn(), (1, 14, 14), 10),
    "fashion28-cnn": lambda: TrainableModel(FedAvgCnn(10), (1, 28, 28), 10),
    "emnist-cnn": lambda: TrainableModel(FedAvgCnn(62), (1, 28, 28), 62),
    "letter-mlp": partial(_perceptron, 16, (128, 64), 26),
    "satellite-mlp": partial(_perceptron, 36, (64, 32), 6),
    "char-gru": _char_gru,
    "resnet9-gn": partial(_images, ResNet9, 3, 32, 10),
    "resnet9-gn-cifar100": partial(_images, ResNet9, 3, 32, 100),
    "resnet9-gn-gray": partial(_images, ResNet9, 1, 28, 10),
    "resnet9-gn-tiny": partial(_images, ResNet9, 3, 64, 200),
    "resnet20-gn": partial(_images, ResNet20, 3, 32, 10),
    "resnet20-gn-cifar100": partial(_images, ResNet20, 3, 32, 100),
    "resnet20-gn-14": partial(_images, ResNet20, 1, 14, 10),
    "resnet20-gn-gray": partial(_images, ResNet20, 1, 28, 10),
}


def simulation_models() -> tuple[str, ...]:
    """Return the names of the simulations' own models, sorted."""
    return tuple(sorted(MODELS))


def load_simulation_model(name: str) -> TrainableModel:
    """Return a new model, its values drawn from torch's global generator.

    Args:
        name: One of ``simulation_models``, or any name that ``export.models.load_model`` knows.

    Raises:
        ExportError: If there is no such model.

    Example:
        >>> sum(p.numel() for p in load_simulation_model("fashion28-cnn").module.parameters())
        582026
    """
    factory = MODELS.get(name)
    return factory() if factory else load_model(name)
