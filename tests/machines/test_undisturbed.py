"""A fleet without faults, under every selector: what every round must keep."""

from __future__ import annotations

import itertools
import struct
from typing import Any

import msgspec
import numpy as np
import pytest

from aggregator.averaging import weighted_average
from simulations.loopback.fleet import LoopbackFleet
from simulations.loopback.numpy_program import NumpyProgram
from tests.machines.conftest import NUM_CLASSES, NUM_INPUTS, MakeFleet
from wire.messages import RoundPlan
from wire.topics import PLAN, UPDATE, decode_payload, parse_topic

SELECTORS: list[tuple[str, dict[str, Any]]] = [
    ("fedavg", {}),
    ("fedavg", {"pinned": ["middle"]}),
    ("local", {}),
    ("fedper", {"num_personal": 2}),
    ("fedlag-paper", {"num_personal": 1, "num_warmup_rounds": 3}),
    ("fedlag-paper", {"num_personal": 1, "schedule": "every_round"}),
    ("fedlag-swap", {}),
    ("fedlag", {}),
]


def crossed(fleet: LoopbackFleet) -> list[tuple[str, Any, Any]]:
    """Sender, address and message of all that crossed, in order."""
    addresses = [parse_topic("home", crossing.topic) for crossing in fleet.network.log]
    return [
        (crossing.sender, address, decode_payload(address, crossing.payload))
        for crossing, address in zip(fleet.network.log, addresses, strict=True)
    ]


@pytest.mark.parametrize(("selector", "options"), SELECTORS)
def test_every_round_counts_everyone_once_and_keeps_personal_layers_at_home(
    selector: str, options: dict[str, Any], make_fleet: MakeFleet
) -> None:
    fleet = make_fleet(selector, options, num_devices=4, num_rounds=10)
    reports = fleet.run(11)
    assert [report.round_number for report in reports] == list(range(1, 12))
    assert {tuple(report.counted) for report in reports} == {("pi-0", "pi-1", "pi-2", "pi-3")}
    plan: RoundPlan | None = None
    uploaded: list[str] = []
    for _, address, message in crossed(fleet):
        if address.route is PLAN:
            if plan is not None and plan.training.num_epochs:
                assert sorted(uploaded) == sorted([*plan.shared_layers] * 4)
            plan, uploaded = message, []
        if address.route is UPDATE and message.index == 0:
            uploaded.append(layer_of(message.data))
    assert uploaded == []  # the last round only measures
    assert fleet.aggregator.state.is_finished
    assert not fleet.aggregator.fleet.refused


def layer_of(blob: bytes) -> str:
    """The layer that encoded values say they are of."""
    (length,) = struct.unpack_from("<I", blob)
    return str(msgspec.msgpack.decode(blob[4 : 4 + length])["layer"])


def test_the_average_is_that_of_the_devices_values(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(num_devices=3)
    fleet.run(1)
    rows, weights = {}, {}
    for name, device in fleet.devices.items():
        assert device.generation is not None
        rows[name] = device.generation.own_layers()["hidden"]
        weights[name] = float(device.generation.upload.summary.num_examples)
    assert (fleet.aggregator.layer("hidden") == weighted_average(rows, weights)).all()


def test_what_a_measuring_round_reports_is_the_last_averages_quality(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(num_devices=3, num_rounds=3)
    last = fleet.run(4)[-1]
    for figures in last.counted.values():
        assert figures.train_loss == 0
        assert figures.before == figures.after
    assert fleet.aggregator.state.plan.round_number == 5  # and no one is asked for it
    fleet.run_for(1000)
    assert len(fleet.aggregator.reports) == 4


def test_sharing_helps_devices_that_are_alike_and_hurts_those_that_are_not(make_fleet: MakeFleet) -> None:
    def quality(*, alike: bool, selector: str) -> float:
        fleet = make_fleet(selector, num_devices=4, alike=alike, num_rounds=10)
        last = fleet.run(11)[-1]
        return float(np.mean([figures.test.loss for figures in last.counted.values() if figures.test]))

    assert quality(alike=True, selector="fedavg") < quality(alike=True, selector="local")
    assert quality(alike=False, selector="fedavg") > quality(alike=False, selector="local")


@pytest.mark.slow
def test_conflict_is_found_confirmed_and_kept_personal_over_30_rounds(make_fleet: MakeFleet) -> None:
    fleet = make_fleet("fedlag", num_devices=6, num_rounds=30)
    personal = [report.next_personal_layers for report in fleet.run(31)]
    assert personal[:7] == [()] * 7  # two tests must agree, after rounds 5 and 8
    assert personal[-1] == ("hidden",)
    assert all(set(before) <= set(after) for before, after in itertools.pairwise(personal))


def test_the_programs_gradients_are_those_of_its_loss(program: NumpyProgram) -> None:
    rng = np.random.default_rng(0)
    params = {it.name: rng.normal(0, 0.5, it.shape) for it in program.manifest.parameters}
    inputs, targets = rng.normal(size=(5, NUM_INPUTS)), rng.integers(NUM_CLASSES, size=5)
    gradients = program.train_step(params, inputs, targets).gradients
    step = 1e-6
    for name, values in params.items():
        for index in np.ndindex(values.shape):
            losses = []
            for sign in (-1, 1):
                moved = {**params, name: values.copy()}
                moved[name][index] += sign * step
                losses.append(program.train_step(moved, inputs, targets).loss)
            assert gradients[name][index] == pytest.approx((losses[1] - losses[0]) / (2 * step), abs=1e-7)
