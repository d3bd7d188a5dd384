"""The aggregator of a loopback fleet: the product's ``aggregator.fleet.Fleet`` with a disk that is a few values in memory.

It does what ``aggregator.server`` does, without MQTT and files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from aggregator.config import AggregatorConfig
from aggregator.effects import AskCohort, Checkpoint, CloseRound, CommitUpload, Effect, Finished, GoBack, LogLayer
from aggregator.fleet import Fleet
from aggregator.intake import Intake
from aggregator.planning import FleetState, build_plan
from aggregator.publication import Publication
from aggregator.receipts import Receipts
from aggregator.round import Interrupted
from aggregator.round_report import ClosedRound, RoundReport
from aggregator.selection import Selector, make_selector
from aggregator.signing import sign_plan
from aggregator.staleness import average_uploads
from simulations.loopback.network import Loopback
from simulations.loopback.numpy_program import PROGRAM_FILES
from simulations.loopback.power import Powered
from wire.codec import inventory_digest, plan_digest
from wire.digest import content_digest
from wire.errors import FleetError
from wire.manifest import ModelManifest, encode_manifest
from wire.messages import ServerStatus, Summary
from wire.tensors import decode_layer, encode_layer
from wire.topics import (
    SERVER,
    STATUS,
    SUMMARY,
    UPDATE,
    Address,
    Envelope,
    encode_payload,
    subscription,
    topic_of,
)

__all__ = ["LoopbackAggregator"]

NAME = "aggregator"
TICK_S = 1.0


class LoopbackAggregator(Powered):
    """The aggregator.

    Args:
        network: Where it speaks.
        config: As in production; its paths and its broker are not used.
        manifest: Of the model.
        initial: Layer -> initial values, float32, shape ``(num_params,)``.
        signing_key: Signs the plans; ``None``: nobody does.
    """

    def __init__(
        self,
        network: Loopback,
        config: AggregatorConfig,
        manifest: ModelManifest,
        initial: Mapping[str, np.ndarray],
        signing_key: Ed25519PrivateKey | None,
    ) -> None:
        """Make the first checkpoint; ``start`` turns it on."""
        super().__init__(network)
        self.closed: list[ClosedRound] = []
        self.manifest = manifest
        self.limited: set[str] = set()
        self.committed: dict[str, dict[str, np.ndarray]] = {}
        self._config = config
        self._sign = partial(sign_plan, key=signing_key)
        self._model_id = content_digest(encode_manifest(manifest))
        self._session = 0
        self._appended: dict[str, dict[str, np.ndarray]] = {}
        self._asked: AskCohort | None = None
        self._stored: dict[str, Summary] = {}
        self._receipts: dict[tuple[int, int], Mapping[str, str]] = {}
        self._fleet: Fleet | None = None
        self._intake: Intake | None = None
        blobs = {name: encode_layer(manifest.layer(name), values, codec="raw") for name, values in initial.items()}
        self._layers = {content_digest(data): data for data in blobs.values()}
        first = self._first_state({n: content_digest(d) for n, d in blobs.items()})
        self._checkpoint = msgspec.msgpack.encode(first)
        self._versions = {first.name: self._checkpoint}

    @property
    def reports(self) -> list[RoundReport]:
        """Of the rounds that are closed."""
        return [it.report for it in self.closed]

    @property
    def stored(self) -> dict[str, str]:
        """Device -> digest of the inventory that is durable in the open round."""
        return {device_id: inventory_digest(summary) for device_id, summary in self._stored.items()}

    @property
    def state(self) -> FleetState:
        """The last checkpoint."""
        return msgspec.msgpack.decode(self._checkpoint, type=FleetState)

    def version(self, name: str) -> FleetState:
        """Return a version by its name, as ``0-12``."""
        return msgspec.msgpack.decode(self._versions[name], type=FleetState)

    @property
    def fleet(self) -> Fleet:
        """The state machine that is running.

        Raises:
            FleetError: If the aggregator is off.
        """
        if self._fleet is None:
            raise FleetError("the aggregator is off")
        return self._fleet

    def layer(self, name: str) -> np.ndarray:
        """Return the last average of a layer, float32, shape ``(num_params,)``."""
        return self.published_layer(name, self.state.layers[name])

    def published_layer(self, name: str, digest: str) -> np.ndarray:
        """Return the values of a layer that some plan named, by their digest."""
        return decode_layer(self._layers[digest], self.manifest.layer(name))

    def start(self) -> None:
        """Turn it on, perhaps again: from the checkpoint, in the middle of the round that its log holds."""
        self._session += 1
        self._appended = {}
        state = self.state
        goes_on = self._asked is not None and self._asked.plan == plan_digest(state.plan)
        named = sorted({*state.plan.shared_layers.values(), *state.plan.personal_layers.values()})
        files = (encode_manifest(self.manifest), *PROGRAM_FILES.values())
        publication = Publication(self._session, files, {digest: self._layers[digest] for digest in named}, self._sign)
        self._fleet = Fleet(
            self._config,
            self._model_id,
            self.manifest,
            selector=self._selector(),
            state=state,
            publication=publication,
            receipts=Receipts(self._receipts),
            interrupted=Interrupted(self._asked.cohort, dict(self._stored)) if self._asked and goes_on else None,
        )
        self._intake = Intake(self._config, self.manifest, self._fleet)
        self.connect()
        self._later()

    def stop(self) -> None:
        """Cut its power."""
        self._fleet = None
        self.disconnect()

    def connect(self) -> None:
        """Bring the link up, unless it is off."""
        if self._fleet is None:
            return
        will = Envelope(Address(SERVER), ServerStatus(state="lost", session=self._session))
        topic = topic_of(self._config.fleet, will.address)
        self._network.attach(NAME, self._receive, (topic, encode_payload(will)))
        for route in (STATUS, SUMMARY, UPDATE):
            self._network.subscribe(NAME, subscription(self._config.fleet, route))
        self._perform(self.fleet.connected(self._network.now_s))

    def disconnect(self) -> None:
        """Lose the link."""
        self._network.detach(NAME)

    def _selector(self) -> Selector:
        settings = self._config.selector
        statistics = self.manifest.statistics_layers
        share = self._config.averaging.malicious_share
        return make_selector(settings.name, settings.options, self._config.rounds.num_rounds, statistics, share)

    def _first_state(self, layers: dict[str, str]) -> FleetState:
        selector = self._selector()
        selector_state, decision = selector.start({layer.name: layer.num_params for layer in self.manifest.layers})
        plan = build_plan(
            self._config,
            self._model_id,
            self.manifest,
            layers,
            decision,
            needs_personal_sketches=selector.needs_personal_sketches,
        )
        return FleetState(
            plan=plan,
            layers=layers,
            selector=selector.name,
            selector_state=selector_state,
            decision=decision,
        )

    def _receive(self, topic: str, payload: bytes) -> None:
        if self._fleet is None or self._intake is None:
            return
        before = self.fleet.refused["flooding"]
        effects = self._intake.take(topic, payload, self._network.now_s)
        if self.fleet.refused["flooding"] > before:
            self.limited.add(topic.split("/")[4])
        self._perform(effects)

    def _tick(self, fleet: Fleet) -> None:
        if fleet is self._fleet:
            self._perform(fleet.tick(self._network.now_s))
            self._later()

    def _later(self) -> None:
        if self._fleet is not None:
            self._network.at(self._network.now_s + TICK_S, partial(self._tick, self._fleet))

    def _perform(self, effects: Iterable[Effect]) -> None:
        fleet = self._fleet
        for effect in effects:
            if self._fleet is not fleet or self.lose_power():
                return
            if isinstance(effect, AskCohort | CommitUpload | Checkpoint) and self.fail_to_write():
                return
            self._do(effect)

    def _do(self, effect: Effect) -> None:
        match effect:
            case Envelope():
                self._publish(effect)
            case AskCohort():
                self._asked = effect
            case LogLayer():
                self._appended.setdefault(effect.device_id, {})[effect.layer] = effect.values
            case CommitUpload():
                self.committed[effect.device_id] = self._appended.pop(effect.device_id, {})
                self._stored[effect.device_id] = effect.summary
            case CloseRound():
                self._close_round(effect)
            case Checkpoint():
                self._save(effect)
            case GoBack():
                self._go_back(effect)
            case Finished():
                pass

    def _publish(self, envelope: Envelope) -> None:
        if self._intake is not None:
            self._intake.sent(envelope, self._network.now_s)
        if self._network.is_attached(NAME):
            topic = topic_of(self._config.fleet, envelope.address)
            self._network.publish(NAME, topic, encode_payload(envelope), retained=envelope.address.route.retained)

    def _go_back(self, effect: GoBack) -> None:
        version = self.version(effect.version)
        plan = msgspec.structs.replace(version.plan, epoch=self.state.plan.epoch + 1)
        state = msgspec.structs.replace(version, plan=plan, guard=effect.guard)
        layers = {digest: self._layers[digest] for digest in state.layers.values()}
        self._perform(self.fleet.go_on_from(state, layers, effect.closed))

    def _save(self, effect: Checkpoint) -> None:
        self._checkpoint = self._versions[effect.state.name] = msgspec.msgpack.encode(effect.state)
        self._layers |= effect.layers
        if effect.closed is not None:
            plan = effect.closed.plan
            self.closed.append(effect.closed)
            self._receipts[plan.epoch, plan.round_number] = effect.closed.receipts
        carried: dict[str, dict[str, np.ndarray]] = {}
        for device_id, layer in effect.carried:
            carried.setdefault(device_id, {})[layer] = self._appended[device_id][layer]
        self.committed, self._appended, self._stored, self._asked = {}, carried, {}, None

    def _close_round(self, effect: CloseRound) -> None:
        averages = average_uploads(
            self._config.averaging,
            effect.origins,
            effect.weights,
            self.state.plan.shared_layers,
            lambda name, devices: {device: self.committed[device][name] for device in devices},
            self.published_layer,
        )
        self._perform(self.fleet.close_round(averages, self._network.now_s))
