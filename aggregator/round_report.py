"""What the aggregator keeps of a closed round. It stays on the server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from wire.messages import Count, DeviceId, Digest, LayerName, Measurement, Message, Positive, RoundPlan

__all__ = ["ClosedRound", "DeviceRound", "RoundReport"]


class DeviceRound(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one device in one closed round, as its summary gave them; ``staleness`` in versions."""

    num_examples: Positive
    train_loss: float
    before: Measurement
    after: Measurement
    test: Measurement | None
    bytes_up: Count
    bytes_down: Count
    staleness: Count = 0


class RoundReport(Message, frozen=True, kw_only=True):
    """One closed round: who took part, what the evidence was and what it decided.

    Args:
        epoch: Of the plan.
        round_number: Of the plan.
        plan: Its digest.
        selector: The resolved name of the rule that decided.
        personal_layers: Those of this round.
        next_personal_layers: Those of the next.
        reasons: Layer -> why it was chosen, tested or kept.
        conflict_scores: Layer -> share of conflicting pairs, in ``[0, 1]``, where sketches came; at the default
            threshold, whatever the selector's own.
        mean_cosines: Layer -> mean cosine of the pairs, where sketches came.
        swap_gains: Candidate -> mean gain over the devices that tested.
        swap_errors: Candidate -> standard error of that mean.
        counted: Device -> its summary's figures.
        refused: Device -> why its upload was refused.
        refused_messages: Reason -> how many messages were refused for it since the aggregator's start.
        dropouts: Invited devices that never answered; none in a buffered round, for which they need not hurry.
        runtimes: Device -> the runtime it trained on.
        duration_s: From the invitations to the close.
        held: Why the fleet went back and used none of the uploads; empty if it went on.
    """

    epoch: Count
    round_number: Positive
    plan: Digest
    selector: str
    personal_layers: tuple[LayerName, ...]
    next_personal_layers: tuple[LayerName, ...]
    reasons: dict[LayerName, str]
    conflict_scores: dict[LayerName, float]
    mean_cosines: dict[LayerName, float]
    swap_gains: dict[LayerName, float]
    swap_errors: dict[LayerName, float]
    counted: dict[DeviceId, DeviceRound]
    refused: dict[DeviceId, str]
    refused_messages: dict[str, int]
    dropouts: tuple[DeviceId, ...]
    runtimes: dict[DeviceId, str]
    duration_s: float
    held: str = ""


class ClosedRound(NamedTuple):
    """What stays of a round: its report, its plan, and device -> digest of the inventory of the upload that was counted."""

    report: RoundReport
    plan: RoundPlan
    receipts: Mapping[str, str]
