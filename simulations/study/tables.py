"""A study in the terminal, and for other programs."""

from __future__ import annotations

import msgspec
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from simulations.demo.results import Estimate
from simulations.demo.wording import megabytes, percent, printable
from simulations.study.summary import MethodSummary, ScenarioSummary, StudySummary

__all__ = ["points", "rates", "regret_of", "scenario_table", "sent", "summary_json", "with_error"]

COLUMNS = ("accuracy", "worst", "harmed", "sent", "regret", "difference", "rate")


def scenario_table(summary: StudySummary, scenario: ScenarioSummary) -> Table:
    """Return one row per method; ``worst`` is the worst decile, ``sent`` is of what a client sends under FedAvg.

    Args:
        summary: The study.
        scenario: One of its scenarios.
    """
    seeds = len(summary.seeds)
    title = f"{printable(scenario.scenario)}: {scenario.num_clients} clients, {seeds} seed{'s' * (seeds > 1)}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.add_column("method", overflow="fold")
    for column in COLUMNS:
        table.add_column(
            column.replace("difference", f"to {printable(summary.reference)}"), justify="right", no_wrap=True
        )
    for row in scenario.methods:
        table.add_row(
            Text(printable(row.method)),
            with_error(row.accuracy),
            percent(row.worst_decile and row.worst_decile.mean),
            percent(row.harmed and row.harmed.mean),
            megabytes(row.bytes_up) if row.bytes_ratio is None else f"{row.bytes_ratio:.0%}",
            "n/a" if (regret := regret_of(row)) is None else f"{100 * regret.mean:.1f}",
            points(row.difference),
            rates(row),
        )
    return table


def with_error(estimate: Estimate | None) -> str:
    """Return a share in percent with its standard error.

    Example:
        >>> with_error(Estimate(0.5, 0.0123)), with_error(None)
        ('50.0% ± 1.2', 'n/a')
    """
    if estimate is None or estimate.standard_error is None:
        return percent(estimate and estimate.mean)
    return f"{percent(estimate.mean)} ± {100 * estimate.standard_error:.1f}"


def points(estimate: Estimate | None, *, signed: bool = True) -> str:
    """Return a difference of shares in points of percent with its standard error.

    Example:
        >>> points(Estimate(0.012, 0.004)), points(Estimate(0.012, None), signed=False)
        ('+1.2 ± 0.4', '1.2')
    """
    if estimate is None:
        return "n/a"
    told = f"{100 * estimate.mean:{'+' if signed else ''}.1f}"
    return told if estimate.standard_error is None else f"{told} ± {100 * estimate.standard_error:.1f}"


def sent(row: MethodSummary) -> str:
    """Return what a client sends, and which part of FedAvg's that is."""
    ratio = "" if row.bytes_ratio is None else f" ({row.bytes_ratio:.0%})"
    return megabytes(row.bytes_up) + ratio


def regret_of(row: MethodSummary) -> Estimate | None:
    """Return the regret to the oracle, if masks ran, or else to the best fixed choice."""
    return row.regret_to_fixed if row.regret_to_oracle is None else row.regret_to_oracle


def rates(row: MethodSummary) -> str:
    """Return the chosen learning rates, each once."""
    return ", ".join(f"{rate:g}" for rate in sorted(set(row.learning_rates)))


def summary_json(summary: StudySummary) -> bytes:
    """Encode for other programs, indented; an estimate is ``[mean, standard error or null]``."""
    return msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n"
