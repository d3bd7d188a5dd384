"""The page of the evidence, made from what is committed of it."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from simulations.demo.results import Estimate
from simulations.study.choice import MASK
from simulations.study.evidence import Evidence, load_evidence, to_json
from simulations.study.summary import MethodSummary, ScenarioSummary
from wire.errors import StoreError

__all__ = ["BEGIN", "END", "evidence_page", "write_evidence"]

BEGIN, END = "<!-- begin: made by fedlag simulate evidence -->", "<!-- end -->"

POINTS = 100


def evidence_page(page: str, evidence: Evidence) -> str:
    """Return the page with its tables made anew; what stands around them stays.

    Args:
        page: Holds the lines ``BEGIN`` and ``END``.
        evidence: What the tables show.

    Raises:
        ValueError: If the page does not hold both lines.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page needs the lines {BEGIN} and {END}")
    return before + "\n".join([BEGIN, *_tables(evidence), END]) + after


def write_evidence(page: Path, evidence: Evidence) -> None:
    """Renew the page's tables, and write the evidence beside it: ``cpu.json`` beside ``cpu.md``.

    Raises:
        StoreError: If the page cannot be read or written, or has no place for tables.
    """
    data = page.with_suffix(".json")
    try:
        text = page.read_text()
        evidence_page(text, evidence)  # refuses before anything is written
        data.write_bytes(to_json(evidence))
        page.write_text(evidence_page(text, load_evidence(data)))
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot renew {page}: {error}") from error


def _tables(evidence: Evidence) -> Iterator[str]:
    summary = evidence.summary
    seeds = ", ".join(map(str, summary.seeds))
    yield ""
    yield f"Profile `{evidence.profile}`: {len(summary.scenarios)} scenarios, seeds {seeds}, {summary.num_cells} cells."
    yield f"{'Computed by ' + '; '.join(summary.origins)}."
    if summary.num_diverged:
        yield f"In {summary.num_diverged} cells the training of all clients diverged; their learning rates were not chosen."
    rows = [row for scenario in summary.scenarios for row in scenario.methods]
    at_edge, chosen = sum(row.num_at_edge for row in rows), sum(len(row.seeds) for row in rows)
    if at_edge:
        yield (
            f"In {at_edge} of {chosen} choices of a learning rate the best one was the smallest or the largest of those tried: "
            "a better one may lie beyond."
        )
    yield ""
    yield "### Over all scenarios"
    yield ""
    yield from _overview(summary.scenarios)
    for scenario in summary.scenarios:
        yield ""
        yield f"### {scenario.scenario}"
        yield ""
        yield from _scenario(scenario)


def _overview(scenarios: Sequence[ScenarioSummary]) -> Iterator[str]:
    """Yield one row a method: what it costs not to know the best fixed choice, on average and at worst."""
    yield "| method | mean accuracy | mean regret | worst regret | where | harmed | bytes |"
    yield "|---|---|---|---|---|---|---|"
    everywhere = set.intersection(*({row.method for row in scenario.methods} for scenario in scenarios))
    for name in [row.method for row in scenarios[0].methods if row.method in everywhere and not _is_mask(row.method)]:
        rows = [(it.scenario, row) for it in scenarios for row in it.methods if row.method == name]
        accuracies = [row.accuracy.mean for _, row in rows if row.accuracy]
        regrets = [(row.regret_to_fixed.mean, scenario) for scenario, row in rows if row.regret_to_fixed]
        harmed = [row.harmed.mean for _, row in rows if row.harmed]
        sizes = [row.bytes_ratio for _, row in rows if row.bytes_ratio is not None]
        worst, where = max(regrets, default=(0.0, ""))
        cells = [
            f"`{name}`",
            f"{statistics.fmean(accuracies):.3f}" if accuracies else "",
            f"{POINTS * statistics.fmean(regret for regret, _ in regrets):.1f}" if regrets else "",
            f"{POINTS * worst:.1f}",
            where,
            f"{statistics.fmean(harmed):.0%}" if harmed else "",
            f"{statistics.fmean(sizes):.2f}" if sizes else "",
        ]
        yield f"| {' | '.join(cells)} |"


def _scenario(scenario: ScenarioSummary) -> Iterator[str]:
    yield "| method | accuracy | to `fedavg` | worst decile | harmed | bytes | regret | learning rates |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in scenario.methods:
        is_best_fixed = row.method == scenario.best_fixed
        if is_best_fixed or not _is_mask(row.method):
            yield f"| {' | '.join(_cells(row, is_best_fixed))} |"
    if scenario.oracle:
        yield ""
        yield f"All choices of layers ran; the best of them is `{scenario.oracle}`, picked on test data."
    for note in scenario.notes:
        if "learning rate" not in note:  # the last column shows them
            yield ""
            yield f"Note: {note}."


def _is_mask(method: str) -> bool:
    """Say whether it is one of all choices of layers, of which only the best has a row."""
    return method.startswith(MASK)


def _cells(row: MethodSummary, is_best_fixed: bool) -> list[str]:
    regret = row.regret_to_oracle or row.regret_to_fixed
    return [
        f"`{row.method}`" + (" (best fixed)" if is_best_fixed else ""),
        _estimate(row.accuracy, 1, 3),
        _estimate(row.difference, POINTS, 1),
        _estimate(row.worst_decile, 1, 3),
        f"{row.harmed.mean:.0%}" if row.harmed else "",
        f"{row.bytes_ratio:.2f}" if row.bytes_ratio is not None else "",
        _estimate(regret, POINTS, 1),
        ", ".join(f"{rate:g}" for rate in row.learning_rates),
    ]


def _estimate(value: Estimate | None, scale: float, digits: int) -> str:
    if value is None:
        return ""
    error = "" if value.standard_error is None else f" ± {scale * value.standard_error:.{digits}f}"
    return f"{scale * value.mean:.{digits}f}{error}"
