"""Models with several inputs: one array holds them side by side, and is taken apart inside the program."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import nn

from wire.errors import ExportError

__all__ = ["PackedInputs"]


class PackedInputs(nn.Module):
    """Hands the parts of one input to a module that takes several.

    A device's data and a program have one input, float32. An example's parts are flattened and joined in order,
    ``np.concatenate([images.reshape(n, -1), sensors], axis=1)``, so that ``input_shape`` is ``(width,)``.

    Args:
        model: Takes one float32 tensor for each shape; one that takes tokens calls ``.long()`` on them.
        shapes: Of one example's parts, without the batch.

    Raises:
        ExportError: If there are no shapes.

    Example:
        >>> class Sum(nn.Module):
        ...     def forward(self, image, sensors):
        ...         return image.sum((1, 2)) + sensors.sum(1)
        >>> packed = PackedInputs(Sum(), [(2, 3), (4,)])
        >>> packed.width, packed(torch.ones(5, packed.width)).tolist()
        (10, [10.0, 10.0, 10.0, 10.0, 10.0])
    """

    def __init__(self, model: nn.Module, shapes: Sequence[tuple[int, ...]]) -> None:
        """Remember where each part ends."""
        super().__init__()
        if not shapes:
            raise ExportError("a model with packed inputs needs the shape of each of them")
        self.model = model
        self._shapes = list(shapes)
        self._ends = list(itertools.accumulate(math.prod(shape) for shape in shapes))

    @property
    def width(self) -> int:
        """The number of values in all parts of an example."""
        return self._ends[-1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the model gives for the parts of ``x``, shape ``(batch, width)``."""
        starts = [0, *self._ends[:-1]]
        parts = [
            x[:, start:end].reshape(-1, *shape)
            for start, end, shape in zip(starts, self._ends, self._shapes, strict=True)
        ]
        logits: torch.Tensor = self.model(*parts)
        return logits
