"""The invariants are worth something if they fail where the product would: each bug is planted, and found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec
import numpy as np
import pytest

import aggregator.fleet
import simulations.loopback.device
import simulations.loopback.fleet
from aggregator.effects import CloseRound, Effect
from aggregator.fleet import Fleet
from aggregator.round import Round
from edge_client.dataset import Dataset
from edge_client.program import TrainingProgram
from edge_client.session import Effect as DeviceEffect
from edge_client.session import Session
from edge_client.training import RoundOutcome, RoundWork, run_round
from simulations.loopback.network import Faults
from tests.machines import test_devices, test_rounds
from tests.machines.conftest import MakeFleet, Works
from tests.machines.test_faults import disturb, trace
from wire.errors import FleetError
from wire.messages import Part, Summary


def assert_that_faults_show(make_fleet: MakeFleet, num_schedules: int = 6) -> None:
    """Some schedule of faults must end with other bits than the calm run."""
    calm = make_fleet("fedper", num_rounds=3, duration_s=120.0)
    calm.run(4)
    traces = []
    for seed in range(num_schedules):
        fleet = make_fleet("fedper", num_rounds=3, duration_s=120.0)
        fleet.network.policy = Faults(seed, duplicated=0.3, delayed=0.3, lost=0.1)
        disturb(fleet, seed)
        fleet.run(4)
        traces.append(trace(fleet))
    assert any(it != trace(calm) for it in traces)


def test_an_update_that_is_counted_as_often_as_it_is_announced(
    make_fleet: MakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: Counter[str] = Counter()
    take = Fleet._take_summary_part

    def counting(self: Fleet, device_id: str, part: Part, now_s: float) -> list[Effect]:
        seen[device_id] += 1
        return take(self, device_id, part, now_s)

    def close(layers: tuple[str, ...], weights: dict[str, float]) -> CloseRound:
        return CloseRound(layers, {name: weight * seen[name] for name, weight in weights.items()})

    monkeypatch.setattr(Fleet, "_take_summary_part", counting)
    monkeypatch.setattr(aggregator.fleet, "CloseRound", close)
    assert_that_faults_show(make_fleet)


def test_an_average_in_the_order_of_arrival(make_fleet: MakeFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    def average(rows: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> np.ndarray:
        total = np.zeros_like(next(iter(rows.values())))
        for name, values in rows.items():
            total = total + values * np.float32(weights[name])
        return np.asarray(total / np.float32(sum(weights.values())))

    def stored(self: Round) -> dict[str, Summary]:
        return {name: answer.summary for name, answer in self._answers.items() if answer.is_stored}

    monkeypatch.setattr(simulations.loopback.fleet, "weighted_average", average)
    monkeypatch.setattr(Round, "stored", property(stored))
    assert_that_faults_show(make_fleet)


def test_a_round_that_depends_on_how_often_the_device_was_started(
    make_fleet: MakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: Counter[tuple[str, int]] = Counter()

    def drifting(program: TrainingProgram, data: Dataset, work: RoundWork) -> RoundOutcome:
        tries[work.device_id, 0] += 1
        seed = work.plan.training.seed + tries[work.device_id, 0]
        training = msgspec.structs.replace(work.plan.training, seed=seed)
        drifted = work._replace(plan=msgspec.structs.replace(work.plan, training=training))
        return run_round(program, data, drifted)

    start = simulations.loopback.device.LoopbackDevice.start

    def restarting(self: simulations.loopback.device.LoopbackDevice) -> None:
        tries[self.device_id, 0] += 10
        start(self)

    monkeypatch.setattr(simulations.loopback.device, "run_round", drifting)
    monkeypatch.setattr(simulations.loopback.device.LoopbackDevice, "start", restarting)
    assert_that_faults_show(make_fleet)


def test_a_session_that_keeps_its_layers_only_once_they_are_counted(
    make_fleet: MakeFleet, works: Works, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_layers = Session._own_layers

    def counted_layers(self: Session) -> dict[str, np.ndarray]:
        return {} if self._upload is not None else own_layers(self)

    monkeypatch.setattr(Session, "_own_layers", counted_layers)
    with pytest.raises(AssertionError):
        test_devices.test_a_straggler_is_told_that_it_is_late_and_keeps_what_is_its_own(make_fleet, works)


def test_a_session_that_sends_what_it_held_ready_whatever_the_plan_says(
    make_fleet: MakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def announce(self: Session, now_s: float) -> list[DeviceEffect]:
        return [*self._upload.announce(now_s)] if self._upload else []

    monkeypatch.setattr(Session, "_announce", announce)
    with pytest.raises(AssertionError):
        test_devices.test_a_straggler_says_nothing_of_a_layer_that_has_become_personal(make_fleet)


def test_a_window_that_goes_back_to_who_has_vanished(make_fleet: MakeFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    tick = Round.tick

    def trusting(self: Round, now_s: float) -> list[object]:
        effects = [*tick(self, now_s)]
        for answer in self._answers.values():
            if answer.is_silent:
                for other in self._answers.values():
                    other.granted_s = None
                answer.granted_s = now_s
        return [effect for effect in effects if not getattr(getattr(effect, "message", None), "wanted", ())]

    monkeypatch.setattr(Round, "tick", trusting)
    with pytest.raises(FleetError):
        test_rounds.test_who_vanishes_with_a_grant_does_not_hold_the_window("pi-0", make_fleet)
