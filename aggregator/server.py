"""The aggregator's shell: it connects the fleet to MQTT, the disk and the clock."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from functools import partial

import msgspec

from aggregator.config import AggregatorConfig
from aggregator.effects import AskCohort, Checkpoint, CloseRound, CommitUpload, Effect, Finished, GoBack, LogLayer
from aggregator.fleet import Fleet
from aggregator.intake import Intake
from aggregator.keeping.round_log import RoundLog
from aggregator.keeping.store import FleetStore
from aggregator.opening import go_on_from, open_state
from aggregator.planning import FleetState
from aggregator.program_folder import ProgramFolder
from aggregator.publication import Publication
from aggregator.receipts import Receipts
from aggregator.round import Interrupted
from aggregator.round_report import RoundReport
from aggregator.selection import make_selector
from aggregator.signing import sign_plan
from aggregator.signing_key import load_signing_key
from aggregator.staleness import average_uploads
from wire.codec import plan_digest
from wire.errors import ModelError, StoreError
from wire.mqtt import Connected, MqttLink, Received
from wire.topics import PLAN, STATUS, SUMMARY, UPDATE, Envelope, subscription

__all__ = ["Server"]

TICK_S = 0.25

log = logging.getLogger(__name__)


class Server:
    """The aggregator of one fleet, running.

    Args:
        config: Its configuration.
        on_report: Called with the report of every round that closes.

    Raises:
        ConfigError: If the selector is unknown, or the signing key cannot be used.
        ModelError: If the program's folder is not whole.
        StoreError: If the disk refuses or is damaged.
    """

    def __init__(self, config: AggregatorConfig, on_report: Callable[[RoundReport], None]) -> None:
        """Read the disk; nothing is published yet."""
        self._config = config
        self._on_report = on_report
        key = load_signing_key(config.signing_key) if config.signing_key else None
        self._store = FleetStore(config.folder)
        self._store.claim()
        self._program = program = ProgramFolder(config.program)
        chosen, statistics = config.selector, program.manifest.statistics_layers
        self._selector = make_selector(
            chosen.name, chosen.options, config.rounds.num_rounds, statistics, config.averaging.malicious_share
        )
        state = open_state(config, program, self._selector, self._store)
        digests = {*state.plan.shared_layers.values(), *state.plan.personal_layers.values()}
        layers_in_plan = {digest: self._store.layers.load(digest) for digest in digests}
        self._publication = Publication(
            self._store.next_session(), program.files, layers_in_plan, partial(sign_plan, key=key)
        )
        self._log = self._store.open_round_log(state.plan.epoch, state.plan.round_number)
        self._fleet = Fleet(
            config,
            program.model_id,
            program.manifest,
            selector=self._selector,
            state=state,
            publication=self._publication,
            receipts=Receipts(self._store.receipts()),
            interrupted=_interrupted(self._log, state),
        )
        self._intake = Intake(config, program.manifest, self._fleet)
        self._finished = asyncio.Event()
        if state.is_finished:
            log.info("all %s rounds are done; raise num_rounds to go on", config.rounds.num_rounds)
            self._finished.set()
        self._one_at_a_time = asyncio.Lock()

    async def run(self, stop: asyncio.Event) -> None:
        """Run rounds until the last is closed or ``stop`` is set.

        Raises:
            BrokerError: If the broker cannot be reached at the start.
            StoreError: If the disk refuses.
        """
        fleet = self._config.fleet
        lost = self._publication.presence("lost")
        self._link = MqttLink(self._config.broker, fleet, fleet, lost)
        for route in (STATUS, SUMMARY, UPDATE):
            self._link.subscribe(subscription(fleet, route))
        await self._link.connect()
        farewell = lost
        tasks = [asyncio.create_task(work) for work in (self._listen(), self._let_time_pass())]
        ends = [asyncio.create_task(event.wait()) for event in (stop, self._finished)]
        try:
            done, _ = await asyncio.wait([*tasks, *ends], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            if self._finished.is_set():
                farewell = self._publication.presence("finished")
        finally:
            for task in (*tasks, *ends):
                task.cancel()
            await self._link.close(farewell)
            self._log.close()
            self._store.close()

    async def _listen(self) -> None:
        async for event in self._link.messages():
            async with self._one_at_a_time:
                if isinstance(event, Connected):
                    await self._perform(self._fleet.connected(time.monotonic()))
                else:
                    await self._receive(event)

    async def _receive(self, event: Received) -> None:
        await self._perform(self._intake.take(event.topic, event.payload, time.monotonic()))
        self._complain()

    def _complain(self) -> None:
        for line in self._intake.complaints.lines(time.monotonic()):
            log.warning("%s", line)

    async def _let_time_pass(self) -> None:
        waiting_for = ""
        while True:
            await asyncio.sleep(TICK_S)
            async with self._one_at_a_time:
                await self._go_back_if_asked()
                await self._perform(self._fleet.tick(time.monotonic()))
            self._complain()
            if self._fleet.waiting_for != waiting_for:
                waiting_for = self._fleet.waiting_for
                if waiting_for:
                    log.info("%s", waiting_for)

    async def _go_back_if_asked(self) -> None:
        request = self._store.request()
        if request is None:
            return
        try:
            state, layers = self._in_a_later_epoch(request.state)
        except (ModelError, StoreError) as error:
            log.warning("cannot go back to version %s: %s", request.state.name, error)
        else:
            log.warning("going on from version %s, now %s; the open round is given up", request.state.name, state.name)
            await self._perform(self._fleet.go_on_from(state, layers))
        self._store.forget_request(request)

    def _in_a_later_epoch(self, version: FleetState) -> tuple[FleetState, dict[str, bytes]]:
        """Return a version as what the fleet goes on from, and digest -> its encoded layers.

        Raises:
            ModelError: If it is of another model.
            StoreError: If the disk has not all of it.
        """
        epoch = self._fleet.state.plan.epoch + 1
        state = go_on_from(self._config, self._program, self._selector, version, epoch)
        return state, {digest: self._store.layers.load(digest) for digest in state.layers.values()}

    async def _end_round(self, effect: CloseRound | GoBack) -> None:
        await (self._go_back(effect) if isinstance(effect, GoBack) else self._close_round(effect))

    async def _go_back(self, effect: GoBack) -> None:
        try:
            state, layers = self._in_a_later_epoch(self._store.version(effect.version))
        except (ModelError, StoreError) as error:
            log.warning("%s, but %s: going on", effect.guard.note, error)
            await self._perform([effect.otherwise])
        else:
            log.warning("%s", effect.guard.note)
            state = msgspec.structs.replace(state, guard=effect.guard)
            await self._perform(self._fleet.go_on_from(state, layers, effect.closed))

    async def _perform(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Envelope():
                    if effect.address.route is PLAN:
                        await self._link.drained()  # what a plan names is on the broker before the plan
                    self._link.publish(effect)
                    self._intake.sent(effect, time.monotonic())
                case AskCohort():
                    self._log.ask(effect.plan, effect.cohort)
                case LogLayer():
                    self._log.append(effect.device_id, effect.layer, effect.values)
                case CommitUpload():
                    self._log.commit(effect.device_id, effect.summary)
                case CloseRound() | GoBack():
                    await self._end_round(effect)
                case Checkpoint():
                    self._save(effect)
                case Finished():
                    self._finished.set()

    def _save(self, effect: Checkpoint) -> None:
        self._store.save(effect.state, effect.layers, self._program.manifest, effect.closed)
        before = self._log
        self._log = self._store.open_round_log(effect.state.plan.epoch, effect.state.plan.round_number)
        self._log.take_over(before, effect.carried)
        before.delete()
        if effect.closed is not None:
            self._on_report(effect.closed.report)

    async def _close_round(self, effect: CloseRound) -> None:
        averages = average_uploads(
            self._config.averaging,
            effect.origins,
            effect.weights,
            self._fleet.state.plan.shared_layers,
            self._log.rows,
            lambda _, digest: self._store.layers.vector(digest),
        )
        await self._perform(self._fleet.close_round(averages, time.monotonic()))


def _interrupted(log: RoundLog, state: FleetState) -> Interrupted | None:
    """Return the round that was open when the aggregator ended, if it is the round of this state's plan."""
    if log.asked is None or log.asked.plan != plan_digest(state.plan):
        return None
    return Interrupted(log.asked.cohort, {it: told for it, told in log.stored.items() if told.plan in state.answerable})
