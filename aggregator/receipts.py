"""The last word on each upload, kept for a hundred rounds, so that a repeat gets the same answer."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from aggregator.round import Round
from wire.codec import inventory_digest
from wire.errors import RefusalReason
from wire.messages import Acknowledgement, Summary
from wire.topics import ACKNOWLEDGEMENT, Address, Envelope

__all__ = ["Receipts", "last_word"]

MAX_ROUNDS = 100


class Receipts:
    """What was said of the uploads of closed rounds."""

    def __init__(self, rounds: Mapping[tuple[int, int], Mapping[str, str]] | None = None) -> None:
        """Start with those of (epoch, round) -> device -> digest of the inventory that was counted, oldest first."""
        self._rounds = OrderedDict(rounds or {})

    def find(self, device_id: str, summary: Summary) -> Envelope | None:
        """Return ``counted`` if this upload was, in its own round or in a later one."""
        digest = inventory_digest(summary)
        was_counted = any(counted.get(device_id) == digest for counted in self._rounds.values())
        return last_word(device_id, summary) if was_counted else None

    def close(self, round_: Round) -> dict[str, str]:
        """Keep and return device -> digest of the inventory of every upload of a round that closes: they are counted."""
        receipts = {name: inventory_digest(summary) for name, summary in round_.stored.items()}
        self._rounds[round_.plan.epoch, round_.plan.round_number] = receipts
        while len(self._rounds) > MAX_ROUNDS:
            self._rounds.popitem(last=False)
        return receipts


def last_word(device_id: str, summary: Summary, reason: RefusalReason | None = None) -> Envelope:
    """Return ``refused`` for this reason, or ``counted`` without one."""
    message = Acknowledgement(
        epoch=summary.epoch,
        round_number=summary.round_number,
        inventory=inventory_digest(summary),
        state="refused" if reason else "counted",
        reason=reason or "",
    )
    return Envelope(Address(ACKNOWLEDGEMENT, device_id), message)
