"""The models that are exported and held against autograd on both runtimes; docs/export.md lists them from here."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from export.models import TrainableModel, load_model
from export.packed_inputs import PackedInputs

Operators = dict[str, Callable[[], nn.Module]]


@dataclass(frozen=True)
class Case:
    """A model, and what it stands for.

    Args:
        about: For the table in docs/export.md.
        build: Draws its values from torch's global generator.
        operators: Of ``Branches``, each of which the report must cover.
    """

    about: str
    build: Callable[[], TrainableModel]
    operators: tuple[str, ...] = ()


class Scale(nn.Module):
    """Multiplies each input by its own factor, whose gradient shows what came back from the operator behind it."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.factor = nn.Parameter(1 + 0.1 * torch.randn(shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor


class Branches(nn.Module):
    """Sums the logits of several operators, each between two layers of its own."""

    def __init__(self, input_shape: tuple[int, ...], operators: Operators) -> None:
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


class States(nn.Module):
    """What a recurrent layer gives for every time step, without its last state."""

    def __init__(self, recurrent: nn.Module) -> None:
        super().__init__()
        self.recurrent = recurrent

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.recurrent(x)[0]
        return states


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.fc1 = nn.Linear(8, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x + self.attention(x, x, x, need_weights=False)[0])
        logits: torch.Tensor = self.head(functional.gelu(self.fc1(x)).mean(1))
        return logits


class Residual(nn.Module):
    """A block of a residual network; the shortcut has a convolution where the size changes."""

    def __init__(self, channels: int, width: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False)
        self.norm1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = norm(width)
        self.shortcut = nn.Conv2d(channels, width, 1, stride=2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))
        joined: torch.Tensor = y + self.shortcut(x)
        return joined.relu()


def residual(norm: Callable[[int], nn.Module]) -> TrainableModel:
    blocks = OrderedDict(
        stem=nn.Conv2d(2, 4, 3, padding=1),
        block1=Residual(4, 6, norm),
        pool=nn.AdaptiveAvgPool2d(1),
        flat=nn.Flatten(),
        head=nn.Linear(6, 5),
    )
    return TrainableModel(nn.Sequential(blocks), input_shape=(2, 8, 8), num_classes=5)


def separable() -> TrainableModel:
    module = nn.Sequential(
        OrderedDict(
            depthwise=nn.Conv2d(3, 6, 3, stride=2, padding=1, groups=3, bias=False),
            norm1=nn.BatchNorm2d(6),
            relu1=nn.ReLU6(),
            pointwise=nn.Conv2d(6, 8, 1, bias=False),
            norm2=nn.BatchNorm2d(8, momentum=0.3),
            act2=nn.Hardswish(),
            drop=nn.Dropout2d(0.2),
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            head=nn.Linear(8, 4),
        )
    )
    return TrainableModel(module, input_shape=(3, 8, 8), num_classes=4, loss="binary-cross-entropy")


