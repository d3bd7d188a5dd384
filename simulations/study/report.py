"""A study as one HTML file: nothing it shows comes from elsewhere, and it sends nothing anywhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2
from markupsafe import Markup

import simulations.demo
from simulations.data.scenarios import SCENARIOS
from simulations.demo.wording import printable
from simulations.study.charts import accuracy_chart, bytes_chart, conflict_chart, local_chart, regret_chart
from simulations.study.choosing import choose_rates
from simulations.study.outcome import CellOutcome
from simulations.study.plan import StudyPlan
from simulations.study.summary import MethodSummary, ScenarioSummary, StudySummary
from simulations.study.tables import points, rates, regret_of, sent, with_error

__all__ = ["HeatMaps", "OverallRow", "ReportRow", "ScenarioView", "heat_maps_of", "render_study"]

HeatMaps = dict[str, dict[str, CellOutcome]]
"""Scenario -> method -> an outcome with rounds in which conflict was measured."""


class ReportRow(NamedTuple):
    """A method on a scenario, in words."""

    method: str
    accuracy: str
    worst: str
    harmed: str
    sent: str
    regret: str
    difference: str
    rates: str
    seconds: str


class OverallRow(NamedTuple):
    """A method's regret over scenarios, in words."""

    method: str
    mean: str
    worst: str
    where: str


class ScenarioView(NamedTuple):
    """A scenario as the page shows it."""

    scenario: ScenarioSummary
    about: str
    rows: list[ReportRow]
    accuracy: Markup | None
    local: Markup | None
    bytes: Markup | None
    heat_maps: dict[str, Markup]


def heat_maps_of(
    plan: StudyPlan, score: Callable[[str], float | None], read: Callable[[str], CellOutcome | None]
) -> HeatMaps:
    """Return the first seed's chosen outcomes in which conflict was measured.

    Args:
        plan: The study.
        score: Digest -> validation score; None of a cell without a result.
        read: Digest -> outcome with its rounds; None of a cell that was not run.
    """
    found: HeatMaps = {}
    first = plan.cells[0].cell.seed
    for choice in choose_rates([it for it in plan.cells if it.cell.seed == first], score):
        outcome = read(choice.planned.digest)
        if outcome is not None and any(part.conflict for part in outcome.rounds):
            found.setdefault(choice.planned.scenario, {})[choice.planned.method] = outcome
    return found


def render_study(summary: StudySummary, heat_maps: HeatMaps) -> str:
    """Return the page; whatever stands in the results is escaped.

    Args:
        summary: The study.
        heat_maps: Of which conflict is drawn.
    """
    folders = [Path(__file__).parent, Path(simulations.demo.__file__).parent]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["printable"] = printable
    outcomes = [outcome for by_method in heat_maps.values() for outcome in by_method.values()]
    top = _heat_top(outcomes)
    return environment.get_template("study.html").render(
        study=summary,
        num_methods=len({row.method for scenario in summary.scenarios for row in scenario.methods}),
        regret=regret_chart(summary),
        overall=_overall(summary),
        views=[_view(scenario, heat_maps.get(scenario.scenario, {}), top) for scenario in summary.scenarios],
        heat_top=f"{top:.0%}",
    )


def _heat_top(outcomes: Sequence[CellOutcome]) -> float:
    scores = [score for it in outcomes for part in it.rounds for score in part.conflict.values() if score is not None]
    return max(0.25, math.ceil(max(scores, default=0.0) * 4) / 4)


def _view(scenario: ScenarioSummary, outcomes: dict[str, CellOutcome], top: float) -> ScenarioView:
    known = SCENARIOS.get(scenario.scenario.partition(" ")[0])
    has_accuracy = any(row.accuracy is not None for row in scenario.methods)
    return ScenarioView(
        scenario=scenario,
        about=known.about if known else "",
        rows=[_row(row) for row in scenario.methods],
        accuracy=accuracy_chart(scenario) if has_accuracy else None,
        local=local_chart(scenario),
        bytes=bytes_chart(scenario),
        heat_maps={method: conflict_chart(method, outcome, top) for method, outcome in outcomes.items()},
    )


def _row(row: MethodSummary) -> ReportRow:
    return ReportRow(
        method=row.method,
        accuracy=with_error(row.accuracy),
        worst=with_error(row.worst_decile),
        harmed=with_error(row.harmed),
        sent=sent(row),
        regret=points(regret_of(row), signed=False),
        difference=points(row.difference),
        rates=rates(row),
        seconds=f"{row.wall_s:.1f}",
    )


def _overall(summary: StudySummary) -> list[OverallRow]:
    regrets: dict[str, dict[str, float]] = {}
    for scenario in summary.scenarios:
        for row in scenario.methods:
            if (regret := regret_of(row)) is not None:
                regrets.setdefault(row.method, {})[scenario.scenario] = 100 * regret.mean
    rows = []
    for method, by in sorted(regrets.items(), key=lambda it: sum(it[1].values()) / len(it[1])):
        where = max(by, key=lambda scenario: by[scenario])
        rows.append(OverallRow(method, f"{sum(by.values()) / len(by):.1f}", f"{by[where]:.1f}", where))
    return rows
