"""Sketches: a few floats that keep the angles between the devices' updates of one layer.

A seeded count sketch (M. Charikar, K. Chen, M. Farach-Colton, "Finding Frequent Items in Data Streams", ICALP 2002):
every parameter adds its update, with a sign of its own, to a bucket of its own. Signs and buckets depend on the seed,
the layer's name and the parameter's position alone, so all devices of a fleet use the same ones, and inner products
survive: ``E[<s(a), s(b)>] = <a, b>``. The cosine of two sketches differs from the true one, ``rho``, by about
``(1 - rho**2) / sqrt(width)``.

What every device must compute, in any language::

    key        key_from_label("sketch/<seed>/<layer>")          seed in decimal digits, see wire.random
    word[i]    the key's word number i                          one for each parameter, in the manifest's order
    bucket[i]  ((word[i] div 2) * width) div 2^31               the word's upper 31 bits, in 64-bit arithmetic
    sign[i]    +1 if word[i] is even, else -1                   the word's lowest bit
    sketch[b]  sum of sign[i] * update[i] over bucket[i] = b    in float64, i ascending; then rounded to float32

A shared layer that is no larger than its sketch is sent as it is. A personal layer never is: its sketch has at most an
eighth of its parameters, and a layer of fewer than 8 parameters has none.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from wire.random import key_from_label, random_words

if TYPE_CHECKING:
    from jaxtyping import Float32, Integer

__all__ = ["CountSketch", "personal_width"]

PERSONAL_PARAMS_PER_VALUE = 8
MAX_CACHED_LAYERS = 256


def personal_width(num_params: int, width: int) -> int:
    """Return the width of a personal layer's sketch: ``width``, but at most an eighth of the layer.

    Args:
        num_params: Number of the layer's parameters.
        width: Width of the sketches of shared layers.

    Returns:
        In ``[0, num_params // 8]``; 0 means that the layer is too small and no sketch of it is sent.

    Example:
        >>> personal_width(100_000, 1_024), personal_width(800, 1_024), personal_width(7, 1_024)
        (1024, 100, 0)
    """
    return min(width, num_params // PERSONAL_PARAMS_PER_VALUE)


class CountSketch(msgspec.Struct, frozen=True):
    """The linear map from one layer's update to its sketch.

    Args:
        seed: The fleet's seed, from the plan; the same on all devices.
        layer: The layer's name, as the manifest gives it.
        num_params: Number of the layer's parameters, at least 1.
        width: Most values of the sketch, at least 1.
        personal: The layer is personal: a sketch from which it could be rebuilt is refused.

    Raises:
        ValueError: If ``num_params`` or ``width`` is below 1, or the width is too large for a personal layer.

    Example:
        >>> sketch = CountSketch(seed=7, layer="fc1", num_params=4, width=2)
        >>> sketch.summarize(np.array([1, 2, 3, 4], dtype=np.float32))
        array([1., 9.], dtype=float32)
    """

    seed: int
    layer: str
    num_params: int
    width: int
    personal: bool = False

    def __post_init__(self) -> None:
        """Refuse a sketch that cannot be made, or must not."""
        if self.num_params < 1 or self.width < 1:
            raise ValueError(f"layer {self.layer!r}: a sketch of {self.num_params} parameters, {self.width} wide")
        if self.personal and self.width > personal_width(self.num_params, self.width):
            most = personal_width(self.num_params, self.width)
            raise ValueError(f"layer {self.layer!r} is personal: a sketch has at most {most} values, not {self.width}")

    @property
    def is_exact(self) -> bool:
        """Whether the summary is the update itself; never so for a personal layer."""
        return self.num_params <= self.width

    @property
    def num_values(self) -> int:
        """Number of values of a summary: the width, or ``num_params`` where the summary is exact."""
        return min(self.num_params, self.width)

    def summarize(self, update: Float32[np.ndarray, " params"]) -> Float32[np.ndarray, " values"]:
        """Return the sketch of an update: linear in the update, up to one rounding to float32.

        Args:
            update: The layer's flattened update, shape ``(num_params,)``, float32, in units of the parameters.

        Returns:
            Shape ``(num_values,)``, float32, in the same units; a copy of the update where ``is_exact``.

        Raises:
            ValueError: If the update has another shape.
        """
        if update.shape != (self.num_params,):
            raise ValueError(f"layer {self.layer!r}: expected shape ({self.num_params},), got {update.shape}")
        if self.is_exact:
            return update.astype(np.float32)
        buckets, signs = _buckets_and_signs(self.seed, self.layer, self.num_params, self.width)
        return np.bincount(buckets, weights=update * signs, minlength=self.width).astype(np.float32)


@lru_cache(maxsize=MAX_CACHED_LAYERS)
def _buckets_and_signs(
    seed: int, layer: str, num_params: int, width: int
) -> tuple[Integer[np.ndarray, " params"], Float32[np.ndarray, " params"]]:
    """Return each parameter's bucket and sign, read-only; kept, because a device needs them in every round."""
    words = random_words(key_from_label(f"sketch/{seed}/{layer}"), num_params)
    buckets = ((words >> 1).astype(np.uint64) * np.uint64(width)) >> np.uint64(31)
    signs = np.where(words & 1, np.float32(-1), np.float32(1))
    for_bincount = buckets.astype(np.intp)
    for_bincount.flags.writeable = signs.flags.writeable = False
    return for_bincount, signs
