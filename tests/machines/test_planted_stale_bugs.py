"""Bugs of buffered rounds, each planted and found by the invariants."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec
import pytest

import aggregator.fleet
import aggregator.holding
import aggregator.staleness
from aggregator.closing import close_round
from aggregator.planning import FleetState
from aggregator.receipts import Receipts
from aggregator.round_report import RoundReport
from aggregator.staleness import Origin, Origins, origins_of
from edge_client.upload import UploadConversation
from simulations.faults.spec import FaultSpec
from simulations.faults.trial import KINDS, RULES, run_trial
from wire.codec import plan_digest
from wire.messages import RoundPlan, Summary


def is_found(line: str) -> bool:
    """Say whether some schedule of buffered rounds ends with such a line."""
    buffered = (seed for seed in range(200) if KINDS[seed // len(RULES) % len(KINDS)] == "buffered")
    return any(line in broken for seed in buffered for broken in run_trial(FaultSpec(), seed).broken)


def test_staleness_without_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    def keeping(round_: Any, state: FleetState, *rest: Any, **options: Any) -> tuple[FleetState, RoundReport]:
        following, report = close_round(round_, state, *rest, **options)
        return msgspec.structs.replace(following, earlier_plans=(*state.earlier_plans, state.plan)), report

    def answerable(self: FleetState) -> dict[str, RoundPlan]:
        return {plan_digest(plan): plan for plan in (*self.earlier_plans, self.plan)}

    monkeypatch.setattr(aggregator.fleet, "close_round", keeping)
    monkeypatch.setattr(FleetState, "answerable", property(answerable))
    assert is_found("versions before, at most")


def test_an_update_that_is_taken_to_have_begun_at_the_current_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(plan: RoundPlan, plans: Mapping[str, RoundPlan], stored: Mapping[str, Summary]) -> Origins:
        return {
            layer: {name: Origin(plan.shared_layers[layer], it.staleness) for name, it in of_layer.items()}
            for layer, of_layer in origins_of(plan, plans, stored).items()
        }

    monkeypatch.setattr(aggregator.holding, "origins_of", forgetful)
    assert is_found("is not the average of what was counted")


def test_an_old_update_that_counts_as_a_fresh_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aggregator.staleness, "staleness_factor", lambda _: 1.0)
    assert is_found("is not the average of what was counted")


def test_an_upload_that_is_forgotten_once_it_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Receipts, "find", lambda *_: None)
    assert is_found("was counted in rounds")


def test_a_device_that_hands_over_what_has_become_personal(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(_self: UploadConversation, _layers: Collection[str]) -> None:
        return None

    monkeypatch.setattr(UploadConversation, "withhold", careless)
    assert is_found("had seen become personal")
