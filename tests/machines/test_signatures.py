"""Who holds the broker can keep devices from training; it can neither make them run other code nor hand them other values."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from aggregator.signing import sign_plan
from simulations.loopback.fleet import SIGNING_KEY, LoopbackFleet
from simulations.loopback.network import Crossing, Delivery
from simulations.loopback.numpy_program import NumpyProgram, perceptron_manifest
from tests.machines.conftest import NUM_CLASSES, NUM_INPUTS, MakeFleet, Works
from tests.machines.test_refusals import publish
from wire.codec import decode_message, encode_message, plan_digest
from wire.digest import content_digest
from wire.manifest import encode_manifest
from wire.messages import DeviceStatus, Invitation, Message, Part, RoundPlan
from wire.parts import split_blob
from wire.topics import (
    INVITATION,
    MODEL,
    PLAN,
    PROGRAM,
    STATUS,
    Address,
    Envelope,
    decode_payload,
    encode_payload,
    parse_topic,
    topic_of,
)

replace = msgspec.structs.replace
Forge = Callable[[RoundPlan], RoundPlan]

STRANGERS_KEY = Ed25519PrivateKey.from_private_bytes(bytes(31) + b"\x01")
OTHER_PROGRAM = encode_manifest(replace(perceptron_manifest([NUM_INPUTS, 8, 6, NUM_CLASSES]), model="another"))
OTHER_ID = content_digest(OTHER_PROGRAM)
"""Of the program that the attacker would have devices run."""

PLANS_THAT_ARE_NOT_SIGNED: dict[str, Forge] = {
    "another program": lambda plan: replace(plan, model_id=OTHER_ID),
    "another program, unsigned": lambda plan: replace(plan, model_id=OTHER_ID, signature=b""),
    "another program, signed by a stranger": lambda plan: sign_plan(replace(plan, model_id=OTHER_ID), STRANGERS_KEY),
    "other values": lambda plan: replace(plan, shared_layers=dict.fromkeys(plan.shared_layers, "0" * 64)),
    "another epoch": lambda plan: replace(plan, epoch=plan.epoch + 1),
    "a personal layer to be shared": lambda plan: replace(
        plan, shared_layers={**plan.shared_layers, **plan.personal_layers}, personal_layers={}
    ),
    "the true plan, unsigned": lambda plan: replace(plan, signature=b""),
    "the true plan, half a signature": lambda plan: replace(plan, signature=plan.signature[:32]),
    "signed as something else": lambda plan: replace(
        plan, signature=SIGNING_KEY.sign(encode_message(replace(plan, signature=b"")))
    ),
}
PLAN_OF_ANOTHER_FLEET: Forge = lambda plan: sign_plan(replace(plan, fleet="office"), SIGNING_KEY)  # noqa: E731


class Attacker:
    """A policy of one who holds the broker: while it is at work, each device gets what it likes in place of what was published.

    Args:
        forge: Makes a message of the true one.
        routes: Whose messages it replaces.
    """

    def __init__(self, forge: Callable[[Address, Message], Message], *routes: object) -> None:
        self.is_at_work = False
        self._forge = forge
        self._routes = routes

    def __call__(self, crossing: Crossing, receiver: str) -> Sequence[Delivery]:
        address = parse_topic("home", crossing.topic)
        message = decode_payload(address, crossing.payload)
        if self.is_at_work and receiver != "aggregator" and address.route in self._routes and message is not None:
            forged = Envelope(address, self._forge(address, message))
            return (Delivery(encode_payload(forged)),)
        return (Delivery(crossing.payload),)


def who_replaces_plans(forge: Forge) -> Attacker:
    """An attacker who also invites everybody to its plan."""
    digests: list[str] = []

    def replace_plan(_: Address, message: Message) -> Message:
        if isinstance(message, RoundPlan):
            forged = forge(message)
            digests.append(plan_digest(forged))
            return forged
        return Invitation(plan=digests[-1]) if digests else message

    return Attacker(replace_plan, PLAN, INVITATION)


def offer_other_program(fleet: LoopbackFleet) -> None:
    (part,) = split_blob(OTHER_PROGRAM, 1024 * 1024)
    publish(fleet, Address(PROGRAM, digest=part.digest, part=0), part)


def has_touched_other_program(fleet: LoopbackFleet) -> bool:
    """Say whether a device has loaded, fetched or asked for it."""
    devices = fleet.devices.values()
    return any(OTHER_ID in it._manifests or any(OTHER_ID in topic for topic in it._filters) for it in devices)


def last_status(fleet: LoopbackFleet, device_id: str) -> DeviceStatus:
    topic = topic_of("home", Address(STATUS, device_id))
    payload = next(it.payload for it in reversed(fleet.network.log) if it.topic == topic)
    return decode_message(payload, DeviceStatus, STATUS.max_bytes)


def check_that_nobody_takes(forge: Forge, reason: str, make_fleet: MakeFleet, works: Works, *, num_honest: int) -> None:
    """Let some rounds pass honestly, then replace every plan for ten minutes, then none."""
    attacker = who_replaces_plans(forge)
    fleet = make_fleet("fedper", policy=attacker, num_devices=3)
    offer_other_program(fleet)
    if num_honest:
        fleet.run(num_honest)
    else:
        for device in fleet.devices.values():
            device.stop()
    attacker.is_at_work = True
    for device in fleet.devices.values() if not num_honest else ():
        device.start()
    fleet.run_for(600.0)
    before = num_honest + 1 if num_honest else 0  # the plan that follows a round is out when the round is over
    assert {number for _, number in works} <= set(range(1, before + 1))
    assert not has_touched_other_program(fleet)
    for name, device in fleet.devices.items():
        assert device.refused[reason] > 0
        assert reason in last_status(fleet, name).reason
    attacker.is_at_work = False
    reports = fleet.run(2)
    assert [sorted(report.counted) for report in reports[-1:]] == [["pi-0", "pi-1", "pi-2"]]
    assert last_status(fleet, "pi-0").reason == ""


@pytest.mark.parametrize("forgery", PLANS_THAT_ARE_NOT_SIGNED)
@pytest.mark.parametrize("num_honest", [0, 1])
def test_a_plan_that_the_aggregator_has_not_signed_is_not_taken_and_the_true_one_is(
    forgery: str, num_honest: int, make_fleet: MakeFleet, works: Works
) -> None:
    forge = PLANS_THAT_ARE_NOT_SIGNED[forgery]
    check_that_nobody_takes(forge, "wrong-signature", make_fleet, works, num_honest=num_honest)


@pytest.mark.parametrize("num_honest", [0, 1])
def test_a_plan_that_the_same_key_has_signed_for_another_fleet_is_not_taken(
    num_honest: int, make_fleet: MakeFleet, works: Works
) -> None:
    check_that_nobody_takes(PLAN_OF_ANOTHER_FLEET, "foreign-fleet", make_fleet, works, num_honest=num_honest)


def test_without_a_key_a_device_runs_what_the_brokers_master_likes(make_fleet: MakeFleet) -> None:
    attacker = who_replaces_plans(lambda plan: replace(plan, model_id=OTHER_ID))
    fleet = make_fleet(policy=attacker, is_signed=False)
    offer_other_program(fleet)
    fleet.run(1)
    attacker.is_at_work = True
    fleet.run_for(600.0)
    assert has_touched_other_program(fleet)


def test_an_older_plan_sent_again_is_refused_and_the_fleet_goes_on_with_the_true_one(
    make_fleet: MakeFleet, works: Works
) -> None:
    recorded: list[RoundPlan] = []
    attacker = who_replaces_plans(lambda _: recorded[0])
    fleet = make_fleet(policy=attacker)
    recorded.append(sign_plan(fleet.aggregator.state.plan, SIGNING_KEY))
    fleet.run(2)
    attacker.is_at_work = True
    fleet.run_for(600.0)
    assert {number for _, number in works} == {1, 2, 3}
    assert all(device.refused["foreign-round"] > 0 for device in fleet.devices.values())
    attacker.is_at_work = False
    assert len(fleet.run(2)[-1].counted) == 3


def test_a_device_that_starts_again_takes_no_older_plan_than_before_though_it_has_served_none(
    make_fleet: MakeFleet,
) -> None:
    recorded: list[RoundPlan] = []
    attacker = who_replaces_plans(lambda _: recorded[0])
    fleet = make_fleet(policy=attacker, quorum=2)
    device = fleet.devices["pi-0"]
    device.train_s = 100_000.0
    recorded.append(sign_plan(fleet.aggregator.state.plan, SIGNING_KEY))
    fleet.run(3)
    device.stop()
    attacker.is_at_work = True
    device.start()
    fleet.run_for(60.0)
    assert device.generation is None
    assert device.refused["foreign-round"] > 0
    status = last_status(fleet, "pi-0")
    assert status.reason == "no plan from the aggregator yet"
    assert (status.epoch, status.round_number) > (0, 1)


def with_other_bytes(_: Address, message: Message) -> Message:
    assert isinstance(message, Part)
    return replace(message, data=bytes(len(message.data)))


@pytest.mark.parametrize("what", ["the manifest", "a program's file", "a layer's values"])
def test_other_bytes_under_a_name_in_a_signed_plan_are_neither_loaded_nor_trained_from(
    what: str, make_fleet: MakeFleet, works: Works, program: NumpyProgram
) -> None:
    model_id = content_digest(encode_manifest(program.manifest))

    def forge(address: Address, message: Message) -> Message:
        is_manifest = address.digest == model_id
        is_meant = address.route is MODEL if what == "a layer's values" else is_manifest == (what == "the manifest")
        return with_other_bytes(address, message) if is_meant else message

    attacker = Attacker(forge, MODEL if what == "a layer's values" else PROGRAM)
    attacker.is_at_work = True
    fleet = make_fleet(policy=attacker)
    fleet.run_for(600.0)
    assert works == {}
    for device in fleet.devices.values():
        assert device.refused["wrong-digest"] > 0
        assert device.refused["wrong-signature"] == 0
    attacker.is_at_work = False
    assert len(fleet.run(1)[-1].counted) == 3


def test_plans_are_signed_after_a_restart_and_in_a_later_epoch_and_the_same_plan_is_the_same_to_the_byte(
    make_fleet: MakeFleet,
) -> None:
    fleet = make_fleet(num_devices=3)
    fleet.run(1)
    fleet.aggregator.stop()
    fleet.run_for(5.0)
    fleet.aggregator.start()
    fleet.run(1)
    publish(fleet, Address(STATUS, "pi-0"), DeviceStatus(state="ready", session=9, epoch=4, round_number=1))
    fleet.run(2)
    topic = topic_of("home", Address(PLAN))
    payloads = [it.payload for it in fleet.network.log if it.topic == topic]
    plans = [decode_message(it, RoundPlan, PLAN.max_bytes) for it in payloads]
    assert all(plan == sign_plan(plan, SIGNING_KEY) for plan in plans)
    assert {plan.epoch for plan in plans} == {0, 5}
    assert len(set(payloads)) == len({plan_digest(plan) for plan in plans}) < len(payloads)


def test_signing_changes_no_bit_of_what_a_fleet_does(make_fleet: MakeFleet) -> None:
    signed, unsigned = (make_fleet("fedper", is_signed=is_signed) for is_signed in (True, False))
    signed.run(3)
    unsigned.run(3)
    assert signed.aggregator.state == unsigned.aggregator.state
    assert [report.plan for report in signed.aggregator.reports] == [it.plan for it in unsigned.aggregator.reports]
