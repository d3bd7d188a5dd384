"""What a study comes to: every method on every scenario, over seeds."""

from __future__ import annotations

import msgspec

from simulations.demo.results import Estimate

__all__ = ["MethodSummary", "ScenarioSummary", "StudySummary"]


class MethodSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One method on one scenario.

    Args:
        method: What the study calls it.
        seeds: Those with a result.
        learning_rates: Of each of them, chosen on validation data.
        num_at_edge: In how many of them a better rate may lie beyond those tried.
        accuracy: Mean over clients of their own test accuracy; over seeds. None without test examples.
        worst_decile: Mean of the worst tenth of the clients; over seeds.
        harmed: Share of clients that do worse than alone, client by client; None without the method ``local``.
        bytes_up: What a client sends, mean over clients; over seeds.
        bytes_ratio: Of what it sends under ``fedavg``; None without it.
        difference: To the study's reference, seed by seed; None of the reference itself, or without it.
        regret_to_fixed: Of the best fixed choice that ran to this one, seed by seed; None if no fixed choice ran.
        regret_to_oracle: The same of the best of all masks, which was chosen on test data; None if none ran.
        wall_s: Seconds of a cell, mean over seeds.
        over_local: Client -> what it gains over training alone, mean over seeds; empty without ``local``.
    """

    method: str
    seeds: tuple[int, ...]
    learning_rates: tuple[float, ...]
    num_at_edge: int
    accuracy: Estimate | None
    worst_decile: Estimate | None
    harmed: Estimate | None
    bytes_up: float
    bytes_ratio: float | None
    difference: Estimate | None
    regret_to_fixed: Estimate | None
    regret_to_oracle: Estimate | None
    wall_s: float
    over_local: dict[str, float]


class ScenarioSummary(msgspec.Struct, frozen=True, kw_only=True):
    """All methods on one scenario.

    Args:
        scenario: What the study calls it.
        num_clients: How many.
        methods: In the study's order.
        best_fixed: The best fixed choice that ran, by mean test accuracy over seeds.
        oracle: The best mask that ran.
        notes: What one must know to read the figures: surprising data, seeds that are missing, rates at an edge.
    """

    scenario: str
    num_clients: int
    methods: tuple[MethodSummary, ...]
    best_fixed: str | None
    oracle: str | None
    notes: tuple[str, ...]


class StudySummary(msgspec.Struct, frozen=True, kw_only=True):
    """All of a study.

    Args:
        name: The study's name.
        reference: The method that the others are compared with.
        seeds: All that were asked for.
        num_cells: All of the study.
        num_done: Those with a result.
        scenarios: In the study's order; those without any result are left out.
        failures: What failed and why, one line each.
        num_diverged: How many cells' training left the numbers.
        origins: Commits and versions that computed the results.
    """

    name: str
    reference: str
    seeds: tuple[int, ...]
    num_cells: int
    num_done: int
    scenarios: tuple[ScenarioSummary, ...]
    failures: tuple[str, ...]
    num_diverged: int
    origins: tuple[str, ...]
