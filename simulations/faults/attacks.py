"""What hostile devices send instead of what they trained, from simple to made for the defense.

``a-little`` is from G. Baruch et al., "A Little Is Enough", NeurIPS 2019: the honest mean less one standard deviation of each
parameter, so that it stands among the honest ones. The paper finds the number of deviations from the number of devices; with
two of ten it would be none. ``inner-product`` is from C. Xie et al., "Fall of Empires", UAI 2019: the honest mean
reversed, short enough to pass for one of them. Both know what all honest devices trained, more than a device can know.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

__all__ = ["ATTACKS", "Attack", "Seen"]

DEVIATIONS = 1.0
REVERSED_SHARE = 0.5
EXAGGERATION = 10.0


class Seen(NamedTuple):
    """What a hostile device goes by, of one layer.

    Args:
        trained: Its own update, shape ``(num_params,)``.
        honest: Those of all honest devices, shape ``(devices, num_params)``.
        rng: For what it draws.
    """

    trained: np.ndarray
    honest: np.ndarray
    rng: np.random.Generator


Attack = Callable[[Seen], np.ndarray]
"""The update that is sent instead, shape ``(num_params,)``."""

ATTACKS: dict[str, Attack] = {
    "none": lambda seen: seen.trained,
    "reversed": lambda seen: -seen.trained,
    "scaled": lambda seen: -EXAGGERATION * seen.trained,
    "random": lambda seen: EXAGGERATION * np.linalg.norm(seen.trained) * _direction(seen),
    "a-little": lambda seen: seen.honest.mean(0) - DEVIATIONS * seen.honest.std(0),
    "inner-product": lambda seen: -REVERSED_SHARE * seen.honest.mean(0),
}
"""``scaled`` is ``reversed``, ten times as long; so is ``random`` as an honest update, in a random direction."""


def _direction(seen: Seen) -> np.ndarray:
    drawn: np.ndarray = seen.rng.normal(size=seen.trained.size)
    return drawn / np.linalg.norm(drawn)
