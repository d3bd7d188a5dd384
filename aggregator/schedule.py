"""Learning-rate schedules over the rounds of a fleet: the aggregator writes each round's rate into its plan.

Round by round, counted from 1, with ``W`` warm-up rounds of ``N``::

    warm-up    rounds 1 .. W        rate * round / W
    constant   then                 rate
    linear     then                 rate * (1 - t)
    cosine     then                 rate * (1 + cos(pi t)) / 2      where t = (round - W - 1) / (N - W)

A rate never reaches 0 in a training round. They are ``LinearLR`` and ``CosineAnnealingLR`` of ``torch.optim.lr_scheduler``
with a round as a step.
"""

from __future__ import annotations

import math

from aggregator.config import RoundSettings

__all__ = ["learning_rate_of_round"]


def learning_rate_of_round(learning_rate: float, settings: RoundSettings, round_number: int) -> float:
    """Return the learning rate of a round, above 0 and at most ``learning_rate``.

    Args:
        learning_rate: The fleet's, above 0.
        settings: Its schedule; one that falls has a number of rounds.
        round_number: From 1; a measuring round after the last one trains nothing, and has the last one's rate.

    Example:
        >>> settings = RoundSettings(num_rounds=4, schedule="linear")
        >>> [learning_rate_of_round(1.0, settings, number) for number in range(1, 5)]
        [1.0, 0.75, 0.5, 0.25]
    """
    if round_number <= settings.warmup_rounds:
        return learning_rate * (round_number / settings.warmup_rounds)
    if settings.schedule == "constant" or settings.num_rounds is None:
        return learning_rate
    number = min(round_number, settings.num_rounds)
    passed = (number - settings.warmup_rounds - 1) / (settings.num_rounds - settings.warmup_rounds)
    share = 1 - passed if settings.schedule == "linear" else (1 + math.cos(math.pi * passed)) / 2
    return learning_rate * share
