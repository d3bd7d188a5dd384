"""The last word on each upload, kept for a hundred rounds, so that a repeat gets the same answer."""

from __future__ import annotations

from collections import OrderedDict

from aggregator.round import Round
from wire.codec import inventory_digest
from wire.errors import RefusalReason
from wire.messages import Acknowledgement, Summary
from wire.topics import ACKNOWLEDGEMENT, Address, Envelope

__all__ = ["Receipts", "last_word"]

MAX_ROUNDS = 100


class Receipts:
    """What was said of the uploads of closed rounds."""

    def __init__(self) -> None:
        """Start without any."""
        self._rounds: OrderedDict[tuple[int, int], dict[str, Envelope]] = OrderedDict()

    def find(self, device_id: str, summary: Summary) -> Envelope | None:
        """Return what was said of this device's upload in this summary's round, if its last word has been spoken."""
        envelope = self._rounds.get((summary.epoch, summary.round_number), {}).get(device_id)
        if envelope is None or not isinstance(envelope.message, Acknowledgement):
            return None
        return envelope if envelope.message.inventory == inventory_digest(summary) else None

    def close(self, round_: Round) -> list[Envelope]:
        """Return ``counted`` for every upload of a round that closes, and keep it."""
        receipts = {name: last_word(name, summary) for name, summary in round_.stored.items()}
        self._rounds[round_.plan.epoch, round_.plan.round_number] = receipts
        while len(self._rounds) > MAX_ROUNDS:
            self._rounds.popitem(last=False)
        return list(receipts.values())


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
