"""How a round ends: with new averages, or, where devices found its own worse than the last good ones, by going back to those."""

from __future__ import annotations

from collections.abc import Mapping

from aggregator.config import AggregatorConfig
from aggregator.effects import CloseRound, GoBack
from aggregator.guard import go_back, judge_version
from aggregator.planning import FleetState
from aggregator.round import Round
from aggregator.round_report import ClosedRound, RoundReport
from aggregator.staleness import origins_of

__all__ = ["end_round"]


def end_round(
    round_: Round,
    state: FleetState,
    config: AggregatorConfig,
    *,
    refused_messages: Mapping[str, int],
    now_s: float,
) -> CloseRound | GoBack:
    """Return what is to be done with a round that is over.

    Args:
        round_: The round; no upload comes any more.
        state: The state in which it ran.
        config: The aggregator's configuration.
        refused_messages: Reason -> how many messages were refused for it.
        now_s: When the round is over.
    """
    stored = round_.stored
    weights = {name: float(summary.num_examples) for name, summary in stored.items()}
    otherwise = CloseRound(origins_of(round_.plan, round_.plans, stored), weights)
    verdict = judge_version(
        state.guard,
        round_.measured,
        config.rounds.guard,
        fewest=config.rounds.quorum,
        malicious_share=config.averaging.malicious_share,
    )
    if not state.guard or verdict is None or not verdict.is_worse:
        return otherwise
    guard = go_back(state.guard, state.name, verdict)
    report = RoundReport(
        epoch=round_.plan.epoch,
        round_number=round_.plan.round_number,
        plan=round_.plan_digest,
        selector=state.selector,
        personal_layers=tuple(round_.plan.personal_layers),
        next_personal_layers=tuple(round_.plan.personal_layers),
        reasons={},
        conflict_scores={},
        mean_cosines={},
        swap_gains={},
        swap_errors={},
        counted={},
        refused=dict(round_.refused),
        refused_messages=dict(refused_messages),
        dropouts=round_.dropouts,
        runtimes={},
        duration_s=now_s - round_.opened_s,
        held=guard.note,
    )
    return GoBack(state.guard.good, guard, ClosedRound(report, round_.plan, {}), otherwise)
