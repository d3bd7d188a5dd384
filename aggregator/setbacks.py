"""Who is left alone for a while: a device that fails in round after round is asked ever more rarely. Pure functions.

A device fails in a round if it was asked and dropped out or was refused. The first failure may be chance and costs nothing;
from the second in a row on it sits out 1, 2, 4, ... rounds, at most 32. One success, and all is forgotten. The record is
part of the fleet's state, so an aggregator that is killed decides the same when it is back.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet

import msgspec

__all__ = ["MOST_ROUNDS_OUT", "Setback", "next_setbacks", "who_may_be_asked"]

MOST_ROUNDS_OUT = 32
REMEMBERED = 100


class Setback(msgspec.Struct, frozen=True, array_like=True):
    """What is remembered of a device that has failed.

    Args:
        num_failures: In how many rounds in a row that it was asked in, from 1.
        round_number: The last of them.
    """

    num_failures: int
    round_number: int

    @property
    def rounds_out(self) -> int:
        """How many rounds it sits out, in ``[0, 32]``."""
        return 0 if self.num_failures == 1 else min(2 ** min(self.num_failures - 2, 16), MOST_ROUNDS_OUT)

    @property
    def asked_again(self) -> int:
        """The round from which on it is asked again."""
        return self.round_number + self.rounds_out + 1


def next_setbacks(
    setbacks: Mapping[str, Setback], round_number: int, counted: Collection[str], failed: Collection[str]
) -> dict[str, Setback]:
    """Return what is remembered after a round.

    Args:
        setbacks: Device -> what was remembered before.
        round_number: Of the round that closes.
        counted: Whose upload was counted in it.
        failed: Who was asked, and dropped out or was refused.

    Example:
        >>> once = next_setbacks({}, 7, ["attic"], ["hall"])
        >>> next_setbacks(once, 8, ["attic"], ["hall"])["hall"].asked_again
        10
    """
    after = {
        name: setback
        for name, setback in setbacks.items()
        if name not in counted and round_number - setback.round_number < REMEMBERED
    }
    for name in sorted(failed):
        after[name] = Setback(1 + (after[name].num_failures if name in after else 0), round_number)
    return after


def who_may_be_asked(
    ready: AbstractSet[str], setbacks: Mapping[str, Setback], draw: int, quorum: int
) -> frozenset[str]:
    """Return the ready devices without those that sit out; if that is no quorum, with as many of them as it takes.

    Args:
        ready: Who could be asked.
        setbacks: Device -> what is remembered of it.
        draw: From ``cohort_draw``. A test of swaps has the draw of the round before: who sat out then sits out again, and
            takes nobody's place who has layers to swap.
        quorum: The fewest that a round needs; whose time is up first is asked first.
    """
    sitting_out = {
        name: setbacks[name]
        for name in ready
        if name in setbacks and setbacks[name].rounds_out and draw < setbacks[name].asked_again
    }
    willing = ready - sitting_out.keys()
    by_patience = sorted(sitting_out, key=lambda name: (sitting_out[name].asked_again, name))
    return frozenset({*willing, *by_patience[: max(quorum - len(willing), 0)]})
