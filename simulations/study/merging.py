"""Several files of results as one study, where that can be done: what was not run alike is not compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from simulations.study.cell import PlannedCell, setting_of
from simulations.study.plan import StudyPlan
from wire.errors import ConfigError

__all__ = ["Source", "merge_plans"]


class Source(NamedTuple):
    """One file's study.

    Args:
        name: What tells it from the others.
        plan: Its cells.
    """

    name: str
    plan: StudyPlan


def merge_plans(sources: Sequence[Source]) -> StudyPlan:
    """Return the cells of several studies as one; a cell's digest has the number of its source and ``:`` before it.

    Methods of the same name from different sources are told apart by the source's name. Seeds that not all sources
    have, and scenarios that only one has, are left out.

    Args:
        sources: At least one.

    Raises:
        ConfigError: If a scenario was run with other settings, or scenarios or seeds have nothing in common.
    """
    if len(sources) == 1:
        plan = sources[0].plan
        return msgspec.structs.replace(plan, cells=tuple(_from(0, it, it.method) for it in plan.cells))
    _refuse_other_settings(sources)
    scenarios = [{it.scenario for it in source.plan.cells} for source in sources]
    common = set.intersection(*scenarios)
    if not common:
        listed = "; ".join(
            f"{s.name} has {', '.join(sorted(found))}" for s, found in zip(sources, scenarios, strict=True)
        )
        raise ConfigError(f"these results have no scenario in common: {listed}")
    seeds = set.intersection(*({it.cell.seed for it in source.plan.cells} for source in sources))
    if not seeds:
        raise ConfigError(
            "these results have no seed in common, so nothing can be compared in pairs; run the same seeds"
        )
    names = [{it.method for it in source.plan.cells} for source in sources]
    cells: list[PlannedCell] = []
    for place, source in enumerate(sources):
        others = set[str]().union(*(found for index, found in enumerate(names) if index != place))
        for it in source.plan.cells:
            if it.scenario in common and it.cell.seed in seeds:
                label = f"{it.method} ({source.name})" if it.method in others else it.method
                cells.append(_from(place, it, label))
    first = sources[0]
    is_double = any(first.plan.reference in found for found in names[1:])
    reference = f"{first.plan.reference} ({first.name})" if is_double else first.plan.reference
    name = " and ".join(source.name for source in sources)
    return StudyPlan(name=name, reference=reference, cells=tuple(cells))


def _from(place: int, planned: PlannedCell, method: str) -> PlannedCell:
    return msgspec.structs.replace(planned, digest=f"{place}:{planned.digest}", method=method)


def _refuse_other_settings(sources: Sequence[Source]) -> None:
    seen: dict[str, tuple[str, dict[str, Any]]] = {}
    for source in sources:
        for it in source.plan.cells:
            setting = setting_of(it.cell)
            whose, known = seen.setdefault(it.scenario, (source.name, setting))
            for option in {**known, **setting}:
                if known.get(option) != setting.get(option):
                    raise ConfigError(
                        f"{it.scenario} cannot be compared: {option} is {known.get(option)} in {whose} and "
                        f"{setting.get(option)} in {source.name}; run both alike"
                    )
