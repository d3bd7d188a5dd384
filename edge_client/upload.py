"""The upload's side of the conversation: summary, wanted parts, stored, counted. No I/O.

The device says its summary again, with backoff, until the aggregator's own acknowledgement says that the upload is
counted or refused. All else follows from what that acknowledgement wants.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec
from msgspec import UNSET

from edge_client.generation import Upload
from wire.codec import encode_message
from wire.errors import WireError
from wire.messages import Acknowledgement, LayerSummary, RoundPlan
from wire.parts import split_blob
from wire.random import key_from_label, random_words
from wire.topics import SUMMARY, UPDATE, Address, Envelope

__all__ = ["UploadConversation"]

SUMMARY_PART_BYTES = 128 * 1024
FIRST_DELAY_S = 2.0
LONGEST_DELAY_S = 60.0


class UploadConversation:
    """One upload, from its first summary to the aggregator's last word.

    Args:
        device_id: Whose upload it is.
        upload: What is held ready.
    """

    def __init__(self, device_id: str, upload: Upload) -> None:
        """Nothing is sent before ``announce``."""
        self._device_id = device_id
        self._upload = upload
        self._num_announced = 0
        self._next_s: float | None = None
        self._withheld: frozenset[str] = frozenset()

    @property
    def plan(self) -> str:
        """Digest of the plan that the upload answers."""
        return self._upload.summary.plan

    @property
    def layers(self) -> frozenset[str]:
        """The layers that were shared in its round."""
        return frozenset(item.layer for item in self._upload.summary.inventory)

    @property
    def is_silent(self) -> bool:
        """Whether all of it is stored, as far as the device knows: it says nothing more by itself."""
        return self._next_s is None

    def withhold(self, layers: Collection[str]) -> None:
        """Send neither values nor a sketch of these layers from now on, only the norm: they have become personal."""
        self._withheld = frozenset(layers)

    def goes_on_under(self, plan: RoundPlan) -> bool:
        """Say whether it may still be sent though this later plan has come; hold back what that has made personal.

        An upload of a synchronous round that is closed could not be counted; if it holds a layer that is personal now, or that may
        be for all one knows, nothing of it leaves any more.
        """
        if plan.max_staleness is UNSET and not self.layers.isdisjoint(plan.personal_layers):
            return False
        self.withhold(self.layers & plan.personal_layers.keys() if plan.sketch_personal else plan.personal_layers)
        return True

    def announce(self, now_s: float) -> list[Envelope]:
        """Return the summary's parts; they are due again after a backoff."""
        self._schedule(now_s)
        address = Address(SUMMARY, self._device_id)
        summary = self._upload.summary
        told = {name: LayerSummary(it.norm) if name in self._withheld else it for name, it in summary.layers.items()}
        parts = split_blob(encode_message(msgspec.structs.replace(summary, layers=told)), SUMMARY_PART_BYTES)
        return [Envelope(address, part) for part in parts]

    def tick(self, now_s: float) -> list[Envelope]:
        """Announce again if the aggregator has been silent for too long."""
        return self.announce(now_s) if self._next_s is not None and now_s >= self._next_s else []

    def answer(self, acknowledgement: Acknowledgement, now_s: float) -> list[Envelope]:
        """Return the parts that an acknowledgement of this upload wants, but none of a layer that is withheld.

        Raises:
            WireError: ``foreign-round`` for another upload, ``wrong-digest`` for a part that is not in this one.
        """
        if acknowledgement.inventory != self._upload.digest:
            raise WireError(
                "foreign-round", f"an acknowledgement of round {acknowledgement.round_number}, not of this one"
            )
        if len(set(acknowledgement.wanted)) < len(acknowledgement.wanted):
            raise WireError(
                "malformed", f"an acknowledgement of round {acknowledgement.round_number} wants a part twice"
            )
        if acknowledgement.wanted or acknowledgement.state == "stored":
            self._num_announced = 0
        self._schedule(now_s)
        if acknowledgement.state == "stored":
            self._next_s = None
        envelopes = []
        size, blobs = self._upload.part_bytes, self._upload.blobs
        named = {wanted.digest for wanted in acknowledgement.wanted}
        parts = {digest: split_blob(blobs[digest], size, digest) for digest in named & blobs.keys()}
        kept_back = {item.digest for item in self._upload.summary.inventory if item.layer in self._withheld}
        for wanted in acknowledgement.wanted:
            if wanted.digest in kept_back:
                continue
            if wanted.index >= len(parts.get(wanted.digest, ())):
                raise WireError("wrong-digest", f"part {wanted.index} of {wanted.digest[:12]} is not in this upload")
            address = Address(UPDATE, self._device_id, wanted.digest, wanted.index)
            envelopes.append(Envelope(address, parts[wanted.digest][wanted.index]))
        return envelopes

    def _schedule(self, now_s: float) -> None:
        delay_s = min(FIRST_DELAY_S * 2**self._num_announced, LONGEST_DELAY_S)
        label = f"backoff/{self._device_id}/{self._upload.digest}/{self._num_announced}"
        jitter = float(random_words(key_from_label(label), 1)[0]) / 2**32
        self._num_announced = min(self._num_announced + 1, 16)
        self._next_s = now_s + delay_s * (1.0 + jitter)
