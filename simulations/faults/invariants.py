"""What must hold of a fleet whatever happened to it, read from all that crossed its network and from what it decided."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from aggregator.averaging import weighted_average
from aggregator.round_report import ClosedRound
from simulations.loopback.fleet import LoopbackFleet
from wire.codec import decode_message, inventory_digest, plan_digest
from wire.digest import content_digest
from wire.errors import WireError
from wire.messages import Acknowledgement, Message, Part, RoundPlan, Summary
from wire.parts import Assembly
from wire.tensors import decode_layer, encode_layer
from wire.topics import ACKNOWLEDGEMENT, PLAN, SUMMARY, UPDATE, decode_payload, parse_topic

__all__ = ["broken_invariants"]

MOST_BYTES = 1 << 20


class _Heard(NamedTuple):
    """What crossed the network, by its name."""

    plans: dict[str, RoundPlan]
    summaries: dict[tuple[str, str], Summary]
    values: dict[tuple[str, str], bytes]
    acknowledged: list[tuple[str, Acknowledgement]]
    sent: list[tuple[int, str, Summary | str]]


def broken_invariants(fleet: LoopbackFleet) -> list[str]:
    """Return a line for everything that does not hold; none if all does."""
    heard, closed = _listen(fleet), fleet.aggregator.closed
    return [
        *_versions_that_do_not_grow_by_one(closed),
        *_averages_of_other_uploads(fleet, heard, closed),
        *_uploads_counted_twice(closed),
        *_uploads_that_are_too_old(heard, closed),
        *_uploads_acknowledged_and_lost(fleet, heard, closed),
        *_values_that_left(heard),
        *_honest_devices_that_were_limited(fleet),
        *_values_that_left_though_personal_by_now(fleet, heard),
    ]


def _listen(fleet: LoopbackFleet) -> _Heard:
    """Put together what was sent: nothing is damaged here, as it is read where it leaves."""
    heard = _Heard({}, {}, {}, [], [])
    assemblies: dict[tuple[str, str, str], Assembly] = {}
    for number, crossing in enumerate(fleet.network.log):
        address, message = _decode(fleet.config.fleet, crossing.topic, crossing.payload)
        match message:
            case RoundPlan() if address is PLAN:
                heard.plans[plan_digest(message)] = message
            case Acknowledgement() if address is ACKNOWLEDGEMENT:
                heard.acknowledged.append((crossing.topic.split("/")[4], message))
            case Part() if address in (SUMMARY, UPDATE):
                key = (crossing.sender, address.name, message.digest)
                blob = assemblies.setdefault(key, Assembly(message.digest, MOST_BYTES)).add(message)
                if address is UPDATE:
                    heard.sent.append((number, crossing.sender, message.digest))
                if blob is not None and address is UPDATE:
                    heard.values[crossing.sender, message.digest] = blob
                elif blob is not None:
                    summary = decode_message(blob, Summary, MOST_BYTES)
                    heard.summaries.setdefault((crossing.sender, inventory_digest(summary)), summary)
                    heard.sent.append((number, crossing.sender, summary))
    return heard


def _decode(fleet: str, topic: str, payload: bytes) -> tuple[object, Message | None]:
    try:
        address = parse_topic(fleet, topic)
        return address.route, decode_payload(address, payload)
    except WireError:
        return None, None


def _versions_that_do_not_grow_by_one(closed: list[ClosedRound]) -> Iterator[str]:
    places = [(it.plan.epoch, it.plan.round_number) for it in closed]
    for before, after in itertools.pairwise(places):
        if after != (before[0], before[1] + 1) and after[0] <= before[0]:
            yield f"after round {before} came round {after}"


def _averages_of_other_uploads(fleet: LoopbackFleet, heard: _Heard, closed: list[ClosedRound]) -> Iterator[str]:
    """Compute every version anew from what its devices sent, each once, and what they began with."""
    plans = [*(it.plan for it in closed), fleet.aggregator.state.plan]
    for round_, following in zip(closed, plans[1:], strict=True):
        plan = round_.plan
        if not plan.training.num_epochs or following.epoch != plan.epoch:
            continue
        layers = following.shared_layers | following.personal_layers
        for name in plan.shared_layers:
            spec = fleet.aggregator.manifest.layer(name)
            current = fleet.aggregator.published_layer(name, plan.shared_layers[name])
            rows, weights = {}, {}
            for device_id, inventory in round_.receipts.items():
                summary = heard.summaries[device_id, inventory]
                for item in (it for it in summary.inventory if it.layer == name):
                    values = decode_layer(heard.values[device_id, item.digest], spec)
                    start = fleet.aggregator.published_layer(name, heard.plans[summary.plan].shared_layers[name])
                    rows[device_id] = _added(current, start, values, plan.round_number - summary.round_number)
                    weights[device_id] = float(summary.num_examples)
            if not rows and layers[name] == plan.shared_layers[name]:
                continue  # all that was counted began when the layer was personal
            average: np.ndarray = weighted_average(rows, weights)
            if content_digest(encode_layer(spec, average, codec="raw")) != layers[name]:
                yield f"layer {name} of round {plan.round_number} is not the average of what was counted, each once"


def _added(current: np.ndarray, start: np.ndarray, values: np.ndarray, staleness: int) -> np.ndarray:
    """Return the current values with a device's update, which counts the less the older it is."""
    if staleness == 0:
        return values
    added: np.ndarray = current + (values - start.astype(np.float64)) * (1 / np.sqrt(1 + staleness))
    return added.astype(np.float32)


