"""Residual networks with group norm: batch norm's running statistics would leak from client to client.

Every residual block is one layer at the top, so a network of nine or twenty convolutions has few layers to choose from.

Sources: He et al., arXiv:1512.03385 (the CIFAR form with 20 layers); Wu and He, arXiv:1803.08494 (group norm); Hsieh et
al., arXiv:1910.00189 (why not batch norm, where clients differ).
"""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["ConvNorm", "ResNet9", "ResNet20", "ResidualBlock"]

NUM_GROUPS = 8


class ConvNorm(nn.Module):
    """A 3x3 convolution, group norm and ReLU; halves the picture where asked to."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        """Initialize as torch does."""
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel_size=3, stride=stride, padding=1, bias=False)
        self.norm = nn.GroupNorm(NUM_GROUPS, channels_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return shape ``(batch, channels_out, height / stride, width / stride)``."""
        return self.norm(self.conv(x)).relu()


class ResidualBlock(nn.Module):
    """Two convolutions beside a path that leaves their input as it is, or fits it by a 1x1 convolution."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        """Initialize as torch does."""
        super().__init__()
        self.first = ConvNorm(channels_in, channels_out, stride)
        self.conv = nn.Conv2d(channels_out, channels_out, kernel_size=3, padding=1, bias=False)
        self.norm = nn.GroupNorm(NUM_GROUPS, channels_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Conv2d(channels_in, channels_out, kernel_size=1, stride=stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return shape ``(batch, channels_out, height / stride, width / stride)``."""
        return (self.shortcut(x) + self.norm(self.conv(self.first(x)))).relu()


class ResNet9(nn.Module):
    """Nine layers: four convolutions, two residual blocks of two, a head. About 1.6 million parameters."""

    def __init__(self, channels: int, num_classes: int) -> None:
        """Initialize as torch does."""
        super().__init__()
        self.conv1 = ConvNorm(channels, 32)
        self.conv2 = ConvNorm(32, 64, stride=2)
        self.block1 = ResidualBlock(64, 64)
        self.conv3 = ConvNorm(64, 128, stride=2)
        self.conv4 = ConvNorm(128, 256, stride=2)
        self.block2 = ResidualBlock(256, 256)
        self.head = nn.Linear(256, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits, shape ``(batch, num_classes)``."""
        x = self.block1(self.conv2(self.conv1(x)))
        x = self.block2(self.conv4(self.conv3(x)))
        return self.head(x.mean(dim=(2, 3)))


class ResNet20(nn.Module):
    """Twenty layers: a convolution, nine residual blocks of two, a head. About 270,000 parameters."""

    def __init__(self, channels: int, num_classes: int) -> None:
        """Initialize as torch does."""
        super().__init__()
        self.conv1 = ConvNorm(channels, 16)
        width = 16
        for number in range(1, 10):
            wider = 16 << (number - 1) // 3
            stride = 1 if wider == width else 2
            self.add_module(f"block{number}", ResidualBlock(width, wider, stride))
            width = wider
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits, shape ``(batch, num_classes)``."""
        for name, layer in self.named_children():
            x = layer(x.mean(dim=(2, 3)) if name == "head" else x)
        return x
