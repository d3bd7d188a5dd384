"""What the next round is: its plan and its cohort. Pure functions of the state."""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Set as AbstractSet
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from aggregator.config import AggregatorConfig
from aggregator.evidence import Decision, SelectorState
from aggregator.guard import GuardState
from aggregator.schedule import learning_rate_of_round
from aggregator.setbacks import Setback
from wire.codec import plan_digest
from wire.manifest import ModelManifest
from wire.messages import RoundPlan
from wire.random import key_from_label

__all__ = ["FleetState", "build_plan", "choose_cohort", "cohort_draw"]


class FleetState(msgspec.Struct, frozen=True, kw_only=True):
    """What the aggregator must not lose between two rounds.

    Args:
        plan: Of the round that is next, or open.
        layers: Layer -> digest of its last average; of its initial values if it was never shared.
        selector: The selector's name.
        selector_options: The options that it was configured with.
        selector_state: Its own state.
        decision: The last one.
        is_finished: The last round is closed.
        guard: What the guard knows; absent without one.
        setbacks: Device -> what is remembered of it, if it failed the last time that it was asked.
        earlier_plans: Those before the plan whose answers may still count, oldest first; none if rounds are synchronous.
    """

    plan: RoundPlan
    layers: dict[str, str]
    selector: str
    selector_options: dict[str, Any] = {}
    selector_state: SelectorState
    decision: Decision
    is_finished: bool = False
    guard: GuardState | UnsetType = UNSET
    setbacks: dict[str, Setback] = {}
    earlier_plans: tuple[RoundPlan, ...] = ()

    @property
    def name(self) -> str:
        """What people call this version: its epoch and round, as ``0-12``."""
        return f"{self.plan.epoch}-{self.plan.round_number}"

    @property
    def answerable(self) -> dict[str, RoundPlan]:
        """Digest -> plan that a device may answer now, the current one last: within its staleness, and of its epoch."""
        plan = self.plan
        oldest = plan.round_number - (plan.max_staleness or 0)
        earlier = [it for it in self.earlier_plans if it.epoch == plan.epoch and it.round_number >= oldest]
        return {plan_digest(it): it for it in (*earlier, plan)}

    @property
    def digests(self) -> set[str]:
        """The layers that it needs: the last averages, and what the updates of earlier plans began with."""
        return {*self.layers.values(), *(digest for it in self.earlier_plans for digest in it.shared_layers.values())}


def build_plan(
    config: AggregatorConfig,
    model_id: str,
    manifest: ModelManifest,
    layers: dict[str, str],
    decision: Decision,
    *,
    needs_personal_sketches: bool,
    epoch: int = 0,
    round_number: int = 1,
    previous: str = "",
) -> RoundPlan:
    """Return the plan that follows from a decision.

    After the last training round comes a measuring round: devices report the quality of the last averages, with their
    own personal layers, and neither train nor upload.
    """
    settings = config.rounds
    is_measuring = settings.num_rounds is not None and round_number > settings.num_rounds
    training = msgspec.structs.replace(
        config.training,
        learning_rate=learning_rate_of_round(config.training.learning_rate, settings, round_number),
        seed=settings.seed,
        num_epochs=0 if is_measuring else config.training.num_epochs,
    )
    personal = set(decision.personal_layers)
    return RoundPlan(
        fleet=config.fleet,
        epoch=epoch,
        round_number=round_number,
        previous=previous,
        model_id=model_id,
        shared_layers={name: layers[name] for name in manifest.layer_names if name not in personal},
        personal_layers={name: layers[name] for name in manifest.layer_names if name in personal},
        training=training,
        sketch_seed=settings.seed,
        sketch_width=settings.sketch_width,
        sketch_personal=needs_personal_sketches,
        swap_candidates=() if is_measuring else decision.swap_candidates,
        duration_s=settings.duration_s,
        max_staleness=settings.max_staleness if settings.mode == "buffered" and not is_measuring else UNSET,
    )


def choose_cohort(ready: AbstractSet[str], size: int, seed: int, epoch: int, draw: int) -> tuple[str, ...]:
    """Return the devices that are asked in a round, in the order of their names.

    Every device draws a number of its own, and the lowest are asked. So the same draw among devices of which a few have
    come or gone asks almost the same.

    Args:
        ready: Who could be asked.
        size: The most that are.
        seed: Decides, with the epoch and the draw.
        epoch: The fleet's.
        draw: From ``cohort_draw``.

    Example:
        >>> choose_cohort({"attic", "cellar", "hall", "kitchen"}, 2, seed=0, epoch=0, draw=1)
        ('hall', 'kitchen')
        >>> choose_cohort({"attic", "cellar", "hall", "kitchen"}, 2, seed=0, epoch=0, draw=2)
        ('cellar', 'kitchen')
    """
    drawn = sorted((key_from_label(f"cohort/{seed}/{epoch}/{draw}/{name}"), name) for name in ready)
    return tuple(sorted(name for _, name in drawn[:size]))


def cohort_draw(round_number: int, swap_candidates: Collection[str]) -> int:
    """Return the draw of a round's cohort.

    A test of swaps asks the devices of the round before again: only who has just trained holds layers to swap. A fleet
    of which every round asked a tenth would otherwise have one tester in ten devices asked.

    Args:
        round_number: From 1.
        swap_candidates: The round's; without any it draws anew.
    """
    return round_number - 1 if swap_candidates else round_number
