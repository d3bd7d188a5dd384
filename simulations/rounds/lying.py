"""Clients that lie about their swap tests: what a rule that believes its devices has to bear.

One client in five lies, drawn by the seed. What it says of each candidate's gain:

==============  =====================================================================================================
``reversed``    The opposite of what it found, ten times as large: what helps it seems to harm it.
``inflated``    10 nats, whatever it found: everything should be personal.
==============  =====================================================================================================
"""

from __future__ import annotations

from typing import Literal

from wire.random import key_from_label, sample_without_replacement

__all__ = ["Lie", "choose_liars", "tell"]

Lie = Literal["reversed", "inflated"]
CLIENTS_PER_LIAR = 5
EXAGGERATION = 10.0
INFLATED_GAIN = 10.0


def choose_liars(num_clients: int, seed: int) -> frozenset[int]:
    """Return the numbers of the clients that lie.

    Args:
        num_clients: Of the fleet.
        seed: Decides who.

    Example:
        >>> len(choose_liars(20, seed=1))
        4
    """
    key = key_from_label(f"liars/{seed}")
    return frozenset(sample_without_replacement(key, num_clients, num_clients // CLIENTS_PER_LIAR).tolist())


def tell(lie: Lie, gain: float) -> float:
    """Return what a liar says instead of the gain that it found, in nats.

    Example:
        >>> tell("reversed", 0.5), tell("inflated", -1.0)
        (-5.0, 10.0)
    """
    return INFLATED_GAIN if lie == "inflated" else -EXAGGERATION * gain
