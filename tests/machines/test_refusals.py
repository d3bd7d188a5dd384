"""What does not belong in a round is refused by its reason, and the round goes on without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_client.generation import Generation
from simulations.loopback.fleet import LoopbackFleet
from tests.machines.conftest import MakeFleet
from tests.machines.test_devices import told
from wire.codec import encode_message
from wire.digest import content_digest
from wire.messages import DeviceStatus, InventoryItem, LayerSummary, Measurement, Summary
from wire.parts import split_blob
from wire.tensors import encode_layer, max_encoded_bytes
from wire.topics import STATUS, SUMMARY, UPDATE, Address, Envelope, encode_payload, topic_of

STRANGER = "stranger"
replace = msgspec.structs.replace


def publish(fleet: LoopbackFleet, address: Address, message: Any) -> None:
    payload = encode_payload(Envelope(address, message))
    fleet.network.publish(STRANGER, topic_of("home", address), payload, retained=address.route.retained)


def say(fleet: LoopbackFleet, summary: Summary, device_id: str = STRANGER) -> None:
    for part in split_blob(encode_message(summary), 64 * 1024):
        publish(fleet, Address(SUMMARY, device_id), part)


@pytest.fixture
def fleet(make_fleet: MakeFleet) -> LoopbackFleet:
    """A round that is open, with three honest devices and a stranger in its cohort."""
    fleet = make_fleet("fedper", num_devices=3, quorum=3, cohort_size=4, gather_s=1.0, duration_s=60.0)
    publish(fleet, Address(STATUS, STRANGER), DeviceStatus(state="ready", session=1))
    fleet.run_until(lambda: fleet.devices["pi-0"].generation is not None, 60)
    return fleet


def honest(fleet: LoopbackFleet) -> Generation:
    generation = fleet.devices["pi-0"].generation
    assert generation is not None
    return generation


def layers(summary: Summary, name: str, told_of: LayerSummary) -> Summary:
    return replace(summary, layers={**summary.layers, name: told_of})


def with_nan_in_a_sketch(summary: Summary) -> Summary:
    sketch = np.frombuffer(summary.layers["hidden"].sketch, dtype="<f4").copy()
    sketch[3] = np.nan
    return layers(summary, "hidden", LayerSummary(1.0, sketch.tobytes()))


def first_item(summary: Summary, **changes: Any) -> Summary:
    first, *others = summary.inventory
    return replace(summary, inventory=(replace(first, **changes), *others))


FORGERIES: list[tuple[Callable[[Summary], Summary], str]] = [
    (with_nan_in_a_sketch, "not-finite"),
    (lambda it: layers(it, "hidden", LayerSummary(float("inf"), it.layers["hidden"].sketch)), "not-finite"),
    (lambda it: replace(it, train_loss=float("nan")), "not-finite"),
    (lambda it: replace(it, before=Measurement(float("nan"), 0.5, 10)), "not-finite"),
    (lambda it: replace(it, after=Measurement(1.0, 1.5, 10)), "not-finite"),
    (lambda it: layers(it, "hidden", LayerSummary(1.0, it.layers["hidden"].sketch[4:])), "wrong-shape"),
    (lambda it: layers(it, "head", LayerSummary(1.0, bytes(84))), "wrong-shape"),
    (lambda it: layers(it, "ghost", LayerSummary(1.0)), "wrong-layers"),
    (lambda it: replace(it, inventory=it.inventory[1:]), "wrong-layers"),
    (lambda it: replace(it, inventory=(*it.inventory, InventoryItem("head", "0" * 64, 100))), "wrong-layers"),
    (lambda it: first_item(it, digest=it.inventory[1].digest), "wrong-layers"),
    (lambda it: replace(it, swap_gains={"hidden": 1.0}), "wrong-layers"),
    (lambda it: first_item(it, size_bytes=2**31 - 1), "oversized"),
    (lambda it: replace(it, plan="0" * 64), "late"),
    (lambda it: replace(it, round_number=7), "foreign-round"),
]


@pytest.mark.parametrize(("forge", "reason"), FORGERIES)
def test_a_forged_summary_is_refused_by_its_reason(
    forge: Callable[[Summary], Summary], reason: str, fleet: LoopbackFleet
) -> None:
    summary = forge(honest(fleet).upload.summary)
    say(fleet, summary)
    report = fleet.run(1)[-1]
    assert tuple(report.counted) == ("pi-0", "pi-1", "pi-2")
    assert report.refused_messages == {reason: 1}
    assert told(fleet, STRANGER)[-1] == (summary.round_number, "refused", reason)


def test_a_device_that_never_said_that_it_is_here_is_unknown(fleet: LoopbackFleet) -> None:
    say(fleet, honest(fleet).upload.summary, "nobody")
    assert fleet.run(1)[-1].refused_messages == {"unknown-device": 1}
    assert told(fleet, "nobody") == []


def test_a_device_that_was_not_asked_is_refused(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(num_devices=3)
    fleet.run_until(lambda: fleet.devices["pi-0"].generation is not None, 60)
    publish(fleet, Address(STATUS, STRANGER), DeviceStatus(state="ready", session=1))
    say(fleet, honest(fleet).upload.summary)
    report = fleet.run(1)[-1]
    assert tuple(report.counted) == ("pi-0", "pi-1", "pi-2")
    assert told(fleet, STRANGER) == [(1, "refused", "not-invited")]


def test_parts_of_another_layer_refuse_the_upload_once_and_for_all(fleet: LoopbackFleet) -> None:
    upload = honest(fleet).upload
    spec = fleet.devices["pi-0"]._program.manifest.layer("hidden")
    wrong = encode_layer(spec, np.zeros(spec.num_params, dtype=np.float32), codec="raw").replace(b"hidden", b"middle")
    assert len(wrong) <= max_encoded_bytes(spec)
    digest = content_digest(wrong)
    first, *others = upload.summary.inventory
    summary = replace(upload.summary, inventory=(InventoryItem(first.layer, digest, len(wrong)), *others))
    say(fleet, summary)
    for part in split_blob(wrong, upload.part_bytes, digest):
        publish(fleet, Address(UPDATE, STRANGER, digest, part.index), part)
    say(fleet, summary)  # again: it must not be asked for the same bytes
    report = fleet.run(1)[-1]
    assert report.refused == {STRANGER: "wrong-shape"}
    assert [state for _, state, _ in told(fleet, STRANGER)] == ["wanted", "refused", "refused"]


def test_a_part_without_a_summary_or_of_another_blob_changes_nothing(fleet: LoopbackFleet) -> None:
    data = b"what nobody asked for"
    (part,) = split_blob(data, 1024)
    publish(fleet, Address(UPDATE, STRANGER, part.digest, 0), part)
    say(fleet, honest(fleet).upload.summary)
    publish(fleet, Address(UPDATE, STRANGER, part.digest, 0), part)
    report = fleet.run(1)[-1]
    assert report.refused_messages == {"foreign-round": 1, "wrong-digest": 1}
    assert set(report.counted) >= {"pi-0", "pi-1", "pi-2"}


def test_another_fleets_messages_are_refused_by_both_sides(fleet: LoopbackFleet) -> None:
    payload = encode_message(DeviceStatus(state="ready", session=1))
    fleet.aggregator._receive("fedlag/v1/office/d/pi-0/status", payload)
    fleet.devices["pi-0"]._receive("fedlag/v1/office/plan", payload)
    assert fleet.aggregator.fleet.refused == {"foreign-fleet": 1}
    assert fleet.devices["pi-0"].refused == {"foreign-fleet": 1}
    fleet.run(1)
