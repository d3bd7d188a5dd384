"""What a device keeps, refuses and withholds, whatever the fleet does meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

import simulations.loopback.device
from edge_client.dataset import Dataset
from edge_client.program import TrainingProgram
from edge_client.training import RoundOutcome, RoundWork, run_round
from simulations.loopback.fleet import LoopbackFleet
from simulations.loopback.network import Crossing, Delivery
from tests.machines.conftest import MakeFleet, Works
from wire.messages import Acknowledgement
from wire.topics import ACKNOWLEDGEMENT, PLAN, decode_payload, parse_topic


def own(fleet: LoopbackFleet, device_id: str, layer: str) -> np.ndarray:
    generation = fleet.devices[device_id].generation
    assert generation is not None
    return generation.own_layers()[layer]


def told(fleet: LoopbackFleet, device_id: str) -> list[tuple[int, str, str]]:
    """What the aggregator has answered a device: round, state, reason."""
    answers: list[tuple[int, str, str]] = []
    for crossing in fleet.network.log:
        address = parse_topic("home", crossing.topic)
        if address.route is ACKNOWLEDGEMENT and address.device_id == device_id:
            message = decode_payload(address, crossing.payload)
            assert isinstance(message, Acknowledgement)
            answers.append((message.round_number, message.state, message.reason))
    return answers


def test_a_layer_that_becomes_personal_starts_from_the_devices_own_values(make_fleet: MakeFleet, works: Works) -> None:
    fleet = make_fleet("fedlag-paper", {"num_personal": 1, "num_warmup_rounds": 2})
    fleet.run(2)
    (layer,) = fleet.aggregator.state.plan.personal_layers
    kept = {name: own(fleet, name, layer) for name in fleet.devices}
    fleet.run(1)
    for name, values in kept.items():
        assert (works[name, 3].installed[layer] == values).all()
    shared = next(name for name in works["pi-0", 3].installed if name != layer)
    assert (works["pi-0", 3].installed[shared] == works["pi-1", 3].installed[shared]).all()


def test_a_newcomer_starts_a_personal_layer_from_its_last_average(make_fleet: MakeFleet, works: Works) -> None:
    fleet = make_fleet("fedlag-paper", {"num_personal": 1, "num_warmup_rounds": 2}, num_devices=4, quorum=3)
    fleet.devices["pi-3"].stop()
    fleet.run(4)
    (layer,) = fleet.aggregator.state.plan.personal_layers
    fleet.devices["pi-3"].start()
    fleet.run_until(lambda: ("pi-3", 5) in works or ("pi-3", 6) in works, 3000)
    work = next(work for (name, _), work in works.items() if name == "pi-3")
    assert (work.installed[layer] == fleet.aggregator.layer(layer)).all()
    assert not any((work.installed[layer] == own(fleet, name, layer)).all() for name in ("pi-0", "pi-1", "pi-2"))


def test_only_who_finished_the_round_before_tests_swaps(make_fleet: MakeFleet, works: Works) -> None:
    fleet = make_fleet("fedlag", num_devices=4, quorum=3)
    fleet.run(4)
    fleet.devices["pi-3"].stop()  # misses round 5, after which the first test comes
    fleet.run(1)
    fleet.devices["pi-3"].start()
    report = fleet.run(1)[-1]
    fleet.run_until(lambda: ("pi-3", 6) in works, 3000)
    assert report.swap_gains
    assert works["pi-0", 6].own is not None
    assert works["pi-3", 6].own is None


def test_a_straggler_is_told_that_it_is_late_and_keeps_what_is_its_own(make_fleet: MakeFleet, works: Works) -> None:
    fleet = make_fleet("fedper", num_devices=3, quorum=2, duration_s=60.0)
    fleet.run(1)
    fleet.devices["pi-2"].train_s = 90.0
    assert fleet.run(1)[-1].dropouts == ("pi-2",)
    fleet.run_until(lambda: (2, "refused", "late") in told(fleet, "pi-2"), 600)
    kept = own(fleet, "pi-2", "head")
    assert (kept != works["pi-2", 2].installed["head"]).any()
    fleet.devices["pi-2"].train_s = 1.0
    fleet.run(2)
    later = min(number for name, number in works if name == "pi-2" and number > 2)
    assert (works["pi-2", later].installed["head"] == kept).all()


def test_a_straggler_says_nothing_of_a_layer_that_has_become_personal(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(
        "fedlag-paper", {"num_personal": 1, "num_warmup_rounds": 2}, num_devices=3, quorum=2, duration_s=60.0
    )
    fleet.run(1)
    fleet.devices["pi-2"].train_s = 90.0
    fleet.run(1)
    start = len(fleet.network.log)
    fleet.run_for(40)
    generation = fleet.devices["pi-2"].generation
    assert generation is not None
    assert generation.round_number == 2  # it has trained, with the layer shared, and holds it ready
    sent = [crossing.topic for crossing in fleet.network.log[start:] if crossing.sender == "pi-2"]
    assert not any("/up/" in topic for topic in sent)
    fleet.devices["pi-2"].stop()
    fleet.devices["pi-2"].start()  # from the disk, not knowing the plan
    start = len(fleet.network.log)
    fleet.run_for(5)
    sent = [crossing.topic for crossing in fleet.network.log[start:] if crossing.sender == "pi-2"]
    assert sent
    assert not any("/up/" in topic for topic in sent)


def test_an_older_plan_is_refused(make_fleet: MakeFleet) -> None:
    fleet = make_fleet()
    fleet.run(2)
    plans = [crossing for crossing in fleet.network.log if crossing.topic == "fedlag/v1/home/plan"]
    fleet.network.publish("anyone", plans[0].topic, plans[0].payload)
    fleet.run(1)
    assert fleet.devices["pi-0"].refused == {"foreign-round": 1}


def test_a_plan_with_fields_of_a_later_version_is_served(make_fleet: MakeFleet) -> None:
    def later(crossing: Crossing, receiver: str) -> Sequence[Delivery]:
        if parse_topic("home", crossing.topic).route is not PLAN or receiver == "aggregator":
            return (Delivery(crossing.payload),)
        plan: dict[str, Any] = msgspec.msgpack.decode(crossing.payload)
        return (Delivery(msgspec.msgpack.encode({**plan, "mood": "good"})),)

    fleet = make_fleet()
    fleet.network.policy = later
    calm = make_fleet()
    assert [it.plan for it in fleet.run(3)] == [it.plan for it in calm.run(3)]


@pytest.mark.parametrize("moment_s", [1.5, 2.02, 2.06, 3.5, 4.0])
def test_a_device_that_is_killed_goes_on_with_the_same_bits(moment_s: float, make_fleet: MakeFleet) -> None:
    calm, fleet = make_fleet("fedper"), make_fleet("fedper")
    calm.run(3)
    fleet.network.at(moment_s, fleet.devices["pi-1"].stop)
    fleet.network.at(moment_s + 7, fleet.devices["pi-1"].start)
    fleet.run(3)
    assert fleet.aggregator.state == calm.aggregator.state
    assert (own(fleet, "pi-1", "head") == own(calm, "pi-1", "head")).all()


def test_a_device_whose_training_diverges_says_so_and_sends_nothing(make_fleet: MakeFleet) -> None:
    fleet = make_fleet()
    device = fleet.devices["pi-0"]
    train = device._data.train
    device._data = device._data._replace(train=train._replace(inputs=np.full_like(train.inputs, np.inf)))
    with np.errstate(all="ignore"):
        fleet.run_for(30)
    session = device._session
    assert session is not None
    state, reason = session.status
    assert state == "waiting"
    assert reason == "training diverged in round 1; it tries again 30 s after failure 1 in a row"
    assert device.generation is None
    assert not any("/pi-0/up/" in crossing.topic for crossing in fleet.network.log)


def test_a_device_that_cannot_train_pauses_ever_longer_and_goes_on_once_it_can(
    make_fleet: MakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = make_fleet(num_devices=3, quorum=2, duration_s=60.0)
    device = fleet.devices["pi-0"]
    fitting, tried_s = device._data.train, []

    def train(program: TrainingProgram, data: Dataset, work: RoundWork) -> RoundOutcome:
        if data is device._data:
            tried_s.append(fleet.network.now_s)
        return run_round(program, data, work)

    monkeypatch.setattr(simulations.loopback.device, "run_round", train)
    device._data = device._data._replace(train=fitting._replace(inputs=np.full_like(fitting.inputs, np.inf)))
    with np.errstate(all="ignore"):
        fleet.run_for(1000)
    pauses = np.diff(tried_s)
    assert len(fleet.aggregator.reports) > 50  # the others go on without it
    assert 5 <= len(tried_s) <= 6
    assert (pauses[1:] > 1.5 * pauses[:-1]).all()
    device._data = device._data._replace(train=fitting)
    fleet.run_until(lambda: "pi-0" in fleet.aggregator.reports[-1].counted, 2000)