def _uploads_counted_twice(closed: list[ClosedRound]) -> Iterator[str]:
    seen: dict[tuple[str, str], int] = {}
    for round_ in closed:
        for upload in round_.receipts.items():
            if upload in seen:
                yield f"one upload of {upload[0]} was counted in rounds {seen[upload]} and {round_.plan.round_number}"
            seen[upload] = round_.plan.round_number


def _uploads_that_are_too_old(heard: _Heard, closed: list[ClosedRound]) -> Iterator[str]:
    for round_ in closed:
        plan, most = round_.plan, round_.plan.max_staleness or 0
        for device_id, inventory in round_.receipts.items():
            answered = heard.plans[heard.summaries[device_id, inventory].plan]
            staleness = plan.round_number - answered.round_number
            if answered.epoch != plan.epoch or not 0 <= staleness <= most:
                yield f"round {plan.round_number} counted what {device_id} began {staleness} versions before, at most {most}"


def _uploads_acknowledged_and_lost(fleet: LoopbackFleet, heard: _Heard, closed: list[ClosedRound]) -> Iterator[str]:
    """Hold what devices heard against what was counted, in the upload's own round or in a later one."""
    counted = {upload for round_ in closed for upload in round_.receipts.items()}
    plan, waiting = fleet.aggregator.state.plan, fleet.aggregator.stored
    for device_id, message in heard.acknowledged:
        was_counted = (device_id, message.inventory) in counted
        is_waiting = message.state == "stored" and waiting.get(device_id) == message.inventory
        if message.state in ("stored", "counted") and message.epoch == plan.epoch:
            if not (was_counted or is_waiting):
                yield f"{device_id} heard {message.state} in round {message.round_number}, and was not counted"
        elif message.reason == "late" and was_counted:
            yield f"{device_id} heard late in round {message.round_number}, and was counted"


def _values_that_left(heard: _Heard) -> Iterator[str]:
    """Hold every upload against its plan: no item of a personal layer, nothing that no inventory names."""
    named: set[tuple[str, str]] = set()
    for (device_id, _), summary in heard.summaries.items():
        plan = heard.plans[summary.plan]
        for item in summary.inventory:
            named.add((device_id, item.digest))
            if item.layer not in plan.shared_layers:
                yield f"{device_id} offered its personal layer {item.layer} in round {plan.round_number}"
        for name, layer in summary.layers.items():
            if name in plan.personal_layers and layer.sketch and not plan.sketch_personal:
                yield f"{device_id} sketched its personal layer {name} in round {plan.round_number}"
    for device_id, digest in heard.values.keys() - named:
        yield f"{device_id} sent values {digest[:12]} that are in none of its inventories"


def _honest_devices_that_were_limited(fleet: LoopbackFleet) -> Iterator[str]:
    for device_id in sorted(fleet.aggregator.limited):
        if not fleet.devices[device_id].has_flooded:
            yield f"{device_id} was taken for one that floods"


def _values_that_left_though_personal_by_now(fleet: LoopbackFleet, heard: _Heard) -> Iterator[str]:
    """Hold what a device sent against the plan that it had seen last, whatever the plan that it had trained for."""
    layer_of = {
        (device_id, item.digest): item.layer
        for (device_id, _), summary in heard.summaries.items()
        for item in summary.inventory
    }
    seen = {name: [*device.plans_seen] for name, device in fleet.devices.items()}
    current: dict[str, RoundPlan] = {}
    for number, device_id, message in heard.sent:
        while seen[device_id] and seen[device_id][0][0] <= number:
            current[device_id] = seen[device_id].pop(0)[1]
        plan = current[device_id]
        if isinstance(message, str):  # what is in no inventory is a flood, or was noticed above
            layers = {layer_of[device_id, message]} if (device_id, message) in layer_of else set()
        else:
            shared = heard.plans[message.plan].shared_layers
            sketched = {name for name, layer in message.layers.items() if layer.sketch}
            layers = sketched & shared.keys() if plan.sketch_personal else sketched
        for layer in sorted(layers & plan.personal_layers.keys()):
            yield f"{device_id} sent of {layer} what it had seen become personal with round {plan.round_number}"
