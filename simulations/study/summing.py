"""Summing a study up: learning rates chosen on validation data, test accuracies over seeds, everything in pairs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from simulations.study.cell import PlannedCell
from simulations.study.choice import MASK, is_fixed
from simulations.study.choosing import Choice, choose_rates
from simulations.study.estimates import estimate, paired_difference, share_below, worst_decile
from simulations.study.outcome import CellOutcome
from simulations.study.plan import StudyPlan
from simulations.study.summary import MethodSummary, ScenarioSummary, StudySummary

__all__ = ["summarize"]

LOCAL, FEDAVG = "local", "fedavg"

Outcomes = Mapping[str, CellOutcome]
"""Digest -> outcome."""

Accuracies = dict[int, dict[str, float]]
"""Seed -> client -> test accuracy, of those who have test examples."""


def summarize(
    plan: StudyPlan, score: Callable[[str], float | None], read: Callable[[str], CellOutcome | None]
) -> StudySummary:
    """Sum up a study, whole or not.

    Args:
        plan: Its cells.
        score: Digest -> validation score; None of a cell without a result.
        read: Digest -> outcome, None of a cell that was not run; rounds are not looked at.
    """
    found = {it.digest: read(it.digest) for it in plan.cells}
    outcomes = {digest: outcome for digest, outcome in found.items() if outcome is not None}
    choices = choose_rates(plan.cells, score)
    by_scenario: dict[str, list[Choice]] = {}
    for choice in choices:
        by_scenario.setdefault(choice.planned.scenario, []).append(choice)
    return StudySummary(
        name=plan.name,
        reference=plan.reference,
        seeds=tuple(dict.fromkeys(it.cell.seed for it in plan.cells)),
        num_cells=len(plan.cells),
        num_done=sum(it.status == "done" for it in outcomes.values()),
        scenarios=tuple(_scenario(plan, group, outcomes) for group in by_scenario.values()),
        failures=tuple(_failures(plan, choices, outcomes)),
        num_diverged=sum(it.status == "diverged" for it in outcomes.values()),
        origins=tuple(sorted({_origin(it) for it in outcomes.values()})),
    )


def _scenario(plan: StudyPlan, choices: Sequence[Choice], outcomes: Outcomes) -> ScenarioSummary:
    groups: dict[str, list[Choice]] = {}
    for choice in choices:
        groups.setdefault(choice.planned.method, []).append(choice)
    names = {method: group[0].planned.cell.method for method, group in groups.items()}
    accuracies = {method: _accuracies(group, outcomes) for method, group in groups.items()}
    means = {method: {seed: _mean(by) for seed, by in found.items()} for method, found in accuracies.items()}
    sent = {method: _bytes_up(group, outcomes) for method, group in groups.items()}
    best_fixed = _best(means, [method for method, name in names.items() if is_fixed(name)])
    oracle = _best(means, [method for method, name in names.items() if name.startswith(MASK)])
    alone = accuracies.get(_called(names, LOCAL), {})
    whole = sent.get(_called(names, FEDAVG))
    reference = means.get(plan.reference, {})
    rows = [
        MethodSummary(
            method=method,
            seeds=tuple(it.planned.cell.seed for it in group),
            learning_rates=tuple(it.planned.cell.learning_rate for it in group),
            num_at_edge=sum(it.is_at_edge for it in group),
            accuracy=estimate(list(means[method].values())),
            worst_decile=estimate([worst_decile(list(by.values())) for by in accuracies[method].values()]),
            harmed=None if names[method] == LOCAL else estimate(_harmed(accuracies[method], alone)),
            bytes_up=sent[method],
            bytes_ratio=sent[method] / whole if whole else None,
            difference=None if method == plan.reference else paired_difference(means[method], reference),
            regret_to_fixed=paired_difference(means[best_fixed], means[method]) if best_fixed else None,
            regret_to_oracle=paired_difference(means[oracle], means[method]) if oracle else None,
            wall_s=statistics.fmean(outcomes[it.planned.digest].wall_s for it in group),
            over_local=_over_local(accuracies[method], alone),
        )
        for method, group in groups.items()
    ]
    first = choices[0].planned
    return ScenarioSummary(
        scenario=first.scenario,
        num_clients=len(outcomes[first.digest].clients),
        methods=tuple(rows),
        best_fixed=best_fixed,
        oracle=oracle,
        notes=tuple(dict.fromkeys(_notes(plan, first.scenario, rows, [outcomes[it.planned.digest] for it in choices]))),
    )


def _accuracies(group: Sequence[Choice], outcomes: Outcomes) -> Accuracies:
    found = {
        it.planned.cell.seed: {
            client.client: client.test_accuracy
            for client in outcomes[it.planned.digest].clients
            if client.test_accuracy is not None
        }
        for it in group
    }
    return {seed: by for seed, by in found.items() if by}


def _mean(by_client: Mapping[str, float]) -> float:
    return statistics.fmean(by_client.values())


def _bytes_up(group: Sequence[Choice], outcomes: Outcomes) -> float:
    return statistics.fmean(client.bytes_up for it in group for client in outcomes[it.planned.digest].clients)


def _best(means: Mapping[str, Mapping[int, float]], methods: Collection[str]) -> str | None:
    """Return the method with the best mean over seeds; of equal ones the first; None if none has any."""
    known = [method for method in methods if means[method]]
    return max(known, key=lambda method: statistics.fmean(means[method].values()), default=None)


def _called(names: Mapping[str, str], name: str) -> str:
    """Return what a study calls a method that it may have."""
    return next((method for method, its_name in names.items() if its_name == name), "")


def _harmed(accuracies: Accuracies, alone: Accuracies) -> list[float]:
    shares = [share_below(by, alone[seed]) for seed, by in accuracies.items() if seed in alone]
    return [share for share in shares if share is not None]


def _over_local(accuracies: Accuracies, alone: Accuracies) -> dict[str, float]:
    gains: dict[str, list[float]] = {}
    for seed, by in accuracies.items():
        for client, value in by.items():
            if client in alone.get(seed, {}):
                gains.setdefault(client, []).append(value - alone[seed][client])
    return {client: statistics.fmean(gained) for client, gained in gains.items()}


def _notes(
    plan: StudyPlan, scenario: str, rows: Sequence[MethodSummary], outcomes: Sequence[CellOutcome]
) -> Iterator[str]:
    for outcome in outcomes:
        yield from outcome.warnings
    asked = {it.cell.seed for it in plan.cells if it.scenario == scenario}
    for row in rows:
        if len(row.seeds) < len(asked):
            yield f"{row.method} has results with {len(row.seeds)} of {len(asked)} seeds"
        if row.num_at_edge:
            yield (
                f"{row.method}: with {row.num_at_edge} of {len(row.seeds)} seeds the best learning rate was the smallest "
                "or largest of those tried; a better one may lie beyond"
            )
    if any(row.accuracy is None for row in rows):
        yield "these clients have no test examples, so that no accuracy is reported"


def _failures(plan: StudyPlan, choices: Sequence[Choice], outcomes: Outcomes) -> Iterator[str]:
    """Say what failed, and which method came to nothing on a scenario and seed although all its cells were run."""
    groups: dict[tuple[str, str, int], list[PlannedCell]] = {}
    for it in plan.cells:
        groups.setdefault((it.scenario, it.method, it.cell.seed), []).append(it)
        outcome = outcomes.get(it.digest)
        if outcome is not None and outcome.status == "failed":
            yield f"{it.method} on {it.scenario}, seed {it.cell.seed}, rate {it.cell.learning_rate:g}: {outcome.reason}"
    chosen = {(it.planned.scenario, it.planned.method, it.planned.cell.seed) for it in choices}
    for (scenario, method, seed), cells in groups.items():
        statuses = {outcomes[it.digest].status if it.digest in outcomes else "missing" for it in cells}
        if (scenario, method, seed) not in chosen and statuses == {"diverged"}:
            yield f"{method} on {scenario}, seed {seed}: diverged with every learning rate; try smaller ones"


def _origin(outcome: CellOutcome) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in sorted(outcome.versions.items()))
    return f"commit {outcome.commit or 'unknown'}, {versions}"
