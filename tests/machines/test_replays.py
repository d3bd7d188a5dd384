"""What was recorded is sent again, and what is another's is sent as one's own: nothing of it is counted."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import numpy as np

from aggregator.averaging import weighted_average
from edge_client.generation import Upload
from simulations.loopback.fleet import LoopbackFleet
from simulations.loopback.network import Crossing
from tests.machines.conftest import MakeFleet
from tests.machines.test_devices import told
from tests.machines.test_refusals import publish, say
from wire.codec import encode_message
from wire.digest import content_digest
from wire.messages import Acknowledgement, DeviceStatus, Invitation
from wire.parts import split_blob
from wire.tensors import decode_layer
from wire.topics import (
    ACKNOWLEDGEMENT,
    INVITATION,
    STATUS,
    SUMMARY,
    UPDATE,
    Address,
    Envelope,
    encode_payload,
    topic_of,
)

replace = msgspec.structs.replace


def sent_by(fleet: LoopbackFleet, device_id: str, begin: int = 0) -> list[Crossing]:
    """What a device has uploaded so far: summaries and parts."""
    return [it for it in fleet.network.log[begin:] if f"/d/{device_id}/up/" in it.topic]


def send_again(fleet: LoopbackFleet, recorded: Iterable[Crossing]) -> None:
    for crossing in recorded:
        fleet.network.publish("thief", crossing.topic, crossing.payload)


def upload_of(fleet: LoopbackFleet, device_id: str) -> Upload:
    generation = fleet.devices[device_id].generation
    assert generation is not None
    return generation.upload


def outcome(fleet: LoopbackFleet) -> tuple[dict[str, str], list[tuple[str, ...]]]:
    return fleet.aggregator.state.layers, [tuple(report.counted) for report in fleet.aggregator.reports]


def test_all_that_crossed_in_earlier_rounds_sent_again_changes_no_bit(make_fleet: MakeFleet) -> None:
    calm, fleet = make_fleet("fedper"), make_fleet("fedper")
    calm.run(5)
    for _ in range(5):
        recorded = [it for name in fleet.devices for it in sent_by(fleet, name)]
        send_again(fleet, recorded)
        fleet.run(1)
    assert outcome(fleet) == outcome(calm)


def test_a_summary_of_an_earlier_round_under_the_plan_of_this_one_is_refused(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(num_devices=3)
    fleet.run(1)
    old = upload_of(fleet, "pi-0").summary
    fleet.run_until(lambda: upload_of(fleet, "pi-1").summary.round_number == 2, 60)
    plan = upload_of(fleet, "pi-1").summary.plan
    say(fleet, old, "pi-0")
    say(fleet, replace(old, plan=plan), "pi-0")
    report = fleet.run(1)[-1]
    assert (1, "counted", "") in told(fleet, "pi-0")
    assert (1, "refused", "foreign-round") in told(fleet, "pi-0")
    assert sorted(report.counted) == ["pi-0", "pi-1", "pi-2"]


def test_an_altered_summary_of_an_upload_that_is_known_changes_neither_weight_nor_evidence(
    make_fleet: MakeFleet,
) -> None:
    fleet = make_fleet(num_devices=3, duration_s=60.0)
    fleet.devices["pi-1"].train_s = 20.0
    fleet.run_until(lambda: (1, "stored", "") in told(fleet, "pi-0"), 60)
    honest = upload_of(fleet, "pi-0").summary
    say(fleet, replace(honest, num_examples=1_000_000, train_loss=1e9), "pi-0")
    say(fleet, replace(honest, num_examples=1_000_000, inventory=honest.inventory[::-1]), "pi-0")
    (report,) = fleet.run(1)
    assert report.counted["pi-0"].num_examples == honest.num_examples
    assert report.counted["pi-0"].train_loss == honest.train_loss
    uploads = {name: upload_of(fleet, name) for name in fleet.devices}
    for layer in fleet.aggregator.manifest.layers:
        rows = {
            name: decode_layer(it.blobs[next(i.digest for i in it.summary.inventory if i.layer == layer.name)], layer)
            for name, it in uploads.items()
        }
        weights = {name: float(it.summary.num_examples) for name, it in uploads.items()}
        np.testing.assert_array_equal(fleet.aggregator.layer(layer.name), weighted_average(rows, weights))


def test_what_was_sent_in_an_earlier_epoch_is_late_in_this_one(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(num_devices=3)
    fleet.run(2)
    recorded = sent_by(fleet, "pi-0")
    claim = DeviceStatus(state="ready", session=9, epoch=4, round_number=1)
    publish(fleet, Address(STATUS, "pi-0"), claim)
    fleet.run_until(lambda: fleet.aggregator.state.plan.epoch == 5, 60)
    fleet.run_until(lambda: (3, "wanted", "") in told(fleet, "pi-1"), 60)
    begin = len(fleet.network.log)
    plan = fleet.aggregator.state.plan
    send_again(fleet, recorded)
    report = fleet.run(1)[-1]
    assert (report.epoch, report.round_number) == (plan.epoch, plan.round_number)
    assert len(report.counted) == 3
    answers = [it for it in fleet.network.log[begin:] if it.topic == topic_of("home", Address(ACKNOWLEDGEMENT, "pi-0"))]
    assert answers


def test_a_summary_of_another_fleets_plan_is_late_here(make_fleet: MakeFleet) -> None:
    fleet, other = make_fleet(num_devices=3), make_fleet(num_devices=3, sketch_width=64)
    for it in (fleet, other):
        it.run_until(lambda it=it: it.devices["pi-0"].generation is not None, 60)  # type: ignore[misc]
    foreign = upload_of(other, "pi-0").summary
    assert foreign.plan != upload_of(fleet, "pi-0").summary.plan
    say(fleet, foreign, "pi-0")
    report = fleet.run(1)[-1]
    assert (1, "refused", "late") in told(fleet, "pi-0")
    assert report.refused == {}
    assert sorted(report.counted) == ["pi-0", "pi-1", "pi-2"]


def test_parts_of_another_devices_upload_are_in_nobody_elses_inventory(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(num_devices=3)
    fleet.devices["pi-2"].train_s = 20.0
    fleet.run_until(lambda: (1, "stored", "") in told(fleet, "pi-0"), 60)
    say(fleet, upload_of(fleet, "pi-1").summary, "pi-1")
    upload = upload_of(fleet, "pi-0")
    for digest, blob in upload.blobs.items():
        for part in split_blob(blob, upload.part_bytes, digest):
            publish(fleet, Address(UPDATE, "pi-1", digest, part.index), part)
            publish(fleet, Address(UPDATE, "pi-2", digest, part.index), part)
    (report,) = fleet.run(1)
    assert report.refused_messages == {"wrong-digest": 3, "foreign-round": 3}
    assert sorted(report.counted) == ["pi-0", "pi-1", "pi-2"]


def test_parts_with_other_values_under_the_digest_of_an_upload_do_not_enter_it(make_fleet: MakeFleet) -> None:
    calm, fleet = make_fleet(num_devices=3), make_fleet(num_devices=3)
    calm.run(2)
    fleet.run(1)
    fleet.run_until(lambda: upload_of(fleet, "pi-0").summary.round_number == 2, 60)
    upload = upload_of(fleet, "pi-0")
    for digest, blob in upload.blobs.items():
        (part,) = split_blob(bytes(len(blob)), upload.part_bytes, digest)
        publish(fleet, Address(UPDATE, "pi-0", digest, 0), part)
    fleet.run(1)
    assert outcome(fleet) == outcome(calm)


def test_an_acknowledgement_or_invitation_for_another_device_moves_nobody(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(num_devices=3)
    fleet.devices["pi-2"].train_s = 20.0
    fleet.run_until(lambda: (1, "stored", "") in told(fleet, "pi-0"), 60)
    upload, victim = upload_of(fleet, "pi-0"), fleet.devices["pi-0"]
    counted = Acknowledgement(epoch=0, round_number=1, inventory=upload.digest, state="counted")
    address = Address(ACKNOWLEDGEMENT, "pi-1")
    publish(fleet, address, counted)  # it reaches pi-1, whose upload is another
    victim._receive(topic_of("home", address), encode_payload(Envelope(address, counted)))
    invitation = Address(INVITATION, "pi-1")
    victim._receive(topic_of("home", invitation), encode_payload(Envelope(invitation, Invitation(plan="0" * 64))))
    fleet.run_for(1.0)
    assert fleet.devices["pi-1"].refused == {"foreign-round": 1}
    assert victim.refused == {"unknown-device": 2}
    assert len(fleet.run(1)[-1].counted) == 3


def test_an_acknowledgement_of_an_earlier_round_ends_no_upload(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(num_devices=3)
    fleet.run(1)
    old = upload_of(fleet, "pi-0").digest
    fleet.run_until(lambda: upload_of(fleet, "pi-0").summary.round_number == 2, 60)
    for state in ("counted", "refused", "stored"):
        word = Acknowledgement(epoch=0, round_number=1, inventory=old, state=state)
        publish(fleet, Address(ACKNOWLEDGEMENT, "pi-0"), word)
    assert sorted(fleet.run(1)[-1].counted) == ["pi-0", "pi-1", "pi-2"]
    assert fleet.devices["pi-0"].refused["foreign-round"] >= 3


def test_a_device_is_believed_once_that_it_has_seen_a_later_epoch(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(num_devices=4, quorum=3, duration_s=30.0)
    fleet.run(1)
    for turn in range(10):
        claim = DeviceStatus(state="ready", session=9, epoch=10 * (turn + 1), round_number=1)
        publish(fleet, Address(STATUS, "pi-3"), claim)
        fleet.run_for(1.0)
    assert fleet.aggregator.state.plan.epoch == 11
    assert fleet.aggregator.fleet.refused["foreign-round"] >= 9
    assert len(fleet.run(2)[-1].counted) >= 3


def test_a_summary_under_the_digest_of_another_is_refused(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(num_devices=3)
    fleet.run_until(lambda: fleet.devices["pi-0"].generation is not None, 60)
    data = encode_message(upload_of(fleet, "pi-0").summary)
    (forged,) = split_blob(data[:-100] + bytes(100), 64 * 1024, content_digest(data))
    publish(fleet, Address(SUMMARY, "pi-0"), forged)
    (report,) = fleet.run(1)
    assert report.refused_messages == {"wrong-digest": 1}
    assert len(report.counted) == 3