class Language(nn.Module):
    """A small transformer whose head is its embedding, predicting every next token."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.position = nn.Parameter(0.1 * torch.randn(6, 8))
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True, norm_first=True)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("future", torch.triu(torch.full((6, 6), -1e9), 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.block(self.embedding(x.long()) + self.position, src_mask=self.future)
        logits: torch.Tensor = self.head(hidden)
        return logits


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(13, 8)
        self.drop = nn.Dropout(0.4)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.drop(self.embedding(x.long()).mean(1)))
        return logits


class Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.decoder = nn.ConvTranspose2d(4, 1, 3, stride=2, padding=1, output_padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        decoded: torch.Tensor = self.decoder(functional.elu(self.encoder(x)))
        return decoded.flatten(1)


class Fusion(nn.Module):
    """Two inputs: a row of samples, and a few numbers beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 4, 3)
        self.norm = nn.BatchNorm1d(3)
        self.head = nn.Linear(4 * 6 + 3, 2)

    def forward(self, samples: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.head(torch.cat([self.conv(samples).relu().flatten(1), self.norm(numbers)], 1))
        return outputs


def fusion() -> TrainableModel:
    module = PackedInputs(Fusion(), [(2, 8), (3,)])
    return TrainableModel(module, input_shape=(module.width,), num_classes=2, loss="huber")


SPATIAL: Operators = {
    "Conv2d": lambda: nn.Conv2d(4, 6, (1, 2)),
    "Conv2d, strided": lambda: nn.Conv2d(4, 6, (3, 2), stride=(2, 3), padding=1),
    "Conv2d, grouped": lambda: nn.Conv2d(4, 6, (2, 1), groups=2, bias=False),
    "Conv2d, depthwise and dilated": lambda: nn.Conv2d(4, 4, (2, 2), groups=4, dilation=2, padding=1),
    "Conv2d, padded beyond its kernel": lambda: nn.Conv2d(4, 2, 1, padding=1),
    "ConvTranspose2d": lambda: nn.ConvTranspose2d(4, 2, (2, 3)),
    "ConvTranspose2d, strided, grouped and dilated": lambda: nn.ConvTranspose2d(
        4, 6, 2, stride=(2, 1), padding=1, output_padding=(1, 0), groups=2, dilation=(1, 2), bias=False
    ),
    "MaxPool2d": lambda: nn.MaxPool2d((2, 3)),
    "MaxPool2d, overlapping and padded": lambda: nn.MaxPool2d(3, stride=2, padding=1),
    "AvgPool2d": lambda: nn.AvgPool2d(2),
    "AvgPool2d, overlapping and padded": lambda: nn.AvgPool2d((3, 2), stride=(2, 1), padding=1),
    "AdaptiveAvgPool2d, equal windows": lambda: nn.AdaptiveAvgPool2d((4, 1)),
    "AdaptiveAvgPool2d, unequal windows": lambda: nn.AdaptiveAvgPool2d((3, 5)),
    "Upsample, nearest": lambda: nn.Upsample(scale_factor=2),
    "GroupNorm": lambda: nn.GroupNorm(2, 4),
    "InstanceNorm2d": lambda: nn.InstanceNorm2d(4, affine=True),
}

SEQUENCES: Operators = {
    "Conv1d, strided": lambda: nn.Conv1d(3, 4, 2, stride=2),
    "ConvTranspose1d": lambda: nn.ConvTranspose1d(3, 2, 2, stride=2),
    "MaxPool1d": lambda: nn.MaxPool1d(2),
    "AvgPool1d": lambda: nn.AvgPool1d(2),
    "GRU": lambda: States(nn.GRU(4, 3, batch_first=True)),
    "LSTM": lambda: States(nn.LSTM(4, 3, batch_first=True)),
    "RNN": lambda: States(nn.RNN(4, 3, batch_first=True)),
}

ACTIVATIONS: Operators = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "prelu": nn.PReLU,
    "gelu": nn.GELU,
    "sigmoid": nn.Sigmoid,
    "hardsigmoid": nn.Hardsigmoid,
    "tanh": nn.Tanh,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "softplus": nn.Softplus,
    "hardswish": nn.Hardswish,
    "softmax": lambda: nn.Softmax(-1),
    "LayerNorm": lambda: nn.LayerNorm(6),
    "RMSNorm": lambda: nn.RMSNorm(6),
}


def branches(operators: Operators, *shape: int) -> Case:
    names = " · ".join(f"`{name}`" for name in operators)
    return Case(names, lambda: TrainableModel(Branches(shape, _keyed(operators)), shape, 5), tuple(operators))


def _keyed(operators: Operators) -> Operators:
    """Return them under names that a module can have."""
    return {branch(name): operator for name, operator in operators.items()}


def branch(operator: str) -> str:
    return operator.replace(" ", "_")


CASES: dict[str, Case] = {
    "watch-cnn": Case("a 1-D convolutional network", lambda: load_model("watch-cnn")),
    "residual, GroupNorm": Case("a residual network with GroupNorm", lambda: residual(lambda n: nn.GroupNorm(2, n))),
    "residual, BatchNorm": Case("a residual network with BatchNorm", lambda: residual(nn.BatchNorm2d)),
    "separable": Case("depthwise-separable convolutions with BatchNorm and Dropout2d, as MobileNet", separable),
    "attention": Case(
        "MultiheadAttention with LayerNorm",
        lambda: TrainableModel(Attention(), input_shape=(6, 8), num_classes=5),
    ),
    "language": Case(
        "a transformer encoder with dropout, its embedding tied to its head, a loss for every position",
        lambda: TrainableModel(Language(), (6,), 11, positions=(6,), num_tokens=11),
    ),
    "words": Case(
        "an embedding, averaged over the sequence, with Dropout",
        lambda: TrainableModel(Words(), (6,), 5, num_tokens=13),
    ),
    "autoencoder": Case(
        "a convolutional autoencoder", lambda: TrainableModel(Autoencoder(), (1, 8, 8), 64, loss="mse")
    ),
    "fusion": Case("two inputs, two values, BatchNorm1d", fusion),
    "spatial": branches(SPATIAL, 4, 8, 7),
    "sequences": branches(SEQUENCES, 3, 4),
    "activations": branches(ACTIVATIONS, 6),
}
