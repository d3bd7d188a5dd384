"""The masks of a program's dropouts, drawn for a step."""

from __future__ import annotations

import math

import numpy as np

from wire.manifest import ModelManifest
from wire.random import key_from_label, random_words

__all__ = ["draw_masks"]


def draw_masks(manifest: ModelManifest, label: str, num_examples: int) -> tuple[np.ndarray, ...]:
    """Return a mask for each dropout: 0 where a value is dropped, else ``1 / (1 - probability)``.

    A value is dropped where its word of ``random_words`` is below ``probability * 2**32``, under the label's key and the
    mask's index, so the same step draws the same masks on every device and in every language.

    Args:
        manifest: Names the masks.
        label: Of the step.
        num_examples: In its batch, at least 1.

    Returns:
        Each of shape ``(num_examples, *shape)``, float32.
    """
    masks = []
    for index, spec in enumerate(manifest.masks or ()):
        shape = (num_examples, *spec.shape)
        words = random_words(key_from_label(f"{label}/mask/{index}"), math.prod(shape))
        is_kept = words >= np.uint32(min(round(spec.probability * 2**32), 2**32 - 1))
        masks.append((is_kept / np.float32(1 - spec.probability)).astype(np.float32).reshape(shape))
    return tuple(masks)
