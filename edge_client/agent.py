"""The device's shell: it connects the session to MQTT, the disk, the clock and the runtime."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Collection, Coroutine, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass, field

from edge_client.config import EdgeConfig
from edge_client.dataset import Dataset, load_dataset
from edge_client.effects import Effect, LoadProgram, Recall, Train
from edge_client.fetching import Subscribe, Unsubscribe
from edge_client.generation import Traffic, compose_generation, find_earlier
from edge_client.pieces import PiecewiseProgram, examples_within
from edge_client.program import TrainingProgram
from edge_client.runtimes import choose_runtime, load_program
from edge_client.session import Session
from edge_client.store import DeviceStore
from edge_client.training import run_round
from edge_client.trust import Remember, Trust
from wire.errors import DataError, FedlagError, ModelError, ProgramError, WireError
from wire.manifest import ModelManifest
from wire.messages import DeviceStatus
from wire.mqtt import Connected, MqttLink, Received
from wire.topics import (
    ACKNOWLEDGEMENT,
    INVITATION,
    PLAN,
    SERVER,
    STATUS,
    Address,
    Envelope,
    decode_payload,
    parse_topic,
    subscription,
)

__all__ = ["Agent", "Workshop"]

TICK_S = 0.5

log = logging.getLogger(__name__)


@dataclass
class Workshop:
    """What the devices of one process share: the thread that trains, and the programs that are loaded.

    Args:
        executor: Runs loading and training, off the asyncio thread.
        programs: (model id, which of its programs on which runtime) -> program; the same for every device.
    """

    executor: Executor
    programs: dict[tuple[str, str], TrainingProgram] = field(default_factory=dict)


class Agent:
    """One device, running.

    Args:
        config: Its configuration.
        workshop: Of this process.

    Raises:
        ConfigError: If the aggregator's key cannot be used.
        DataError: If there is no data.
        StoreError: If the disk refuses, or what it holds is damaged.
    """

    def __init__(self, config: EdgeConfig, workshop: Workshop) -> None:
        """Read the disk and choose the runtime; nothing is sent yet."""
        self._config = config
        self._workshop = workshop
        self._store = DeviceStore(config.folder)
        self._session_number = self._store.next_session()
        self._traffic = self._store.load_traffic()
        self._runtime = choose_runtime(config.runtime)
        self._session = Session(
            config.fleet,
            config.device_id,
            self._session_number,
            self._runtime,
            self._store.load_generation(),
            _trust(config, self._store),
        )
        self._dataset: Dataset | None = None
        self._program: TrainingProgram | None = None
        self._jobs: set[asyncio.Task[None]] = set()
        self._said = ""
        self.refused: Counter[str] = Counter()
        if not config.data.exists():
            raise DataError(f"no data file at {config.data}; name an .npz file as `data` in the device's configuration")

    @property
    def device_id(self) -> str:
        """The device's name."""
        return self._config.device_id

    async def run(self, stop: asyncio.Event) -> None:
        """Serve the fleet until ``stop`` is set.

        Raises:
            BrokerError: If the broker cannot be reached at the start.
            DataError: If the device's data cannot be used.
            StoreError: If the disk refuses.
        """
        fleet, device_id = self._config.fleet, self._config.device_id
        self._link = MqttLink(self._config.broker, f"{fleet}.{device_id}", fleet, self._lost())
        for route in (SERVER, PLAN):
            self._link.subscribe(subscription(fleet, route))
        for route in (INVITATION, ACKNOWLEDGEMENT):
            self._link.subscribe(subscription(fleet, route, device_id))
        await self._link.connect()
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._listen()), group.create_task(self._let_time_pass())]
                self._group = group
                await stop.wait()
                for task in [*tasks, *self._jobs]:
                    task.cancel()
        except* FedlagError as errors:
            raise errors.exceptions[0] from None
        finally:
            if self.refused or self._link.num_dropped:
                refused = ", ".join(f"{count} {reason}" for reason, count in self.refused.most_common()) or "none"
                log.warning("%s refused: %s; not sent: %d", device_id, refused, self._link.num_dropped)
            self._store.save_traffic(self._count_traffic())
            await self._link.close(self._lost())

    async def _listen(self) -> None:
        async for event in self._link.messages():
            now_s = time.monotonic()
            if isinstance(event, Connected):
                self._perform(self._session.connected(now_s))
                continue
            self._receive(event, now_s)

    def _receive(self, event: Received, now_s: float) -> None:
        try:
            address = parse_topic(self._config.fleet, event.topic)
            self._perform(self._session.handle(address, decode_payload(address, event.payload), now_s))
        except WireError as error:
            self.refused[error.reason] += 1
            log.warning("%s refused a message: %s", self._config.device_id, error)
        except ModelError as error:
            log.warning("%s cannot serve this plan: %s", self._config.device_id, error)
            self._perform(self._session.give_up(str(error)))

    async def _let_time_pass(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._perform(self._session.tick(time.monotonic()))

    def _perform(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Envelope():
                    self._link.publish(effect)
                    if effect.address.route is STATUS:
                        self._say_what_changed()
                case Subscribe():
                    self._link.subscribe(effect.topic_filter)
                case Unsubscribe():
                    self._link.unsubscribe(effect.topic_filter)
                case LoadProgram():
                    self._start(self._load(effect))
                case Recall():
                    self._recall(effect)
                case Remember():
                    self._store.save_seen(*effect)
                case Train():
                    self._start(self._train(effect))

    def _recall(self, effect: Recall) -> None:
        earlier = find_earlier(effect.plan, self._store.kept_generations())
        if earlier is not None:
            log.info(
                "%s goes back to what it had after round %d-%d", self.device_id, earlier.epoch, earlier.round_number
            )
        self._perform(self._session.recalled(effect.plan, earlier))

    def _say_what_changed(self) -> None:
        _, reason = self._session.status
        said = reason or "ready"  # training is everyday's work
        if said != self._said:
            self._said = said
            log.info("%s in fleet %s: %s", self.device_id, self._config.fleet, said)

    def _start(self, job: Coroutine[None, None, None]) -> None:
        task = self._group.create_task(job)
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)

    async def _load(self, effect: LoadProgram) -> None:
        model_id = effect.model_id
        loop = asyncio.get_running_loop()
        if effect.files is not None:
            self._store.save_program(model_id, effect.files)
        manifest = self._store.load_manifest(model_id)
        if manifest is None:
            self._perform(self._session.program_missing(model_id))
            return
        try:
            program = await loop.run_in_executor(self._workshop.executor, self._load_program, model_id, manifest)
        except (ModelError, MemoryError) as error:
            log.warning("%s cannot load its program: %s", self._config.device_id, error)
            if effect.files is None and isinstance(error, ModelError):  # what the disk has is damaged: fetch it again
                self._perform(self._session.program_missing(model_id))
            else:
                self._perform(self._session.failed(_reason(error), time.monotonic()))
            return
        self._dataset = load_dataset(self._config.data, manifest)
        self._program = program
        self._perform(self._session.program_ready(model_id, manifest, time.monotonic()))

    def _load_program(self, model_id: str, manifest: ModelManifest, layers: Collection[str] = ()) -> TrainingProgram:
        key = (model_id, f"{manifest.program_for(layers)[0]} on {self._runtime}")
        if key not in self._workshop.programs:
            folder = self._store.program_folder(model_id)
            self._workshop.programs[key] = load_program(self._runtime, folder, manifest, layers)
        program = self._workshop.programs[key]
        limits = [self._config.most_examples] if self._config.most_examples else []
        if self._config.memory_mb:
            limits.append(examples_within(manifest, self._config.memory_mb))
        return PiecewiseProgram(program, min(limits)) if limits else program

    async def _train(self, effect: Train) -> None:
        program, data = self._program, self._dataset
        if program is None or data is None:
            raise ProgramError("a round was started without a program")
        loop = asyncio.get_running_loop()
        try:
            plan = effect.work.plan
            if plan.training.trained_layers:
                program = await loop.run_in_executor(
                    self._workshop.executor,
                    self._load_program,
                    plan.model_id,
                    program.manifest,
                    plan.training.trained_layers,
                )
            outcome = await loop.run_in_executor(self._workshop.executor, run_round, program, data, effect.work)
        except Exception as error:
            log.exception("%s could not train in round %s", self.device_id, effect.work.plan.round_number)
            self._perform(self._session.failed(_reason(error), time.monotonic()))
            return
        if not outcome.is_finite:
            reason = f"training diverged in round {effect.work.plan.round_number}: the learning rate is too high"
            self._perform(self._session.failed(reason, time.monotonic()))
            return
        num_examples = len(data.train.targets)
        generation = compose_generation(
            program.manifest, effect.work, outcome, effect.previous, num_examples, self._count_traffic()
        )
        self._store.save_generation(generation)
        self._perform(self._session.trained(generation, time.monotonic()))

    def _count_traffic(self) -> Traffic:
        before = self._traffic
        return Traffic(before.bytes_up + self._link.bytes_up, before.bytes_down + self._link.bytes_down)

    def _lost(self) -> Envelope:
        status = DeviceStatus(state="lost", session=self._session_number, runtime=self._runtime)
        return Envelope(Address(STATUS, self._config.device_id), status)


def _trust(config: EdgeConfig, store: DeviceStore) -> Trust:
    """Return whose plans the device takes: the aggregator's, if the configuration names its key."""
    if config.aggregator.key is None:
        return Trust(config.fleet)
    from edge_client.aggregator_key import AggregatorKey  # noqa: PLC0415 - a device without a key does without 10 MB

    return Trust(config.fleet, AggregatorKey.load(config.aggregator.key).check, store.load_seen())


def _reason(error: Exception) -> str:
    """Return why the device cannot do its work, for the people who see its status."""
    if isinstance(error, MemoryError):
        return "there is not enough memory; set memory_mb or most_examples in the device's configuration"
    return str(error) if isinstance(error, FedlagError) else f"{type(error).__name__}: {error}"
