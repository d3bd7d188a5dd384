"""What follows from a round that closes: the evidence for the selector, the next state, and the report that is kept."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
from msgspec import UnsetType

from aggregator.admission import summary_width
from aggregator.config import AggregatorConfig
from aggregator.evidence import Decision, Evidence, Selector, measure_conflicts
from aggregator.guard import GuardState, judge_version, remember_version
from aggregator.planning import FleetState, build_plan
from aggregator.round import Round
from aggregator.round_report import DeviceRound, RoundReport
from aggregator.setbacks import next_setbacks
from aggregator.swap_test import judge_swap
from wire.digest import content_digest
from wire.manifest import LayerSpec, ModelManifest
from wire.messages import RoundPlan, Summary
from wire.tensors import encode_layer

__all__ = ["close_round", "encode_averages"]


def close_round(
    round_: Round,
    state: FleetState,
    averages: Mapping[str, str],
    *,
    config: AggregatorConfig,
    manifest: ModelManifest,
    selector: Selector,
    runtimes: Mapping[str, str],
    refused_messages: Mapping[str, int],
    now_s: float,
) -> tuple[FleetState, RoundReport]:
    """Return the state after a round, and the round's report.

    Args:
        round_: The round; no upload comes any more.
        state: The state in which it ran.
        averages: Layer -> digest of its average.
        config: The aggregator's configuration.
        manifest: Of the model.
        selector: Decides what is personal in the next round, but after a measuring round, which is the last.
        runtimes: Counted device -> the runtime that it trained on.
        refused_messages: Reason -> how many messages were refused for it.
        now_s: When the round closes.
    """
    was_measuring = round_.plan.training.num_epochs == 0
    evidence = _evidence(round_, manifest)
    selector_state, decision = state.selector_state, state.decision
    if not was_measuring:
        selector_state, decision = selector.decide(selector_state, evidence)
    layers = {**state.layers, **averages}
    plan = build_plan(
        config,
        round_.plan.model_id,
        manifest,
        layers,
        decision,
        needs_personal_sketches=selector.needs_personal_sketches,
        epoch=round_.plan.epoch,
        round_number=round_.plan.round_number + 1,
        previous=round_.plan_digest,
    )
    following = msgspec.structs.replace(
        state,
        plan=plan,
        layers=layers,
        selector_state=selector_state,
        decision=decision,
        is_finished=was_measuring,
        guard=_guard(round_, state, config),
        setbacks=next_setbacks(
            state.setbacks, round_.plan.round_number, round_.stored, {*round_.refused, *round_.dropouts}
        ),
        earlier_plans=(*state.answerable.values(),)[-plan.max_staleness :] if plan.max_staleness else (),
    )
    return following, _report(
        round_, evidence, decision, selector.name, runtimes=runtimes, refused_messages=refused_messages, now_s=now_s
    )


def encode_averages(
    manifest: ModelManifest, averages: Mapping[str, np.ndarray]
) -> tuple[dict[str, str], dict[str, bytes]]:
    """Return layer -> digest, and digest -> encoded values, of averages of shape ``(num_params,)``, float32."""
    blobs = {name: encode_layer(manifest.layer(name), values, codec="raw") for name, values in averages.items()}
    digests = {name: content_digest(blob) for name, blob in blobs.items()}
    return digests, {digests[name]: blob for name, blob in blobs.items()}


def _guard(round_: Round, state: FleetState, config: AggregatorConfig) -> GuardState | UnsetType:
    """Return what the guard knows after a version that stays."""
    bound, share = config.rounds.guard, config.averaging.malicious_share
    if bound is None:
        return state.guard
    told = round_.measured
    verdict = judge_version(state.guard, told, bound, fewest=config.rounds.quorum, malicious_share=share)
    return remember_version(state.guard, state.name, round_.plan.round_number, told, verdict)


def _evidence(round_: Round, manifest: ModelManifest) -> Evidence:
    """Return what the counted devices told, one row a device in the order of their names.

    A stale update speaks of the layers of which its plan asked for the same sketch as the round's plan does; a test of swaps
    is about this plan's averages, so stale gains say nothing.
    """
    plan, summaries = round_.plan, [*round_.stored.values()]
    sketches, norms = {}, {}
    for layer in manifest.layers if plan.training.num_epochs else ():
        told = [it.layers[layer.name] for it in summaries if _is_comparable(layer, it, round_.plans[it.plan], plan)]
        norms[layer.name] = np.array([summary.norm for summary in told])
        if told and summary_width(layer, plan):
            sketches[layer.name] = np.stack([np.frombuffer(summary.sketch, dtype="<f4") for summary in told])
    tested = [summary.swap_gains for summary in summaries if summary.plan == round_.plan_digest]
    gains = {name: np.array([gains[name] for gains in tested if name in gains]) for name in plan.swap_candidates}
    return Evidence(
        round_number=plan.round_number,
        num_params={layer.name: layer.num_params for layer in manifest.layers},
        sketches=sketches,
        norms=norms,
        swap_gains={name: values for name, values in gains.items() if values.size},
    )


def _is_comparable(layer: LayerSpec, summary: Summary, answered: RoundPlan, plan: RoundPlan) -> bool:
    """Say whether what a summary tells of a layer is what the round's plan asks for."""
    if answered is plan:
        return True
    was_asked = [
        (it.sketch_seed, layer.name in it.personal_layers, summary_width(layer, it)) for it in (answered, plan)
    ]
    return was_asked[0] == was_asked[1] and len(summary.layers[layer.name].sketch) == 4 * was_asked[1][2]


def _report(
    round_: Round,
    evidence: Evidence,
    decision: Decision,
    selector: str,
    *,
    runtimes: Mapping[str, str],
    refused_messages: Mapping[str, int],
    now_s: float,
) -> RoundReport:
    """Return what is kept of a round that closes now."""
    plan = round_.plan
    conflicts = measure_conflicts(evidence)
    judged = {name: judge_swap(gains) for name, gains in evidence.swap_gains.items()}
    tests = {name: test for name, test in judged.items() if test is not None}
    return RoundReport(
        epoch=plan.epoch,
        round_number=plan.round_number,
        plan=round_.plan_digest,
        selector=selector,
        personal_layers=tuple(plan.personal_layers),
        next_personal_layers=decision.personal_layers,
        reasons=decision.reasons,
        conflict_scores={name: conflict.conflict_score for name, conflict in conflicts.items()},
        mean_cosines={name: conflict.mean_cosine for name, conflict in conflicts.items()},
        swap_gains={name: test.gain for name, test in tests.items()},
        swap_errors={name: test.standard_error for name, test in tests.items()},
        counted={name: _figures(summary, plan.round_number) for name, summary in round_.stored.items()},
        refused=dict(round_.refused),
        refused_messages=dict(refused_messages),
        dropouts=round_.dropouts,
        runtimes=dict(runtimes),
        duration_s=now_s - round_.opened_s,
    )


def _figures(summary: Summary, round_number: int) -> DeviceRound:
    return DeviceRound(
        num_examples=summary.num_examples,
        train_loss=summary.train_loss,
        before=summary.before,
        after=summary.after,
        test=summary.test,
        bytes_up=summary.bytes_up,
        bytes_down=summary.bytes_down,
        staleness=round_number - summary.round_number,
    )
