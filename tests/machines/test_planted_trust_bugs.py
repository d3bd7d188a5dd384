"""Devices that check signatures too rarely, too late or too little: each bug is planted, and found."""

from __future__ import annotations

import pytest

from edge_client.aggregator_key import AggregatorKey
from edge_client.effects import Effect
from edge_client.session import Session
from edge_client.trust import Remember, Trust
from tests.machines import test_signatures
from tests.machines.conftest import MakeFleet, Works
from tests.machines.test_signatures import (
    PLAN_OF_ANOTHER_FLEET,
    PLANS_THAT_ARE_NOT_SIGNED,
    Forge,
    check_that_nobody_takes,
)
from wire.errors import WireError
from wire.manifest import ModelManifest
from wire.messages import RoundPlan

OTHER_PROGRAM = PLANS_THAT_ARE_NOT_SIGNED["another program"]
UNSIGNED = PLANS_THAT_ARE_NOT_SIGNED["another program, unsigned"]


def check_that_it_is_found(
    forge: Forge, make_fleet: MakeFleet, works: Works, *, num_honest: int, reason: str = "wrong-signature"
) -> None:
    with pytest.raises(AssertionError):
        check_that_nobody_takes(forge, reason, make_fleet, works, num_honest=num_honest)


def test_a_device_that_checks_its_first_plan_alone(
    make_fleet: MakeFleet, works: Works, monkeypatch: pytest.MonkeyPatch
) -> None:
    check, convinced = Trust.check, set[Trust]()

    def check_once(self: Trust, plan: RoundPlan) -> None:
        if self not in convinced:
            check(self, plan)
            convinced.add(self)

    monkeypatch.setattr(Trust, "check", check_once)
    check_that_nobody_takes(OTHER_PROGRAM, "wrong-signature", make_fleet, works, num_honest=0)
    works.clear()
    check_that_it_is_found(OTHER_PROGRAM, make_fleet, works, num_honest=1)


def test_a_device_that_checks_when_the_program_is_loaded(
    make_fleet: MakeFleet, works: Works, monkeypatch: pytest.MonkeyPatch
) -> None:
    check, program_ready = Trust.check, Session.program_ready

    def check_then(self: Session, model_id: str, manifest: ModelManifest, now_s: float) -> list[Effect]:
        try:
            if self._plan is not None:
                check(self._trust, self._plan)
        except WireError as error:
            return self.give_up(str(error))
        return program_ready(self, model_id, manifest, now_s)

    monkeypatch.setattr(Trust, "check", lambda *_: None)
    monkeypatch.setattr(Session, "program_ready", check_then)
    check_that_it_is_found(OTHER_PROGRAM, make_fleet, works, num_honest=0)


def test_a_device_that_takes_a_plan_without_a_signature_for_one_of_before(
    make_fleet: MakeFleet, works: Works, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = AggregatorKey.check

    def check_if_signed(self: AggregatorKey, plan: RoundPlan) -> None:
        if plan.signature:
            check(self, plan)

    monkeypatch.setattr(AggregatorKey, "check", check_if_signed)
    check_that_it_is_found(UNSIGNED, make_fleet, works, num_honest=1)


def test_a_device_that_does_not_look_for_which_fleet_a_plan_was_signed(
    make_fleet: MakeFleet, works: Works, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(self: Trust, plan: RoundPlan) -> None:
        if self._check_signature is not None:
            self._check_signature(plan)

    monkeypatch.setattr(Trust, "_check", check)
    check_that_it_is_found(PLAN_OF_ANOTHER_FLEET, make_fleet, works, num_honest=1, reason="foreign-fleet")


def test_a_device_that_forgets_at_a_restart_what_it_has_taken(
    make_fleet: MakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = Trust.take

    def take_and_forget(self: Trust, plan: RoundPlan) -> list[Remember]:
        take(self, plan)
        return []

    monkeypatch.setattr(Trust, "take", take_and_forget)
    with pytest.raises(AssertionError):
        test_signatures.test_a_device_that_starts_again_takes_no_older_plan_than_before_though_it_has_served_none(
            make_fleet
        )
