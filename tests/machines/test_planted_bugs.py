"""The invariants are worth something if they fail where the product would: each bug is planted, and found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import numpy as np
import pytest

import aggregator.allowance
import aggregator.closing
import aggregator.holding
import aggregator.robust
import simulations.faults.trial
import simulations.loopback.aggregator
import simulations.loopback.device
from aggregator.effects import CloseRound, CommitUpload, Effect
from aggregator.fleet import Fleet
from aggregator.planning import build_plan
from aggregator.receipts import Receipts
from aggregator.round import Round
from aggregator.staleness import Origins
from edge_client.dataset import Dataset
from edge_client.effects import Effect as DeviceEffect
from edge_client.generation import Generation, compose_generation
from edge_client.program import TrainingProgram
from edge_client.session import Session
from edge_client.training import RoundOutcome, RoundWork, run_round
from simulations.faults.spec import parse_spec
from simulations.faults.trial import Trial, run_trial
from simulations.loopback.aggregator import LoopbackAggregator
from tests.machines import test_devices, test_going_back, test_rounds
from tests.machines.conftest import MakeFleet, Works
from wire.codec import plan_digest
from wire.errors import FleetError
from wire.manifest import ModelManifest
from wire.messages import Part, RoundPlan, Summary


@pytest.fixture(autouse=True)
def _calm_runs_anew() -> Iterator[None]:
    """A calm run with a bug must not stand for one without."""
    simulations.faults.trial._calm_outcome.cache_clear()
    yield
    simulations.faults.trial._calm_outcome.cache_clear()


def first_broken(faults: str = "all") -> Trial:
    """Return the first schedule in which something does not hold."""
    for seed in range(100):
        trial = run_trial(parse_spec(faults), seed)
        if trial.broken:
            return trial
    pytest.fail("no invariant noticed it in 100 schedules")


def test_an_update_that_is_counted_as_often_as_it_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: Counter[str] = Counter()
    take = Fleet._take_summary_part

    def counting(self: Fleet, device_id: str, part: Part, now_s: float) -> list[Effect]:
        seen[device_id] += 1
        return take(self, device_id, part, now_s)

    def close(origins: Origins, weights: dict[str, float]) -> CloseRound:
        return CloseRound(origins, {name: weight * seen[name] for name, weight in weights.items()})

    monkeypatch.setattr(Fleet, "_take_summary_part", counting)
    monkeypatch.setattr(aggregator.holding, "CloseRound", close)
    assert "is not the average of what was counted" in " ".join(first_broken().broken)


def test_an_average_in_the_order_of_arrival(monkeypatch: pytest.MonkeyPatch) -> None:
    def average(rows: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> np.ndarray:
        total = np.zeros_like(next(iter(rows.values())))
        for name, values in rows.items():
            total = total + values * np.float32(weights[name])
        return np.asarray(total / np.float32(sum(weights.values())))

    def stored(self: Round) -> dict[str, Summary]:
        return {name: answer.summary for name, answer in self._answers.items() if answer.is_stored}

    monkeypatch.setattr(aggregator.robust, "weighted_average", average)
    monkeypatch.setattr(Round, "stored", property(stored))
    assert "is not the average of what was counted" in " ".join(first_broken().broken)


def test_a_round_that_depends_on_how_often_the_device_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert "other bits" in " ".join(first_broken().broken)


def test_a_session_that_keeps_its_layers_only_once_they_are_counted(
    make_fleet: MakeFleet, works: Works, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_layers = Session._own_layers

    def counted_layers(self: Session, before: Generation | None) -> dict[str, np.ndarray]:
        return {} if self._upload is not None else own_layers(self, before)

    monkeypatch.setattr(Session, "_own_layers", counted_layers)
    with pytest.raises(AssertionError):
        test_devices.test_a_straggler_is_told_that_it_is_late_and_keeps_what_is_its_own(make_fleet, works)


def test_a_device_that_goes_back_with_the_layers_that_it_has_now(
    make_fleet: MakeFleet, works: Works, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simulations.loopback.device.find_earlier", lambda _plan, _kept: None)
    with pytest.raises(AssertionError):
        test_going_back.test_a_device_that_sat_the_round_before_out_goes_back_to_its_latest_round_before_that(
            make_fleet, works
        )


def test_a_session_that_sends_what_it_held_ready_whatever_the_plan_says(
    make_fleet: MakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def announce(self: Session, now_s: float, **_options: bool) -> list[DeviceEffect]:
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


@pytest.mark.slow
def test_an_acknowledgement_before_the_log_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    say = Round._say_where_it_stands

    def hasty(self: Round, *arguments: Any) -> list[Any]:
        return sorted(say(self, *arguments), key=lambda effect: isinstance(effect, CommitUpload))

    monkeypatch.setattr(Round, "_say_where_it_stands", hasty)
    assert "was not counted" in " ".join(first_broken("kills=40,lost=0.4").broken)


def test_a_log_that_is_not_read_again_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    start = LoopbackAggregator.start

    def anew(self: LoopbackAggregator) -> None:
        self.committed, self._stored, self._asked = {}, {}, None
        start(self)

    monkeypatch.setattr(LoopbackAggregator, "start", anew)
    assert "was not counted" in " ".join(first_broken("kills=40,lost=0.4").broken)


def test_receipts_that_are_forgotten_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Receipts, "find", lambda *_: None)
    assert "heard late" in " ".join(first_broken().broken)


def test_a_round_that_is_skipped_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def skipping(*arguments: Any, round_number: int = 1, **options: Any) -> RoundPlan:
        return build_plan(*arguments, round_number=round_number + (round_number == 2), **options)

    monkeypatch.setattr(aggregator.closing, "build_plan", skipping)
    assert "came round" in " ".join(first_broken().broken)


def test_a_personal_layer_that_leaves_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def leaking(manifest: ModelManifest, work: RoundWork, *rest: Any) -> Generation:
        plan = work.plan
        opened = msgspec.structs.replace(plan, shared_layers={**plan.shared_layers, **plan.personal_layers})
        generation = compose_generation(manifest, work._replace(plan=opened), *rest)
        summary = msgspec.structs.replace(generation.upload.summary, plan=plan_digest(plan))
        upload = msgspec.structs.replace(generation.upload, summary=summary)
        return msgspec.structs.replace(generation, plan=plan_digest(plan), upload=upload)

    monkeypatch.setattr(simulations.loopback.device, "compose_generation", leaking)
    assert "offered its personal layer" in " ".join(first_broken().broken)


def test_an_allowance_without_what_was_asked_for_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aggregator.allowance, "STATUSES_AT_ONCE", 0)
    monkeypatch.setattr(aggregator.allowance, "UPLOADS_AT_ONCE", 1)
    monkeypatch.setattr(aggregator.allowance, "SUMMARIES_AT_ONCE", 0)
    assert "was taken for one that floods" in " ".join(first_broken().broken)
