"""What a device may send: a bucket of messages and bytes for each, that empties as it sends and fills as time passes.

An honest device is never limited. It speaks of its own accord a few times a round, and again while nobody answers, which
the filling covers; all else it was asked for: an invitation pays for a round's words, and an acknowledgement that wants
parts for those parts. What comes on top is a flood, and is dropped before anything of it is decoded.

A bucket that is full again is forgotten, for it is as a new one. So memory is bounded, whatever names are made up.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from aggregator.admission import max_summary_bytes
from wire.errors import WireError
from wire.manifest import ModelManifest
from wire.messages import Acknowledgement, Invitation
from wire.parts import num_parts
from wire.tensors import max_encoded_bytes
from wire.topics import Envelope

__all__ = ["Allowance", "Allowances", "Load", "allowance_of"]

MAX_DEVICES = 20_000
UPLOADS_AT_ONCE = 4
SUMMARIES_AT_ONCE = 16
SUMMARIES_PER_ROUND = 4
SECONDS_PER_UPLOAD = 60.0
STATUSES_AT_ONCE = 100
STATUSES_PER_S = 10.0
STATUS_BYTES = 1024
PART_OVERHEAD_BYTES = 1024
SMALL_PART_BYTES = 16 * 1024
"""A summary may come in parts as small as this; those of an upload have the plan's size."""


class Load(NamedTuple):
    """So many messages with so many bytes of payload."""

    messages: float
    payload_bytes: float

    def plus(self, other: Load, times: float = 1.0) -> Load:
        """Return the sum, with so many times the other."""
        return Load(self.messages + times * other.messages, self.payload_bytes + times * other.payload_bytes)

    def at_most(self, other: Load) -> Load:
        """Return the smaller of both, messages and bytes each."""
        return Load(min(self.messages, other.messages), min(self.payload_bytes, other.payload_bytes))

    def covers(self, other: Load) -> bool:
        """Say whether the other is in it, messages and bytes."""
        return self.messages >= other.messages and self.payload_bytes >= other.payload_bytes


class Allowance(NamedTuple):
    """What one device may send.

    Args:
        at_once: A full bucket.
        per_s: By how much it fills in a second.
        per_round: What an invitation adds.
        part_bytes: The size of a part on the way up.
    """

    at_once: Load
    per_s: Load
    per_round: Load
    part_bytes: int


def allowance_of(manifest: ModelManifest, sketch_width: int, part_bytes: int) -> Allowance:
    """Return what a device may send that trains this model.

    Args:
        manifest: Of the model; it bounds an upload and a summary.
        sketch_width: Most values of one layer's sketch.
        part_bytes: The size of a part on the way up.
    """
    sizes = [max_encoded_bytes(layer) for layer in manifest.layers]
    upload = _in_parts(sum(sizes), sum(num_parts(size, part_bytes) for size in sizes))
    summary_bytes = max_summary_bytes(manifest, sketch_width)
    summary = _in_parts(summary_bytes, num_parts(summary_bytes, SMALL_PART_BYTES))
    statuses = Load(STATUSES_PER_S, STATUSES_PER_S * STATUS_BYTES)
    at_once = Load(STATUSES_AT_ONCE, STATUSES_AT_ONCE * STATUS_BYTES)
    return Allowance(
        at_once=at_once.plus(summary, SUMMARIES_AT_ONCE).plus(upload, UPLOADS_AT_ONCE),
        per_s=statuses.plus(summary).plus(upload, 1 / SECONDS_PER_UPLOAD),
        per_round=statuses.plus(summary, SUMMARIES_PER_ROUND),
        part_bytes=part_bytes,
    )


class Allowances:
    """The buckets of all devices.

    Args:
        allowance: Of each.
        max_devices: The most of which a bucket that is not full is kept; those that come then share one.
    """

    def __init__(self, allowance: Allowance, max_devices: int = MAX_DEVICES) -> None:
        """Know nobody."""
        self._allowance = allowance
        self._max_devices = max_devices
        self._buckets: OrderedDict[str, tuple[Load, float]] = OrderedDict()
        self._shared: tuple[Load, float] | None = None

    @property
    def num_devices(self) -> int:
        """How many buckets are kept."""
        return len(self._buckets)

    def take(self, device_id: str, num_bytes: int, now_s: float) -> None:
        """Take a message out of a device's bucket.

        Raises:
            WireError: ``flooding``, if it is not in it; that leaves the bucket as it is.
        """
        level, message = self._level(device_id, now_s), Load(1, num_bytes)
        if not level.covers(message):
            raise WireError("flooding", f"{device_id} sends more than it was asked for")
        self._keep(device_id, level.plus(message, -1.0), now_s)

    def grant(self, envelope: Envelope, now_s: float) -> None:
        """Add what a message to a device asks it for."""
        match envelope.message:
            case Invitation():
                asked = self._allowance.per_round
            case Acknowledgement(wanted=wanted) if wanted:
                asked = _in_parts(len(wanted) * self._allowance.part_bytes, len(wanted))
            case _:
                return
        device_id = envelope.address.device_id
        if device_id in self._buckets:  # another's is full, or shared
            self._keep(device_id, self._level(device_id, now_s).plus(asked).at_most(self._allowance.at_once), now_s)

    def _level(self, device_id: str, now_s: float) -> Load:
        """Return what is in a device's bucket, or in the shared one if there is no room for its own."""
        self._forget_full(now_s)
        kept = self._buckets.get(device_id)
        if kept is None and len(self._buckets) >= self._max_devices:
            kept = self._shared
        return self._filled(kept, now_s)

    def _keep(self, device_id: str, level: Load, now_s: float) -> None:
        if device_id not in self._buckets and len(self._buckets) >= self._max_devices:
            self._shared = (level, now_s)
            return
        self._buckets[device_id] = (level, now_s)
        self._buckets.move_to_end(device_id)

    def _filled(self, kept: tuple[Load, float] | None, now_s: float) -> Load:
        if kept is None:
            return self._allowance.at_once
        level, since_s = kept
        return level.plus(self._allowance.per_s, max(now_s - since_s, 0.0)).at_most(self._allowance.at_once)

    def _forget_full(self, now_s: float) -> None:
        """Forget the buckets that are full again, of those that were used the longest ago."""
        while self._buckets:
            device_id, kept = next(iter(self._buckets.items()))
            if self._filled(kept, now_s) != self._allowance.at_once:
                return
            del self._buckets[device_id]


def _in_parts(payload_bytes: float, count: float) -> Load:
    return Load(count, payload_bytes + PART_OVERHEAD_BYTES * count)
