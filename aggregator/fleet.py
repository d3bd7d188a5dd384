"""The fleet on the server, as a state machine without I/O: presence, rounds one after the other, receipts.

``handle``, ``tick`` and ``close_round`` return effects; the shell carries them out in order. What must survive a crash
is in ``FleetState``; it is checkpointed before the plan that follows from it is published.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec
import numpy as np
from msgspec import UNSET

from aggregator.answer import Answer, go_on_with
from aggregator.closing import close_round, encode_averages
from aggregator.config import AggregatorConfig
from aggregator.effects import AskCohort, Checkpoint, Effect, Finished
from aggregator.evidence import Selector
from aggregator.gathering import Gathering
from aggregator.guard import is_held
from aggregator.holding import end_round
from aggregator.planning import FleetState, choose_cohort, cohort_draw
from aggregator.presence import Presence
from aggregator.publication import Publication
from aggregator.receipts import Receipts, last_word
from aggregator.round import Interrupted, Round
from aggregator.round_report import ClosedRound
from aggregator.setbacks import who_may_be_asked
from aggregator.summaries import Summaries
from wire.errors import RefusalReason, WireError
from wire.manifest import ModelManifest
from wire.messages import DeviceStatus, Invitation, Message, Part, Summary
from wire.topics import INVITATION, STATUS, SUMMARY, UPDATE, Address, Envelope

__all__ = ["Fleet"]


MAX_EPOCHS_AHEAD = 1000


class Fleet:
    """All rounds of one fleet.

    Args:
        config: The aggregator's configuration.
        model_id: Of the program.
        manifest: Of the model.
        selector: The rule that chooses the personal layers.
        state: The last checkpoint, or the first state.
        publication: What is retained on the broker: program, layers, plan.
        receipts: Of the rounds before.
        interrupted: The round that was open when the aggregator ended, if one was.
    """

    def __init__(
        self,
        config: AggregatorConfig,
        model_id: str,
        manifest: ModelManifest,
        *,
        selector: Selector,
        state: FleetState,
        publication: Publication,
        receipts: Receipts,
        interrupted: Interrupted | None,
    ) -> None:
        """Prepare; the shell calls ``connected`` when the link is up."""
        self._go_to(state)
        self._config = config
        self._model_id = model_id
        self._manifest = manifest
        self._selector = selector
        self._publication = publication
        self._presence = Presence()
        self._summaries = Summaries(manifest, config.rounds.sketch_width)
        self._receipts = receipts
        self._interrupted = interrupted
        self._heard_all_s = 0.0
        self._round: Round | None = None
        self._unfinished: dict[str, Answer] = {}
        self._gathering = Gathering(config.rounds)
        self._is_closing = False
        self._believed: set[str] = set()
        self.refused: Counter[str] = Counter()

    @property
    def reachable(self) -> frozenset[str]:
        """Devices that are there, can take part or are training, and know the codec of this fleet's uploads."""
        return self._presence.reachable(self.state.plan.training.upload_codec)

    @property
    def waiting_for(self) -> str:
        """What keeps the next round from opening, for people; empty while a round is open."""
        if self._round is not None or self.state.is_finished:
            return ""
        rounds = self._config.rounds
        if is_held(self.state.guard, rounds.guard):
            return (
                "held: the averages got worse twice in a row; mend the cause, then `fedlag model rollback ... latest`"
            )
        return f"{len(self.reachable)} devices are ready; a round needs {rounds.quorum}, at best {rounds.cohort_size}"

    def connected(self, now_s: float) -> list[Effect]:
        """The link is up, perhaps again: publish all that is retained, and the invitations that are open."""
        effects: list[Effect] = [*self._publication.everything(self.state.plan, is_finished=self.state.is_finished)]
        self._heard_all_s = now_s + self._config.rounds.gather_s
        if self._interrupted is not None:
            self._open_round(self._interrupted.cohort, now_s, self._interrupted.stored)
            self._interrupted = None
        if self._round is not None:
            effects += self._invite(self._round.cohort)
            self._round.extend(now_s)  # nobody could be heard meanwhile
        return effects

    def handle(self, address: Address, message: Message | None, now_s: float) -> list[Effect]:
        """Take a message; return what is to be done.

        Raises:
            WireError: If it is refused; the state is as before.
        """
        device_id = address.device_id
        if address.route is not STATUS and device_id not in self._presence:
            raise WireError("unknown-device", f"{device_id} has never said that it is here")
        match address.route, message:
            case (route, (DeviceStatus() | None)) if route is STATUS:
                return self._take_status(device_id, message, now_s)
            case (route, Part()) if route is SUMMARY:
                return self._take_summary_part(device_id, message, now_s)
            case (route, Part()) if route is UPDATE:
                return self._take_part(device_id, message, now_s)
            case _:
                raise WireError("unknown-topic", f"the aggregator does not listen to {address.route.name}")

    def tick(self, now_s: float) -> list[Effect]:
        """Let time pass: open the next round, take back grants, close at the deadline."""
        if self._round is None:
            return self._open_if_gathered(now_s)
        effects: list[Effect] = [*self._round.tick(now_s)]
        if self._round.is_stuck(now_s):
            self._round.admit(tuple(self.reachable))
            self._round.extend(now_s)
            return [*effects, *self._ask(self._round.cohort)]
        return [*effects, *self._close_if_over(now_s), *self._ask_newcomers(self._round)]

    def close_round(self, averages: Mapping[str, np.ndarray], now_s: float) -> list[Effect]:
        """Go on to the next round with the averages of this one: layer -> shape ``(num_params,)``, float32."""
        round_, self._round = self._round, None
        self._is_closing = False
        if round_ is None:
            return []
        counted = round_.stored
        receipts = self._receipts.close(round_)
        digests, new_layers = encode_averages(self._manifest, averages)
        state, report = close_round(
            round_,
            self.state,
            digests,
            config=self._config,
            manifest=self._manifest,
            selector=self._selector,
            runtimes={name: runtime for name, runtime in self._presence.runtimes().items() if name in counted},
            refused_messages=self.refused,
            now_s=now_s,
        )
        self._go_to(state)
        self._unfinished, carried = go_on_with(round_.unfinished, self._answerable)
        effects: list[Effect] = [Checkpoint(state, new_layers, ClosedRound(report, round_.plan, receipts), carried)]
        effects += [last_word(name, summary) for name, summary in counted.items()]
        if self.state.is_finished:
            return [*effects, self._publication.presence("finished"), Finished()]
        effects += self._publication.next_version(new_layers, state.plan)
        return effects + self._open_if_gathered(now_s)

    def go_on_from(
        self, state: FleetState, layers: Mapping[str, bytes], closed: ClosedRound | None = None
    ) -> list[Effect]:
        """Give up the open round and go on from a state of a later epoch.

        Args:
            state: The state; its plan's epoch is later than any that devices have seen.
            layers: Digest -> encoded values of its layers that the plan before did not name.
            closed: The round that is over, if one is.
        """
        self._go_to(state)
        self._round, self._interrupted, self._is_closing, self._unfinished = None, None, False, {}
        return [Checkpoint(state, {}, closed), *self._publication.next_version(layers, state.plan)]

    def _go_to(self, state: FleetState) -> None:
        self.state, self._answerable = state, state.answerable
        self._plan_digest = [*self._answerable][-1]

    def _take_status(self, device_id: str, status: DeviceStatus | None, now_s: float) -> list[Effect]:
        self._presence.take(device_id, status)
        effects = [] if status is None else self._catch_up(device_id, status)
        return [*effects, *(self._close_if_over(now_s) if self._round else self._open_if_gathered(now_s))]

    def _catch_up(self, device_id: str, status: DeviceStatus) -> list[Effect]:
        """Rise above a device that has seen a later plan than ours: we were restored, or have lost a checkpoint."""
        plan = self.state.plan
        if (status.epoch, status.round_number) <= (plan.epoch, plan.round_number):
            return []
        if status.epoch > plan.epoch + MAX_EPOCHS_AHEAD or device_id in self._believed:
            raise WireError(
                "foreign-round", f"{device_id} claims to have seen epoch {status.epoch}, this is {plan.epoch}"
            )
        self._believed.add(device_id)  # once: from now on it has seen no later plan than ours
        plan = msgspec.structs.replace(plan, epoch=status.epoch + 1)
        return self.go_on_from(msgspec.structs.replace(self.state, plan=plan), {})

    def _take_part(self, device_id: str, part: Part, now_s: float) -> list[Effect]:
        round_ = self._round
        if round_ is None:
            raise WireError("late", f"a part from {device_id}, but no round is open")
        summary = round_.summary_of(device_id)
        try:
            effects: list[Effect] = [*round_.receive_part(device_id, part, now_s)]
        except WireError as error:
            if summary is None or device_id not in round_.refused:
                raise
            effects = [self._refuse(device_id, summary, error.reason)]
        return [*effects, *self._close_if_over(now_s)] if effects else []

    def _take_summary_part(self, device_id: str, part: Part, now_s: float) -> list[Effect]:
        summary = self._summaries.add(device_id, part)
        if summary is None:
            return []
        receipt = self._receipts.find(device_id, summary)
        if receipt is not None:
            return [receipt]
        if summary.plan not in self._answerable:
            return [self._refuse(device_id, summary, "late")]
        if self._round is None:
            return []  # after a restart: the device says it again when the round is open
        try:
            effects = self._round.receive_summary(device_id, summary, now_s)
        except WireError as error:
            return [self._refuse(device_id, summary, error.reason), *self._close_if_over(now_s)]
        return [*effects, *self._close_if_over(now_s)]

    def _refuse(self, device_id: str, summary: Summary, reason: RefusalReason) -> Envelope:
        self.refused[reason] += 1
        return last_word(device_id, summary, reason)

    def _open_if_gathered(self, now_s: float) -> list[Effect]:
        settings, ready = self._config.rounds, self.reachable
        waits = self.state.plan.max_staleness is UNSET  # newcomers may join a buffered round
        if self.state.is_finished or is_held(self.state.guard, settings.guard):
            return []
        if not self._gathering.is_over(len(ready), now_s, waits=waits):
            return []
        cohort = self._draw(ready, settings.cohort_size, settings.quorum)
        self._open_round(cohort, now_s, {})
        return self._ask(cohort)

    def _ask_newcomers(self, round_: Round) -> list[Effect]:
        """Let whom a buffered round has room for take part in it, too."""
        room = self._config.rounds.cohort_size - len(round_.cohort)
        if self._is_closing or not round_.is_buffered or room <= 0:
            return []
        newcomers = self._draw(self.reachable - {*round_.cohort}, room, 0)
        round_.admit(newcomers)
        return [AskCohort(self._plan_digest, round_.cohort), *self._invite(newcomers)] if newcomers else []

    def _draw(self, ready: frozenset[str], size: int, quorum: int) -> tuple[str, ...]:
        """Return whom of these devices the round of the current plan asks."""
        plan, seed = self.state.plan, self._config.rounds.seed
        draw = cohort_draw(plan.round_number, plan.swap_candidates)
        return choose_cohort(who_may_be_asked(ready, self.state.setbacks, draw, quorum), size, seed, plan.epoch, draw)

    def _open_round(self, cohort: tuple[str, ...], now_s: float, stored: Mapping[str, Summary]) -> None:
        self._round = Round(
            self._answerable,
            self._manifest,
            cohort=cohort,
            quorum=self._config.rounds.quorum,
            buffer_size=self._config.rounds.buffer_size,
            window_bytes=self._config.rounds.window_bytes,
            opened_s=now_s,
            stored=stored,
            unfinished=self._unfinished,
        )
        self._unfinished = {}

    def _ask(self, cohort: tuple[str, ...]) -> list[Effect]:
        return [AskCohort(self._plan_digest, cohort), *self._invite(cohort)]

    def _invite(self, cohort: tuple[str, ...]) -> list[Effect]:
        return [Envelope(Address(INVITATION, name), Invitation(plan=self._plan_digest)) for name in cohort]

    def _close_if_over(self, now_s: float) -> list[Effect]:
        round_ = self._round
        if round_ is None or self._is_closing or not round_.may_close:
            return []
        expected = set(round_.cohort) - self._presence.known if now_s < self._heard_all_s else set()
        if not round_.is_over(self.reachable | expected, now_s):
            return []  # after a restart those whom it has not heard yet are expected, too
        self._is_closing = True
        return [end_round(round_, self.state, self._config, refused_messages=self.refused, now_s=now_s)]
