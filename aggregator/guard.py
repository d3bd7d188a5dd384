"""The guard of a fleet: a version whose averages are worse than those before, as its devices measure it, does not stay.

Devices say in round ``r`` how good the averages are that plan ``r`` brought, before they train. Each is held against what it
measured with the last version that was good::

    excess[i] = loss now - loss then - guard * max(loss then, 0.1)
    worse     = the mean of the excess over the devices that measured both is above 0

The mean is weighted by the examples that were measured. If some devices may be hostile it is a trimmed mean instead, all
devices alike, for a weight is only claimed. So what gets worse by less than the bound on each device is never acted on, and with
trimming no lie is either. What gets worse slowly, by less than the bound each time, is not noticed.

A worse version makes the fleet go back to the last good one in a later epoch, without the updates that were trained from it.
The second time in a row it also holds: no round is opened until an operator says so. Going back for ever would cost
the devices' power and never end; going on would give them a model that is known to be worse.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from wire.messages import Measurement

__all__ = ["GuardState", "Verdict", "go_back", "is_held", "judge_version", "remember_version"]

SMALL_LOSS = 0.1
LARGEST_LOSS = 20.0
MAX_DEVICES = 2000
RETURNS_UNTIL_HELD = 2


class GuardState(msgspec.Struct, frozen=True, kw_only=True):
    """What the guard knows.

    Args:
        good: The version that was good last, by its name.
        losses: Device -> its validation loss with the last version that it measured and that was good; oldest first.
        num_returns: How often in a row the fleet went back.
        retried_round: The round in which the averages are measured that were made anew.
        note: Why it went back last, for people; empty if all is well since.
    """

    good: str
    losses: dict[str, float] = {}
    num_returns: int = 0
    retried_round: int = 0
    note: str = ""


class Verdict(NamedTuple):
    """How a version compares with the last good one.

    Args:
        loss_then: Mean validation loss with the good one, over the devices that measured both.
        loss_now: With this one.
        num_devices: How many they are.
        is_worse: By more than the bound.
    """

    loss_then: float
    loss_now: float
    num_devices: int
    is_worse: bool

    def __str__(self) -> str:
        """Return it as a part of a sentence."""
        return f"validation loss {self.loss_now:.4g} on {self.num_devices} devices, {self.loss_then:.4g} with the last good version"


def judge_version(
    state: GuardState | UnsetType,
    told: Mapping[str, Measurement],
    guard: float | None,
    *,
    fewest: int,
    malicious_share: float | None = None,
) -> Verdict | None:
    """Return how the averages that devices measured compare with the last good ones.

    Args:
        state: What is known.
        told: Device -> what it measured before it trained.
        guard: By what share of its loss a device's may rise, above 0; absent: nobody looks.
        fewest: So many devices must have measured both.
        malicious_share: Of the devices, that may lie; absent: none do.

    Returns:
        None if too few measured both.
    """
    if guard is None or state is UNSET:
        return None
    both = sorted(told.keys() & state.losses.keys())
    if len(both) < fewest:
        return None
    then = np.array([state.losses[name] for name in both])
    now = np.array([_loss(told[name]) for name in both])
    excess = now - then - guard * np.maximum(then, SMALL_LOSS)
    num_malicious = int((malicious_share or 0.0) * len(both))
    if malicious_share is None:
        weights = np.array([told[name].num_examples for name in both], dtype=np.float64)
    else:
        order = np.argsort(excess, kind="stable")
        weights = np.zeros(len(both))
        weights[order[num_malicious : len(both) - num_malicious]] = 1.0
    then_mean, now_mean, excess_mean = (float(np.average(it, weights=weights)) for it in (then, now, excess))
    return Verdict(then_mean, now_mean, int(np.count_nonzero(weights)), excess_mean > 0)


def remember_version(
    state: GuardState | UnsetType,
    version: str,
    round_number: int,
    told: Mapping[str, Measurement],
    verdict: Verdict | None,
) -> GuardState:
    """Return the state after a version that stays.

    Args:
        state: Before.
        version: Its name.
        round_number: In which it was measured.
        told: Device -> what it measured.
        verdict: On it; without one, known losses stay, for nobody has said that it is good.
    """
    before = GuardState(good=version) if state is UNSET else state
    losses = dict(before.losses)
    for name in sorted(told):
        if verdict is not None or name not in losses:
            losses.pop(name, None)
            losses[name] = _loss(told[name])
    kept = dict(list(losses.items())[-MAX_DEVICES:])
    if verdict is None or round_number < before.retried_round:
        return msgspec.structs.replace(before, good=version, losses=kept)
    return GuardState(good=version, losses=kept)


def go_back(state: GuardState, version: str, verdict: Verdict) -> GuardState:
    """Return the state after a version that does not stay."""
    num_returns = state.num_returns + 1
    _, _, good_round = state.good.partition("-")
    held = "; held until an operator says on" if num_returns >= RETURNS_UNTIL_HELD else ""
    return msgspec.structs.replace(
        state,
        num_returns=num_returns,
        retried_round=int(good_round) + 1,
        note=f"back to {state.good} from {version}: {verdict}{held}",
    )


def is_held(state: GuardState | UnsetType, guard: float | None) -> bool:
    """Say whether no round may open until an operator says so."""
    return guard is not None and state is not UNSET and state.num_returns >= RETURNS_UNTIL_HELD


def _loss(measured: Measurement) -> float:
    return min(max(measured.loss, 0.0), LARGEST_LOSS)
