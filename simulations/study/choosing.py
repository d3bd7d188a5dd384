"""The learning rate of every method, scenario and seed: the best on validation data, never on test data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from simulations.study.cell import PlannedCell

__all__ = ["Choice", "choose_rates"]


class Choice(NamedTuple):
    """One method on one scenario with one seed, at the learning rate that validation data chose.

    Args:
        planned: The chosen cell.
        is_at_edge: The rate is the smallest or the largest of three or more: a better one may lie beyond.
    """

    planned: PlannedCell
    is_at_edge: bool


def choose_rates(cells: Iterable[PlannedCell], score: Callable[[str], float | None]) -> list[Choice]:
    """Return the chosen cell of every scenario, method and seed, in the order of the cells.

    Args:
        cells: Of a study.
        score: Digest -> mean validation accuracy over the last three rounds; None of a cell without a result.

    Returns:
        One choice for each that has a result; of equal scores the smaller rate.
    """
    groups: dict[tuple[str, str, int], list[PlannedCell]] = {}
    for planned in cells:
        groups.setdefault((planned.scenario, planned.method, planned.cell.seed), []).append(planned)
    return [choice for group in groups.values() if (choice := _choose(group, score)) is not None]


def _choose(group: Sequence[PlannedCell], score: Callable[[str], float | None]) -> Choice | None:
    scored = [(found, planned) for planned in group if (found := score(planned.digest)) is not None]
    if not scored:
        return None
    _, best = max(scored, key=lambda it: (it[0], -it[1].cell.learning_rate))
    rates = sorted(planned.cell.learning_rate for planned in group)
    is_at_edge = len(rates) > 2 and best.cell.learning_rate in {rates[0], rates[-1]}  # noqa: PLR2004 - two are all edge
    return Choice(best, is_at_edge)
