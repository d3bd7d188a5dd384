"""A plan: all cells of a study, in the order in which they run. Whatever is wrong shows here, before anything trains."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from simulations.rounds.opening import ENGINE_NAMES
from simulations.study.cell import Cell, PlannedCell, cell_digest
from simulations.study.choice import choose_method, expand_masks, method_label
from simulations.study.config import ScenarioChoice, StudyConfig
from simulations.study.material import fingerprint_of, make_federation, make_model
from wire.errors import ConfigError

__all__ = ["StudyPlan", "plan_studies", "plan_study"]


class StudyPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a study is made of.

    Args:
        name: The study's name.
        reference: The method that the others are compared with.
        cells: Each once, scenario by scenario, seed by seed.
    """

    name: str
    reference: str
    cells: tuple[PlannedCell, ...]


def plan_study(study: StudyConfig, suffix: str = "") -> StudyPlan:
    """Return a study's cells; its first federation of every scenario is made and checked.

    Args:
        study: What is compared.
        suffix: Stands behind the scenarios' names, to tell settings apart.

    Raises:
        ConfigError: If there is no such scenario, method, option or engine, or a cohort is larger than a fleet.
        DataError: If data is missing or broken, or does not fit its model.
        ExportError: If a model cannot be trained.
    """
    if study.engine not in ENGINE_NAMES:
        raise ConfigError(f"no engine is called {study.engine!r}; choose one of {', '.join(ENGINE_NAMES)}")
    cells = [cell for scenario in study.scenario_choices for cell in _scenario_cells(study, scenario, suffix)]
    _refuse_twins(cells)
    return StudyPlan(name=study.name, reference=study.reference, cells=tuple(cells))


def plan_studies(studies: Sequence[tuple[str, StudyConfig]]) -> StudyPlan:
    """Return the cells of several settings of one study as one.

    Args:
        studies: Suffix of the scenarios' names, and the study; at least one.

    Raises:
        ConfigError: As ``plan_study``.
        DataError: As ``plan_study``.
        ExportError: As ``plan_study``.
    """
    plans = [plan_study(study, suffix) for suffix, study in studies]
    cells = tuple(cell for plan in plans for cell in plan.cells)
    return StudyPlan(name=plans[0].name, reference=plans[0].reference, cells=cells)


def _scenario_cells(study: StudyConfig, scenario: ScenarioChoice, suffix: str) -> list[PlannedCell]:
    data, called = scenario.data, scenario.label or scenario.name
    federation = make_federation(data, study.seeds[0])
    cohort = scenario.cohort_size or study.rounds.cohort_size
    if cohort is not None and cohort > len(federation.clients):
        raise ConfigError(
            f"{called}: a cohort of {cohort} cannot come from {len(federation.clients)} clients; "
            "lower rounds.cohort_size, or leave it out to ask all"
        )
    model = make_model(data, seed=0)
    methods = expand_masks(study.method_choices, list(model.layer_sizes))
    for method in methods:
        choose_method(method.name, method.options, model, study.rounds.num_rounds)
    fingerprint = fingerprint_of(data)
    planned = []
    for seed in study.seeds:
        for method in methods:
            for learning_rate in scenario.learning_rates or study.training.learning_rates:
                cell = Cell(
                    scenario=data,
                    fingerprint=fingerprint,
                    method=method.name,
                    options=method.options,
                    seed=seed,
                    learning_rate=learning_rate,
                    num_rounds=study.rounds.num_rounds,
                    cohort_size=cohort,
                    sketch_width=study.rounds.sketch_width,
                    training=study.training.rule,
                    records_conflict=study.record.conflict,
                    lies=scenario.lies,
                )
                planned.append(
                    PlannedCell(
                        digest=cell_digest(cell),
                        scenario=called + suffix,
                        method=method_label(method),
                        engine=study.engine,
                        cell=cell,
                    )
                )
    return planned


def _refuse_twins(cells: Sequence[PlannedCell]) -> None:
    """Refuse two methods or scenarios that a report could not tell apart, or that are the same."""
    places: dict[object, PlannedCell] = {}
    for it in cells:
        for key in (it.digest, (it.scenario, it.method, it.cell.seed, it.cell.learning_rate)):
            other = places.setdefault(key, it)
            if other is not it:
                raise ConfigError(
                    f"{other.method} on {other.scenario} and {it.method} on {it.scenario} are the same; "
                    "leave one out, or give it a label or name of its own"
                )
