"""A fleet that goes back across a change of its personal layers finds each device with what it had of its own then."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from edge_client.generation import find_earlier, goes_back
from simulations.loopback.device import LoopbackDevice
from simulations.loopback.fleet import LoopbackFleet
from tests.machines.conftest import MakeFleet, Works
from tests.machines.test_restored import go_back

PERSONAL_FROM_ROUND_3 = ("fedlag-paper", {"num_personal": 1, "num_warmup_rounds": 2})
Layers = dict[str, dict[str, bytes]]


def own_of(fleet: LoopbackFleet) -> Layers:
    return {name: device.generation.own for name, device in fleet.devices.items() if device.generation}


def begun_with(works: Works, round_number: int, layer: str) -> dict[str, bytes]:
    """What each device began this round with, the last time that it ran."""
    return {
        device: work.installed[layer].tobytes() for (device, number), work in works.items() if number == round_number
    }


def of_layer(layers: Layers, name: str) -> dict[str, bytes]:
    return {device: own[name] for device, own in layers.items()}


def test_what_was_a_devices_own_comes_back_with_the_version_in_which_it_was_and_goes_with_the_other(
    make_fleet: MakeFleet, works: Works
) -> None:
    fleet = make_fleet(*PERSONAL_FROM_ROUND_3)
    fleet.run(1)
    shared = fleet.aggregator.state
    fleet.run(4)
    personal, own = fleet.aggregator.state, own_of(fleet)
    (layer,) = personal.plan.personal_layers
    fleet.run(2)
    later, own_later = fleet.aggregator.state, own_of(fleet)

    go_back(fleet, shared)
    fleet.run(2)
    assert len(set(begun_with(works, 2, layer).values())) == 1, "shared again: all begin with the average"
    for version, had, number in ((personal, own, 6), (later, own_later, 8)):
        go_back(fleet, version)
        assert len(fleet.run(1)[-1].counted) == 3
        assert begun_with(works, number, layer) == of_layer(had, layer)
        for device in fleet.devices:
            before = works[device, number].own
            assert before is not None, "it finished the round before this version, so it can test"
            assert {name: values.tobytes() for name, values in before.items()} == had[device]


def test_a_layer_that_was_about_to_become_personal_begins_with_what_was_trained_the_round_before(
    make_fleet: MakeFleet, works: Works
) -> None:
    fleet = make_fleet(*PERSONAL_FROM_ROUND_3)
    fleet.run(2)
    version, own = fleet.aggregator.state, own_of(fleet)
    (layer,) = version.plan.personal_layers
    fleet.run(3)
    go_back(fleet, version)
    fleet.run(1)
    assert begun_with(works, 3, layer) == of_layer(own, layer)


@pytest.mark.parametrize("num_effects", range(6))
def test_a_device_that_is_cut_off_while_it_goes_back_goes_back_all_the_same(
    make_fleet: MakeFleet, works: Works, num_effects: int
) -> None:
    fleet = make_fleet(*PERSONAL_FROM_ROUND_3)
    fleet.run(1)
    shared = fleet.aggregator.state
    fleet.run(3)
    personal, own = fleet.aggregator.state, own_of(fleet)
    (layer,) = personal.plan.personal_layers
    go_back(fleet, shared)
    fleet.run(1)
    fleet.devices["pi-0"].cut_power_after(num_effects, 5.0)
    go_back(fleet, personal)
    assert len(fleet.run(1)[-1].counted) == 3
    assert begun_with(works, 5, layer) == of_layer(own, layer)


def test_a_device_that_sat_the_round_before_out_goes_back_to_its_latest_round_before_that(
    make_fleet: MakeFleet, works: Works
) -> None:
    fleet = make_fleet(*PERSONAL_FROM_ROUND_3, quorum=2, gather_s=1.0)
    fleet.run(1)
    shared = fleet.aggregator.state
    fleet.run(2)
    own = own_of(fleet)
    fleet.devices["pi-0"].stop()
    fleet.run(2)
    personal = fleet.aggregator.state
    (layer,) = personal.plan.personal_layers
    fleet.devices["pi-0"].start()
    fleet.run_until(lambda: round_of(fleet.devices["pi-0"]) > 6)
    go_back(fleet, shared)
    fleet.run(1)
    go_back(fleet, personal)
    fleet.run_until(lambda: ("pi-0", 6) in works and works["pi-0", 6].plan.epoch == 2)
    assert works["pi-0", 6].installed[layer].tobytes() == own["pi-0"][layer]
    assert works["pi-0", 6].own is None


def round_of(device: LoopbackDevice) -> int:
    return device.generation.round_number if device.generation else 0


def test_without_anything_kept_from_before_the_last_generation_goes_on(make_fleet: MakeFleet) -> None:
    fleet = make_fleet()
    fleet.run(3)
    last, plan = fleet.devices["pi-0"].generation, fleet.aggregator.state.plan
    assert last is not None
    assert not goes_back(plan, last)
    later = msgspec.structs.replace(plan, epoch=1, round_number=2, previous="0" * 64)
    assert goes_back(later, last)
    assert not goes_back(later, None)
    assert find_earlier(later, [last]) is None
    other_model = msgspec.structs.replace(last, round_number=1, model_id="0" * 64)
    assert find_earlier(later, [last, other_model]) is None
    same = msgspec.structs.replace(last, round_number=1)
    assert find_earlier(later, [last, same, msgspec.structs.replace(same, own={})]) == same
    assert np.isfinite(fleet.aggregator.layer("head")).all()
