"""The models that can be exported by name: a few of our own, and any ``package.module:factory``.

A factory takes no arguments and returns a ``TrainableModel``. It draws its initial values from torch's global generator,
which the caller seeds.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from wire.errors import ExportError
from wire.manifest import Loss

__all__ = [
    "ImageCnn",
    "TrainableModel",
    "WatchCnn",
    "built_in_models",
    "digits_mlp",
    "image_cnn",
    "initialize_uniformly",
    "load_model",
    "watch_cnn",
]


@dataclass(frozen=True)
class TrainableModel:
    """A torch model and what training it needs to know.

    Args:
        module: Takes float32 inputs of shape ``(batch, *input_shape)`` and gives logits of shape ``(batch, *output_shape)``.
        input_shape: One example's shape, without the batch.
        num_classes: The size of the logits' last dimension: at least 2 classes, or any number of labels or values.
        loss: What it is trained for, the mean over everything: ``cross-entropy`` with classes as targets;
            ``binary-cross-entropy`` with labels in ``[0, 1]``, ``mse`` or ``huber`` with values, in the shape of the logits.
        positions: The logits' dimensions between the batch and the last: one prediction for each, as in a sequence.
        num_tokens: Inputs are whole numbers in ``[0, num_tokens)``, as an embedding takes them after ``x.long()``; None: any.

    Example:
        >>> from torch import nn
        >>> TrainableModel(nn.Linear(4, 3), input_shape=(4,), num_classes=3).output_shape
        (3,)
    """

    module: nn.Module
    input_shape: tuple[int, ...]
    num_classes: int
    loss: Loss = "cross-entropy"
    positions: tuple[int, ...] = ()
    num_tokens: int | None = None

    @property
    def output_shape(self) -> tuple[int, ...]:
        """One example's logits, without the batch."""
        return (*self.positions, self.num_classes)

    def draw_inputs(self, batch: int, generator: torch.Generator) -> torch.Tensor:
        """Return inputs that the model could meet: standard normal, or tokens."""
        shape = (batch, *self.input_shape)
        if self.num_tokens is None:
            return torch.randn(shape, generator=generator)
        return torch.randint(self.num_tokens, shape, generator=generator).float()

    def draw_targets(self, batch: int, generator: torch.Generator, first: int = 0) -> torch.Tensor:
        """Return targets that the model could meet; classes in turn, from this one on."""
        if self.loss == "cross-entropy":
            shape = (batch, *self.positions)
            return ((first + torch.arange(math.prod(shape))) % self.num_classes).reshape(shape)
        if self.loss == "binary-cross-entropy":
            return torch.rand((batch, *self.output_shape), generator=generator)
        return torch.randn((batch, *self.output_shape), generator=generator)


class WatchCnn(nn.Module):
    """Three 1-D convolutions over two seconds of six motion signals at 50 Hz."""

    def __init__(self) -> None:
        """Initialize every layer uniformly, with unit gain."""
        super().__init__()
        self.conv1 = nn.Conv1d(6, 16, kernel_size=5, padding=2)
        self.conv2 = nn.Conv1d(16, 32, kernel_size=5, padding=2)
        self.conv3 = nn.Conv1d(32, 32, kernel_size=5, padding=2)
        self.fc1 = nn.Linear(384, 64)
        self.head = nn.Linear(64, 7)
        for layer in (self.conv1, self.conv2, self.conv3, self.fc1, self.head):
            initialize_uniformly(layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits, shape ``(batch, 7)``."""
        for convolution in (self.conv1, self.conv2, self.conv3):
            x = nn.functional.max_pool1d(convolution(x).relu(), 2)
        return self.head(self.fc1(x.flatten(1)).relu())


class ImageCnn(nn.Module):
    """Two 2-D convolutions with group norm over small gray images."""

    def __init__(self) -> None:
        """Initialize as torch does."""
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, kernel_size=3, padding=1)
        self.norm1 = nn.GroupNorm(4, 16)
        self.conv2 = nn.Conv2d(16, 32, kernel_size=3, padding=1)
        self.norm2 = nn.GroupNorm(8, 32)
        self.fc1 = nn.Linear(32 * 7 * 7, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits, shape ``(batch, 10)``."""
        for convolution, norm in ((self.conv1, self.norm1), (self.conv2, self.norm2)):
            x = nn.functional.max_pool2d(norm(convolution(x)).relu(), 2)
        return self.head(self.fc1(x.flatten(1)).relu())


def watch_cnn() -> TrainableModel:
    """Return the model for motion of a wrist: six signals, 100 samples, seven activities."""
    return TrainableModel(WatchCnn(), input_shape=(6, 100), num_classes=7)


def digits_mlp() -> TrainableModel:
    """Return a small perceptron for the 8x8 digits."""
    module = nn.Sequential()
    module.add_module("fc1", nn.Linear(64, 32))
    module.add_module("relu", nn.ReLU())
    module.add_module("head", nn.Linear(32, 10))
    return TrainableModel(module, input_shape=(64,), num_classes=10)


def image_cnn() -> TrainableModel:
    """Return the model for 28x28 gray images in ten classes."""
    return TrainableModel(ImageCnn(), input_shape=(1, 28, 28), num_classes=10)


BUILT_IN: dict[str, Callable[[], TrainableModel]] = {
    "digits-mlp": digits_mlp,
    "image-cnn": image_cnn,
    "watch-cnn": watch_cnn,
}


def built_in_models() -> tuple[str, ...]:
    """Return the names of the models that come with FedLAG Edge, sorted."""
    return tuple(sorted(BUILT_IN))


def load_model(name: str) -> TrainableModel:
    """Return a new model, its values drawn from torch's global generator.

    Args:
        name: A built-in name, or ``package.module:factory`` of your own; the module must be importable.

    Raises:
        ExportError: If there is no such model, or its factory does not return a ``TrainableModel``.

    Example:
        >>> load_model("digits-mlp").num_classes
        10
    """
    factory = BUILT_IN.get(name) or _import_factory(name)
    try:
        model = factory()
    except Exception as error:
        raise ExportError(f"{name} cannot be called without arguments: {type(error).__name__}: {error}") from error
    if not isinstance(model, TrainableModel):
        raise ExportError(f"{name} returned a {type(model).__name__}; return an export.models.TrainableModel")
    return model


def _import_factory(name: str) -> Callable[[], object]:
    """Return the factory that ``package.module:factory`` names."""
    module_name, separator, factory_name = name.partition(":")
    if not separator or not module_name or not factory_name:
        known = ", ".join(built_in_models())
        raise ExportError(f"no model is named {name!r}; take one of {known}, or your own package.module:factory")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ExportError(
            f"cannot import {module_name!r}: {error}; install it, or run where it can be imported"
        ) from error
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        raise ExportError(f"{module_name!r} has no function {factory_name!r}; define it to return a TrainableModel")
    return factory


def initialize_uniformly(layer: nn.Conv1d | nn.Conv2d | nn.Linear) -> None:
    """Draw weights from +-sqrt(3 / fan_in), which keeps the variance of unit inputs, and set biases to zero."""
    fan_in = layer.weight[0].numel()
    bound = math.sqrt(3 / fan_in)
    nn.init.uniform_(layer.weight, -bound, bound)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
