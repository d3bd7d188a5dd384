"""What a closed round says: the evidence for the selector, and the report that is kept."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from aggregator.admission import summary_width
from aggregator.evidence import Decision, Evidence, measure_conflicts
from aggregator.round import Round
from aggregator.round_report import DeviceRound, RoundReport
from aggregator.swap_test import judge_swap
from wire.manifest import ModelManifest
from wire.messages import RoundPlan, Summary

__all__ = ["count_evidence", "report_round"]


def count_evidence(plan: RoundPlan, manifest: ModelManifest, counted: Mapping[str, Summary]) -> Evidence:
    """Return what the counted devices told, one row a device in the order of their names."""
    summaries = [counted[name] for name in sorted(counted)]
    sketches, norms = {}, {}
    for layer in manifest.layers if plan.training.num_epochs else ():
        norms[layer.name] = np.array([summary.layers[layer.name].norm for summary in summaries])
        if summary_width(layer, plan):
            rows = [np.frombuffer(summary.layers[layer.name].sketch, dtype="<f4") for summary in summaries]
            sketches[layer.name] = np.stack(rows)
    gains = {
        name: np.array([summary.swap_gains[name] for summary in summaries if name in summary.swap_gains])
        for name in plan.swap_candidates
    }
    return Evidence(
        round_number=plan.round_number,
        num_params={layer.name: layer.num_params for layer in manifest.layers},
        sketches=sketches,
        norms=norms,
        swap_gains={name: values for name, values in gains.items() if values.size},
    )


def report_round(
    round_: Round,
    evidence: Evidence,
    decision: Decision,
    *,
    selector: str,
    runtimes: dict[str, str],
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
        counted={name: _figures(summary) for name, summary in round_.stored.items()},
        refused=dict(round_.refused),
        refused_messages=dict(refused_messages),
        dropouts=round_.dropouts,
        runtimes=runtimes,
        duration_s=now_s - round_.opened_s,
    )


def _figures(summary: Summary) -> DeviceRound:
    return DeviceRound(
        num_examples=summary.num_examples,
        train_loss=summary.train_loss,
        before=summary.before,
        after=summary.after,
        test=summary.test,
        bytes_up=summary.bytes_up,
        bytes_down=summary.bytes_down,
    )
