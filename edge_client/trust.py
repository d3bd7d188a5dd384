"""Whose plans a device takes: its own fleet's, and with a key those alone that the aggregator has signed. No I/O.

It is asked before anything else is done with a plan. What a refused plan names is neither fetched nor loaded; what the device
does for the last good plan goes on. A device with a key also remembers the latest plan that it took, over restarts: a true but
older one that is handed to it again is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from wire.errors import WireError
from wire.messages import RoundPlan

__all__ = ["PlanCheck", "Remember", "Trust"]

PlanCheck = Callable[[RoundPlan], None]
"""Raises ``WireError`` for a plan whose signature does not hold."""


class Remember(NamedTuple):
    """Effect: keep on disk that the device has taken a plan of this epoch and round."""

    epoch: int
    round_number: int


class Trust:
    """One device's.

    Args:
        fleet: The fleet's name.
        check_signature: ``None``: the device has no key, and takes its broker's word for it.
        seen: Epoch and round of the latest plan that it took before this start, as it was told to remember.
    """

    def __init__(self, fleet: str, check_signature: PlanCheck | None = None, seen: tuple[int, int] = (0, 0)) -> None:
        """Nothing was refused yet."""
        self.seen = seen
        self._fleet = fleet
        self._check_signature = check_signature
        self._complaint = ""

    @property
    def complaint(self) -> str:
        """Why the plan that came last was refused, for people; empty if it was not."""
        return self._complaint

    def check(self, plan: RoundPlan) -> None:
        """Refuse a plan that is not this fleet's.

        Raises:
            WireError: ``foreign-fleet`` or ``wrong-signature``.
        """
        try:
            self._check(plan)
        except WireError as error:
            self._complaint = f"refused plan {plan.epoch}/{plan.round_number}: {error}"
            raise
        self._complaint = ""

    def take(self, plan: RoundPlan) -> list[Remember]:
        """Let a plan be the latest that the device has taken.

        Without a key nothing is kept on disk: a false plan of a high number would be believed for ever.
        """
        self.seen = (plan.epoch, plan.round_number)
        return [] if self._check_signature is None else [Remember(*self.seen)]

    def _check(self, plan: RoundPlan) -> None:
        if plan.fleet != self._fleet:
            raise WireError("foreign-fleet", f"it is of fleet {plan.fleet}, this device is in {self._fleet}")
        if self._check_signature is not None:
            self._check_signature(plan)
