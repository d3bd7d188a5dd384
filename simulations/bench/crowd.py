"""Many virtual devices in one process: the product's own sessions and links, whose training is an update that is there already.

``python -m simulations.bench.crowd ORDER`` runs them until SIGTERM, then writes what they heard. A virtual device differs from
``edge_client.agent`` in this: its disk is memory, its program is in place, and every device's update has the same values.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec
import numpy as np

from edge_client.effects import Effect, LoadProgram, Recall, Train
from edge_client.fetching import Subscribe, Unsubscribe
from edge_client.generation import Generation, Traffic, compose_generation
from edge_client.session import Session
from edge_client.training import RoundOutcome, RoundWork, summarize_update
from simulations.bench.ledgers import CrowdLedger, DeviceLedger, UploadLedger
from simulations.loopback.numpy_program import perceptron_manifest
from wire.broker_address import BrokerAddress
from wire.codec import plan_digest
from wire.errors import WireError
from wire.manifest import ModelManifest
from wire.messages import Acknowledgement, DeviceStatus, Measurement
from wire.mqtt import Connected, Received
from wire.polled import PolledLink
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
    parse_topic,
    subscription,
)

__all__ = ["CrowdOrder", "main"]

TICK_S = 1.0
CONNECT_TIMEOUT_S = 600.0
UPDATE_SCALE = 0.01
NUM_EXAMPLES = 100

log = logging.getLogger(__name__)


class CrowdOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Who shall be there.

    Args:
        fleet: The fleet's name.
        brokers: Device -> where the broker is, with the device's own certificate.
        sizes: Units of the model's layers, from the inputs to the classes; see ``perceptron_manifest``.
        ledger: Where what they heard is written at the end.
    """

    fleet: str
    brokers: dict[str, BrokerAddress]
    sizes: tuple[int, ...]
    ledger: Path


class _Training:
    """Trains nothing: for every plan one update, made once for all devices of the process."""

    def __init__(self, manifest: ModelManifest) -> None:
        self.manifest = manifest
        rng = np.random.default_rng(0)
        self._updates = {
            layer.name: (UPDATE_SCALE * rng.standard_normal(layer.num_params)).astype(np.float32)
            for layer in manifest.layers
        }
        self._done: dict[str, Generation] = {}

    def generation(self, work: RoundWork) -> Generation:
        digest = plan_digest(work.plan)
        if digest not in self._done:
            self._done = {digest: self._train(work)}
        return self._done[digest]

    def _train(self, work: RoundWork) -> Generation:
        measured = Measurement(loss=1.0, accuracy=0.5, num_examples=NUM_EXAMPLES)
        own, layers = {}, {}
        for layer in self.manifest.layers if work.plan.training.num_epochs else ():
            own[layer.name] = work.installed[layer.name] + self._updates[layer.name]
            layers[layer.name] = summarize_update(work.plan, layer, self._updates[layer.name])
        outcome = RoundOutcome(own, layers, len(own), 1.0, measured, measured, None, {})
        return compose_generation(self.manifest, work, outcome, None, NUM_EXAMPLES, Traffic())


class _VirtualDevice:
    """One device: ``edge_client.agent`` without disk and runtime."""

    def __init__(self, fleet: str, device_id: str, broker: BrokerAddress, training: _Training) -> None:
        self.ledger = DeviceLedger()
        self._device_id = device_id
        self._fleet = fleet
        self._training = training
        self._session = Session(fleet, device_id, 1, "onnx")
        lost = DeviceStatus(state="lost", session=1, runtime="onnx")
        self._farewell = Envelope(Address(STATUS, device_id), lost)
        self._link = PolledLink(broker, f"{fleet}.{device_id}", fleet, self._farewell)
        for route in (SERVER, PLAN):
            self._link.subscribe(subscription(fleet, route))
        for route in (INVITATION, ACKNOWLEDGEMENT):
            self._link.subscribe(subscription(fleet, route, device_id))

    async def run(self) -> None:
        await self._link.connect(CONNECT_TIMEOUT_S)
        async for event in self._link.messages():
            if isinstance(event, Connected):
                self._perform(self._session.connected(time.monotonic()))
            else:
                self._receive(event)

    def tick(self) -> None:
        self._perform(self._session.tick(time.monotonic()))

    async def close(self) -> None:
        await self._link.close(self._farewell)

    def _receive(self, event: Received) -> None:
        try:
            address = parse_topic(self._fleet, event.topic)
            message = decode_payload(address, event.payload)
            effects = self._session.handle(address, message, time.monotonic())
        except WireError as error:
            log.warning("%s refused a message on %s: %s", self._device_id, event.topic, error)
            return
        if isinstance(message, Acknowledgement) and message.state in ("stored", "counted"):
            self._note(message)
        self._perform(effects)

    def _perform(self, effects: Iterable[Effect]) -> None:
        now_s = time.monotonic()
        for effect in effects:
            match effect:
                case Envelope():
                    self._note_sending(effect, now_s)
                    self._link.publish(effect)
                case Subscribe():
                    self._link.subscribe(effect.topic_filter)
                case Unsubscribe():
                    self._link.unsubscribe(effect.topic_filter)
                case LoadProgram() | Recall() | Train():
                    asyncio.get_running_loop().call_soon(self._report, effect)  # behind the other effects

    def _report(self, effect: LoadProgram | Recall | Train) -> None:
        """Do what the shell is asked to, at once, and say so."""
        now_s = time.monotonic()
        match effect:
            case LoadProgram():
                self._perform(self._session.program_ready(effect.model_id, self._training.manifest, now_s))
            case Recall():
                self._perform(self._session.recalled(effect.plan, None))
            case Train():
                plan = effect.work.plan
                self.ledger.uploads.append(UploadLedger(epoch=plan.epoch, round_number=plan.round_number))
                self._perform(self._session.trained(self._training.generation(effect.work), now_s))

    def _note_sending(self, envelope: Envelope, now_s: float) -> None:
        route = envelope.address.route
        if route is SUMMARY and not self.ledger.uploads[-1].announced_s:
            self.ledger.uploads[-1].announced_s = now_s
        elif route is UPDATE:
            self.ledger.uploads[-1].last_part_s = now_s

    def _note(self, message: Acknowledgement) -> None:
        for upload in self.ledger.uploads:
            if (upload.epoch, upload.round_number) == (message.epoch, message.round_number):
                upload.inventory = message.inventory
                upload.stored_s = upload.stored_s or time.monotonic()


async def _run(order: CrowdOrder) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    training = _Training(perceptron_manifest(order.sizes))
    devices = {name: _VirtualDevice(order.fleet, name, broker, training) for name, broker in order.brokers.items()}
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(device.run()) for device in devices.values()]
        tasks.append(group.create_task(_let_time_pass(list(devices.values()))))
        await stop.wait()
        for task in tasks:
            task.cancel()
    ledger = CrowdLedger(devices={name: device.ledger for name, device in devices.items()})
    order.ledger.write_bytes(msgspec.json.encode(ledger))
    await asyncio.gather(*(device.close() for device in devices.values()))


async def _let_time_pass(devices: list[_VirtualDevice]) -> None:
    while True:
        for device in devices:
            await asyncio.sleep(TICK_S / len(devices))
            device.tick()


def main(arguments: list[str]) -> None:
    """Run the devices of the order in this file until SIGTERM."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    (path,) = arguments
    order = msgspec.json.decode(Path(path).read_bytes(), type=CrowdOrder, dec_hook=lambda kind, text: kind(text))
    asyncio.run(_run(order))


if __name__ == "__main__":
    main(sys.argv[1:])
