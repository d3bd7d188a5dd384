"""What virtual devices note of their uploads, to be held against what the aggregator has on its disk."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

__all__ = ["CrowdLedger", "DeviceLedger", "UploadLedger", "count_lost", "delays_ms"]


class UploadLedger(msgspec.Struct, kw_only=True):
    """One upload, as its device saw it. Times are on the device's clock, in seconds; 0: not yet.

    Args:
        epoch: Of its round.
        round_number: Of its round.
        announced_s: When its summary was first handed to the link.
        last_part_s: When the last of its parts was.
        stored_s: When the aggregator said that all of it is durable, or is in the average.
        inventory: The digest under which that was said; empty: it was not.
    """

    epoch: int
    round_number: int
    announced_s: float = 0.0
    last_part_s: float = 0.0
    stored_s: float = 0.0
    inventory: str = ""


class DeviceLedger(msgspec.Struct, kw_only=True):
    """What one device noted.

    Args:
        uploads: In the order of their rounds.
    """

    uploads: list[UploadLedger] = []


class CrowdLedger(msgspec.Struct, kw_only=True):
    """What all devices of a process noted: device -> its ledger."""

    devices: dict[str, DeviceLedger]


def count_lost(ledgers: Mapping[str, DeviceLedger], receipts: Mapping[tuple[int, int], Mapping[str, str]]) -> int:
    """Return how many uploads are lost: their devices heard ``stored`` or ``counted``, and no receipt names them.

    Args:
        ledgers: Device -> what it noted.
        receipts: (epoch, round) -> device -> digest of the inventory that is in the average.
    """
    return sum(
        receipts.get((upload.epoch, upload.round_number), {}).get(device_id) != upload.inventory
        for device_id, ledger in ledgers.items()
        for upload in ledger.uploads
        if upload.inventory
    )


def delays_ms(ledgers: Mapping[str, DeviceLedger]) -> tuple[list[float], list[float]]:
    """Return, of all uploads with values that are stored, how long that took in milliseconds.

    Returns:
        From the first word of the summary, and from the last part; not below 0 each, in no order.
    """
    stored = [it for ledger in ledgers.values() for it in ledger.uploads if it.stored_s and it.last_part_s]
    return (
        [1e3 * (it.stored_s - it.announced_s) for it in stored],
        [1e3 * (it.stored_s - it.last_part_s) for it in stored],
    )
