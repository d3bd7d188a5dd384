"""One round on the server, as a state machine without I/O: who was asked, who answered, what is still wanted.

Summary with inventory -> wanted parts -> stored. Every message may come twice, late, or in any order; the answer to a
repeat is the answer to the first. A window over the fleet bounds what is under way: a device sends no part before it
is granted.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from msgspec import UNSET

from aggregator.admission import check_summary
from aggregator.answer import Answer
from aggregator.effects import CommitUpload, LogLayer, RoundEffect
from wire.codec import inventory_digest
from wire.errors import RefusalReason, WireError
from wire.manifest import ModelManifest
from wire.messages import Acknowledgement, Measurement, Part, RoundPlan, Summary, WantedPart
from wire.parts import num_parts
from wire.tensors import decode_layer
from wire.topics import ACKNOWLEDGEMENT, Address, Envelope

__all__ = ["Interrupted", "Round"]

GRANT_PATIENCE_S = 60.0


class Interrupted(NamedTuple):
    """What is known of a round that was open when the aggregator ended: who was asked, and whose upload is durable."""

    cohort: tuple[str, ...]
    stored: Mapping[str, Summary]


class Round:
    """The round that is open.

    Args:
        plans: Digest -> plan that may be answered; the last one is the round's own.
        manifest: Of the plan's model.
        cohort: The devices that were invited.
        quorum: The fewest stored answers with which it may close.
        buffer_size: With so many it closes at once if it is buffered.
        window_bytes: The most that may be granted at one time; a single upload larger than it is granted alone.
        opened_s: When the invitations went out.
        stored: Device -> summary of those whose upload is durable already.
        unfinished: Device -> what it has sent in the buffered round before, and may go on with.
    """

    def __init__(
        self,
        plans: Mapping[str, RoundPlan],
        manifest: ModelManifest,
        *,
        cohort: tuple[str, ...],
        quorum: int,
        buffer_size: int,
        window_bytes: int,
        opened_s: float,
        stored: Mapping[str, Summary],
        unfinished: Mapping[str, Answer],
    ) -> None:
        """Open the round."""
        self.plans = plans
        *_, (self.plan_digest, self.plan) = plans.items()
        self.opened_s = opened_s
        self.cohort = cohort
        self.refused: dict[str, RefusalReason] = {}
        self._spoiled: dict[tuple[str, str], RefusalReason] = {}
        self._manifest = manifest
        self._quorum = quorum
        self._enough = buffer_size if self.is_buffered else None
        self._window_bytes = window_bytes
        self._deadline_s = opened_s + self.plan.duration_s
        self._answers = {**unfinished, **{name: Answer(it, is_stored=True) for name, it in stored.items()}}
        self._stored: dict[str, Summary] | None = None  # made when it is asked for; thousands of devices ask often

    @property
    def stored(self) -> Mapping[str, Summary]:
        """Device -> summary of those whose upload is durable, in the order of their names."""
        if self._stored is None:
            answers = [(name, self._answers[name]) for name in sorted(self._answers)]
            self._stored = {name: answer.summary for name, answer in answers if answer.is_stored}
        return self._stored

    @property
    def measured(self) -> dict[str, Measurement]:
        """Device -> how good it found this plan's averages before it trained; a stale answer speaks of others."""
        return {name: it.before for name, it in self.stored.items() if it.plan == self.plan_digest}

    @property
    def unfinished(self) -> dict[str, Answer]:
        """Device -> its answer, of those who have begun an upload that is not durable."""
        return {name: answer for name, answer in self._answers.items() if not answer.is_stored}

    def summary_of(self, device_id: str) -> Summary | None:
        """Return the summary that is open or stored for this device."""
        answer = self._answers.get(device_id)
        return answer.summary if answer else None

    @property
    def is_buffered(self) -> bool:
        """Whether answers to earlier plans count, too."""
        return self.plan.max_staleness is not UNSET

    @property
    def awaited(self) -> tuple[str, ...]:
        """Invited devices whose upload is neither stored nor refused, in the order of their names."""
        return tuple(sorted(set(self.cohort) - set(self.stored) - set(self.refused)))

    @property
    def dropouts(self) -> tuple[str, ...]:
        """Those who have missed the round if it closes now; a buffered round is missed by nobody, for a later one is as good."""
        return () if self.is_buffered else self.awaited

    @property
    def may_close(self) -> bool:
        """Whether enough have answered; cheap, unlike ``is_over``."""
        return len(self.stored) >= self._quorum

    def is_over(self, reachable: AbstractSet[str], now_s: float) -> bool:
        """Say whether it closes now.

        The quorum is met, and the time is up or none of the reachable devices is still to answer; or it is buffered, and
        has enough.
        """
        if not self.may_close:
            return False
        if now_s >= self._deadline_s or (self._enough is not None and len(self.stored) >= self._enough):
            return True
        return not any(device_id in reachable for device_id in self.awaited)

    def is_stuck(self, now_s: float) -> bool:
        """Say whether the time is up without a quorum."""
        return not self.may_close and now_s >= self._deadline_s

    def admit(self, newcomers: tuple[str, ...]) -> None:
        """Let more devices take part."""
        self.cohort = tuple(sorted({*self.cohort, *newcomers}))

    def extend(self, now_s: float) -> None:
        """Keep the round open for another duration."""
        self._deadline_s = now_s + self.plan.duration_s

    def receive_summary(self, device_id: str, summary: Summary, now_s: float) -> list[RoundEffect]:
        """Take a device's summary; say what is wanted of its upload.

        Raises:
            WireError: If it is refused; the refusal is final for this upload.
        """
        answer, digest = self._answers.get(device_id), inventory_digest(summary)
        if answer is not None and (answer.is_stored or inventory_digest(answer.summary) == digest):
            answer.is_silent = False
            return self._say_where_it_stands(device_id, answer, now_s)
        plan = self.plans[summary.plan]
        if device_id not in self.cohort and plan is self.plan:
            raise WireError("not-invited", f"{device_id} is not in the cohort of round {self.plan.round_number}")
        if (device_id, digest) in self._spoiled:
            raise WireError(self._spoiled[device_id, digest], f"this upload of {device_id} was refused before")
        try:
            check_summary(summary, plan, self._manifest, is_stale=plan is not self.plan)
        except WireError as error:
            self.refuse(device_id, error.reason)
            raise
        answer = self._answers[device_id] = Answer.begin(summary, self.plan)
        self.refused.pop(device_id, None)
        return self._say_where_it_stands(device_id, answer, now_s)

    def receive_part(self, device_id: str, part: Part, now_s: float) -> list[RoundEffect]:
        """Take a part of a device's upload.

        Raises:
            WireError: If it fits no inventory, or the layer that it completes is not what it must be: that refuses the
                whole upload, once and for all.
        """
        answer = self._answers.get(device_id)
        if answer is None:
            raise WireError("foreign-round", f"a part from {device_id}, which has sent no summary for this round")
        if part.digest not in answer.missing:
            if any(part.digest == item.digest for item in answer.summary.inventory):
                return []  # a repeat
            raise WireError("wrong-digest", f"a part of {part.digest[:12]}, which is not in {device_id}'s inventory")
        item, assembly = answer.missing[part.digest]
        answer.is_silent = False
        if answer.granted_s is not None:
            answer.granted_s = now_s
        blob = assembly.add(part)
        if blob is None:
            return []
        try:
            values = decode_layer(blob, self._manifest.layer(item.layer))
        except WireError as error:
            self._spoiled[device_id, inventory_digest(answer.summary)] = error.reason
            self.refuse(device_id, error.reason)
            raise
        answer.complete(item)
        effects: list[RoundEffect] = [LogLayer(device_id, item.layer, values)]
        if not answer.missing:
            effects += self._say_where_it_stands(device_id, answer, now_s)
        return effects

    def tick(self, now_s: float) -> list[RoundEffect]:
        """Take back the grants of devices that have fallen silent, and give them to those that wait and speak."""
        for answer in self._answers.values():
            if answer.granted_s is not None and now_s - answer.granted_s > GRANT_PATIENCE_S:
                answer.granted_s, answer.is_silent = None, True
        return self._grant_waiting(now_s)

    def refuse(self, device_id: str, reason: RefusalReason) -> None:
        """Count this device out of the round."""
        self._answers.pop(device_id, None)
        self._stored = None
        self.refused[device_id] = reason

    def _say_where_it_stands(self, device_id: str, answer: Answer, now_s: float) -> list[RoundEffect]:
        effects: list[RoundEffect] = []
        if not answer.missing and not answer.is_stored:
            answer.is_stored, answer.granted_s, self._stored = True, None, None
            effects.append(CommitUpload(device_id, answer.summary))
        if answer.is_stored:
            effects.append(self._acknowledge(device_id, answer))
            return effects + self._grant_waiting(now_s)
        if answer.granted_s is None and self._fits(answer, self._granted_bytes()):
            answer.granted_s = now_s
        effects.append(self._acknowledge(device_id, answer))
        return effects

    def _granted_bytes(self) -> int:
        return sum(other.missing_bytes for other in self._answers.values() if other.granted_s is not None)

    def _fits(self, answer: Answer, granted_bytes: int) -> bool:
        return granted_bytes == 0 or granted_bytes + answer.missing_bytes <= self._window_bytes

    def _grant_waiting(self, now_s: float) -> list[RoundEffect]:
        effects: list[RoundEffect] = []
        granted_bytes = self._granted_bytes()
        for device_id, answer in sorted(self._answers.items()):
            is_waiting = answer.granted_s is None and not (answer.is_stored or answer.is_silent)
            if is_waiting and self._fits(answer, granted_bytes):
                answer.granted_s = now_s
                granted_bytes += answer.missing_bytes
                effects.append(self._acknowledge(device_id, answer))
        return effects

    def _acknowledge(self, device_id: str, answer: Answer) -> Envelope:
        wanted = tuple(
            WantedPart(digest, index)
            for digest, (item, assembly) in (answer.missing.items() if answer.granted_s is not None else ())
            for index in range(num_parts(item.size_bytes, self.plans[answer.summary.plan].training.part_bytes))
            if not assembly.holds(index)
        )
        message = Acknowledgement(
            epoch=answer.summary.epoch,
            round_number=answer.summary.round_number,
            inventory=inventory_digest(answer.summary),
            state="stored" if answer.is_stored else "wanted",
            wanted=wanted,
        )
        return Envelope(Address(ACKNOWLEDGEMENT, device_id), message)
