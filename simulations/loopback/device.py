"""A device in a loopback fleet: the product's session, with a disk in memory and training that takes its time.

It does what ``edge_client.agent`` does, without MQTT, files and threads.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from functools import partial

import msgspec

from edge_client.dataset import Dataset
from edge_client.effects import Effect, LoadProgram, Recall, Train
from edge_client.fetching import Subscribe, Unsubscribe
from edge_client.generation import Generation, Traffic, compose_generation, find_earlier
from edge_client.program import TrainingProgram
from edge_client.session import Session
from edge_client.training import RoundOutcome, RoundWork, run_round
from edge_client.trust import PlanCheck, Remember, Trust
from simulations.loopback.network import Loopback
from simulations.loopback.power import Powered
from wire.digest import content_digest
from wire.errors import ModelError, WireError
from wire.manifest import decode_manifest
from wire.messages import DeviceStatus, Part, RoundPlan
from wire.topics import (
    ACKNOWLEDGEMENT,
    INVITATION,
    PLAN,
    SERVER,
    STATUS,
    SUMMARY,
    UPDATE,
    Address,
    Envelope,
    decode_payload,
    encode_payload,
    parse_topic,
    subscription,
    topic_of,
)

__all__ = ["LoopbackDevice"]

TICK_S = 1.0
NUM_KEPT = 12


class LoopbackDevice(Powered):
    """One device.

    Args:
        network: Where it speaks.
        fleet: The fleet's name.
        device_id: The device's name.
        program: Trains; what the device fetches stands for it.
        data: Its own.
        train_s: How long a round's training takes.
        check_signature: Of every plan; ``None``: it takes any that comes.

    ``plans_seen`` are the plans that it took, each with how many messages had crossed the network before.
    """

    def __init__(
        self,
        network: Loopback,
        fleet: str,
        device_id: str,
        program: TrainingProgram,
        data: Dataset,
        train_s: float,
        check_signature: PlanCheck | None,
    ) -> None:
        """Prepare; ``start`` turns it on."""
        super().__init__(network)
        self.device_id = device_id
        self.refused: Counter[str] = Counter()
        self.train_s = train_s
        self.has_flooded = False
        self.plans_seen: list[tuple[int, RoundPlan]] = []
        self.tamper: Callable[[RoundWork, RoundOutcome], RoundOutcome] | None = None
        self._fleet = fleet
        self._program = program
        self._data = data
        self._check_signature = check_signature
        self._remembered = (0, 0)
        self._disk: deque[bytes] = deque(maxlen=NUM_KEPT)
        self._manifests: dict[str, bytes] = {}
        self._session_number = 0
        self._session: Session | None = None
        self._filters: set[str] = set()

    @property
    def generation(self) -> Generation | None:
        """What its disk holds."""
        return msgspec.msgpack.decode(self._disk[-1], type=Generation) if self._disk else None

    def start(self) -> None:
        """Turn it on, perhaps again: a new session of what the disk holds. What was running is gone."""
        self._session_number += 1
        self._session = Session(
            self._fleet,
            self.device_id,
            self._session_number,
            self._program.runtime,
            self.generation,
            Trust(self._fleet, self._check_signature, self._remembered),
        )
        self._filters = {subscription(self._fleet, route) for route in (SERVER, PLAN)}
        self._filters |= {subscription(self._fleet, route, self.device_id) for route in (INVITATION, ACKNOWLEDGEMENT)}
        self.connect()
        self._later(self._tick, TICK_S)

    def stop(self) -> None:
        """Cut its power."""
        self._session = None
        self.disconnect()

    def connect(self) -> None:
        """Bring the link up, again with the subscriptions that it had."""
        if self._session is None:
            return
        lost = DeviceStatus(state="lost", session=self._session_number, runtime=self._program.runtime)
        will = Envelope(Address(STATUS, self.device_id), lost)
        self._network.attach(self.device_id, self._receive, (topic_of(self._fleet, will.address), encode_payload(will)))
        for topic_filter in sorted(self._filters):
            self._network.subscribe(self.device_id, topic_filter)
        self._perform(self._session.connected(self._network.now_s))

    def disconnect(self) -> None:
        """Lose the link; the device itself goes on."""
        self._network.detach(self.device_id)

    def _receive(self, topic: str, payload: bytes) -> None:
        if self._session is None:
            return
        try:
            address = parse_topic(self._fleet, topic)
            message = decode_payload(address, payload)
            effects = self._session.handle(address, message, self._network.now_s)
            if isinstance(message, RoundPlan):
                self.plans_seen.append((len(self._network.log), message))
            self._perform(effects)
        except WireError as error:
            self.refused[error.reason] += 1
        except ModelError as error:
            self._perform(self._session.give_up(str(error)))

    def _tick(self, session: Session) -> None:
        self._perform(session.tick(self._network.now_s))
        self._later(self._tick, TICK_S)

    def _perform(self, effects: Iterable[Effect]) -> None:
        session = self._session
        for effect in effects:
            if self._session is not session or self.lose_power():
                return
            if isinstance(effect, Remember) and self.fail_to_write():
                return
            self._do(effect)

    def _do(self, effect: Effect) -> None:
        match effect:
            case Envelope():
                self.publish(effect)
            case Subscribe():
                self._filters.add(effect.topic_filter)
                self._network.subscribe(self.device_id, effect.topic_filter)
            case Unsubscribe():
                self._filters.discard(effect.topic_filter)
                self._network.unsubscribe(self.device_id, effect.topic_filter)
            case Remember():
                self._remembered = (effect.epoch, effect.round_number)
            case LoadProgram():
                self._later(partial(self._load, effect=effect), 0.0)
            case Recall():
                self._later(partial(self._recall, effect=effect), 0.0)
            case Train():
                self._later(partial(self._train, effect=effect), self.train_s)

    def publish(self, envelope: Envelope) -> None:
        """Send a message, if the link is up."""
        if not self._network.is_attached(self.device_id):
            return
        topic = topic_of(self._fleet, envelope.address)
        retained = envelope.address.route.retained
        self._network.publish(self.device_id, topic, encode_payload(envelope), retained=retained)

    def flood(self, num_messages: int) -> None:
        """Send so many parts of blobs that nobody asked for, if the link is up; none of the blobs is ever whole."""
        self.has_flooded = True
        for number in range(num_messages):
            digest = content_digest(b"flood %d" % number)
            part = Part(digest=digest, index=0, num_parts=2, size_bytes=2048, data=bytes(1024))
            address = Address(SUMMARY, self.device_id) if number % 2 else Address(UPDATE, self.device_id, digest, 0)
            self.publish(Envelope(address, part))

    def _later(self, action: Callable[[Session], None], delay_s: float) -> None:
        """Do something after a while, unless the device was turned off meanwhile."""
        if self._session is not None:
            self._network.at(self._network.now_s + delay_s, partial(self._act, action, self._session))

    def _act(self, action: Callable[[Session], None], session: Session) -> None:
        if session is self._session:
            action(session)

    def _load(self, session: Session, effect: LoadProgram) -> None:
        if effect.files is not None:
            self._manifests[effect.model_id] = effect.files["manifest.json"]
        if effect.model_id not in self._manifests:
            self._perform(session.program_missing(effect.model_id))
            return
        manifest = decode_manifest(self._manifests[effect.model_id])
        self._perform(session.program_ready(effect.model_id, manifest, self._network.now_s))

    def _recall(self, session: Session, effect: Recall) -> None:
        kept = (msgspec.msgpack.decode(data, type=Generation) for data in reversed(self._disk))
        self._perform(session.recalled(effect.plan, find_earlier(effect.plan, kept)))

    def _train(self, session: Session, effect: Train) -> None:
        outcome = run_round(self._program, self._data, effect.work)
        if not outcome.is_finite:
            reason = f"training diverged in round {effect.work.plan.round_number}"
            self._perform(session.failed(reason, self._network.now_s))
            return
        if self.tamper is not None:
            outcome = self.tamper(effect.work, outcome)
        num_examples = len(self._data.train.targets)
        generation = compose_generation(
            self._program.manifest, effect.work, outcome, effect.previous, num_examples, Traffic()
        )
        if self.lose_power() or self.fail_to_write():
            return
        self._disk.append(msgspec.msgpack.encode(generation))
        self._perform(session.trained(generation, self._network.now_s))
