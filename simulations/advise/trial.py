"""The short simulation: the product's own rounds, on the user's devices, under the rules that a fleet can have.

It is a study like any other (``simulations.study``): cells on all cores, resumed after an interruption, and the learning
rate of every method chosen on validation data. Here one rate serves all seeds, because a fleet has one.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from simulations.advise.reading import DeviceData
from simulations.advise.result import MethodTrial, TrialResult
from simulations.data.federation import Federation, client_names
from simulations.engines.model import SimulatedModel
from simulations.study.cell import PlannedCell
from simulations.study.choosing import Choice, choose_rates
from simulations.study.conduct import Progress, conduct_study
from simulations.study.config import (
    MethodChoice,
    RecordChoice,
    RoundChoice,
    ScenarioChoice,
    StudyConfig,
    TrainingChoice,
)
from simulations.study.outcome import CellOutcome, RoundOutcome
from simulations.study.plan import StudyPlan, plan_study
from simulations.study.store import ResultStore
from wire.errors import ConfigError, FleetError, StoreError

__all__ = ["DEFAULT_RATES", "TrialSettings", "run_trial"]

DEFAULT_RATES = (0.01, 0.03, 0.1)
REFERENCE = "fedavg"
PAPER_LAYERS = 2


class TrialSettings(NamedTuple):
    """How long and how often.

    Args:
        num_rounds: Rounds of every method, at least 1.
        num_seeds: At least 1.
        learning_rates: From which each method's is chosen; each once.
        engine: What trains; see ``simulations.rounds.opening``.
        num_processes: How many cells run at once.
    """

    num_rounds: int = 30
    num_seeds: int = 2
    learning_rates: tuple[float, ...] = DEFAULT_RATES
    engine: str = "auto"
    num_processes: int = 1


def run_trial(
    data: DeviceData,
    model: SimulatedModel,
    settings: TrialSettings,
    store: ResultStore,
    scratch: Path,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> TrialResult:
    """Try all methods, or what the store does not hold of them yet.

    Args:
        data: The devices.
        model: What they learn.
        settings: How long and how often.
        store: Takes every cell as it is done.
        scratch: An empty folder for the devices' data while the trial runs.
        on_progress: Told at the start, and after every cell.

    Raises:
        ConfigError: If there is no such engine.
        FleetError: If no method came to a result.
        StoreError: If the disk refuses.
    """
    _write_devices(data.federation, scratch)
    plan = plan_study(_study(data.federation, model, settings, scratch))
    conduct_study(plan, store, num_processes=settings.num_processes, on_progress=on_progress)
    choices = choose_rates(plan.cells, _joint_score(plan.cells, store.score))
    by_method: dict[str, list[tuple[Choice, CellOutcome]]] = {}
    for choice in choices:
        outcome = store.read(choice.planned.digest)
        if outcome is not None:
            by_method.setdefault(choice.planned.method, []).append((choice, outcome))
    failures = tuple(_failures(plan, store, by_method))
    if not by_method:
        raise FleetError(f"no method came to a result; {failures[0] if failures else 'nothing was run'}")
    names = tuple(data.federation.clients)
    clients = data.federation.clients
    return TrialResult(
        model=data.federation.model,
        data=data.federation.scenario,
        layers=model.layer_sizes,
        num_rounds=settings.num_rounds,
        num_seeds=settings.num_seeds,
        num_found=data.num_found,
        num_train={name: len(it.train.targets) for name, it in clients.items()},
        num_validation={name: len(it.validation.targets) for name, it in clients.items()},
        num_test={name: len(it.test.targets) if it.test else 0 for name, it in clients.items()},
        methods=tuple(_method(found, names) for found in by_method.values()),
        conflict=_mean_conflict([outcome for _, outcome in by_method.get(REFERENCE, [])], list(model.layer_sizes)),
        notes=data.notes,
        failures=failures,
    )


def _study(federation: Federation, model: SimulatedModel, settings: TrialSettings, folder: Path) -> StudyConfig:
    """Return the trial as a study; conflict is measured, though most methods do not look at it."""
    rates = settings.learning_rates
    if len(set(rates)) != len(rates):
        raise ConfigError("a learning rate is there twice; name each once")
    paper = {"num_personal": min(PAPER_LAYERS, len(model.layer_sizes))}
    return StudyConfig(
        name="advise",
        scenarios=(ScenarioChoice(name="trial", model=federation.model, folder=str(folder)),),
        methods=(
            MethodChoice(name=REFERENCE),
            MethodChoice(name="local"),
            MethodChoice(name="fedper", label="fedper", options={"num_personal": 1}),
            MethodChoice(name="fedlag-swap"),
            MethodChoice(name="fedlag-paper", label="fedlag-paper", options=paper),
        ),
        seeds=tuple(range(settings.num_seeds)),
        reference=REFERENCE,
        engine=settings.engine,
        rounds=RoundChoice(num_rounds=settings.num_rounds),
        training=TrainingChoice(learning_rates=rates),
        record=RecordChoice(conflict=True),
    )


def _write_devices(federation: Federation, folder: Path) -> None:
    """Write each device's data under a number: its name may be no file's name."""
    try:
        for number, data in zip(client_names(len(federation.clients)), federation.clients.values(), strict=True):
            arrays: dict[str, np.ndarray] = {}
            for part, split in (("train", data.train), ("validation", data.validation), ("test", data.test)):
                if split is not None:
                    arrays |= {f"x_{part}": split.inputs, f"y_{part}": split.targets}
            np.savez(folder / f"{number}.npz", allow_pickle=False, **arrays)
    except OSError as error:
        raise StoreError(f"cannot write the trial's data to {folder}: {error.strerror}; free some space") from error


def _joint_score(cells: Sequence[PlannedCell], score: Callable[[str], float | None]) -> Callable[[str], float | None]:
    """Return a score that is the same for all seeds: their mean; None if a seed has none."""
    groups: dict[tuple[str, float], list[str]] = {}
    for it in cells:
        groups.setdefault((it.method, it.cell.learning_rate), []).append(it.digest)
    joint: dict[str, float | None] = {}
    for digests in groups.values():
        found = [value for digest in digests if (value := score(digest)) is not None]
        joint |= dict.fromkeys(digests, statistics.fmean(found) if len(found) == len(digests) else None)
    return joint.get


def _method(found: Sequence[tuple[Choice, CellOutcome]], names: Sequence[str]) -> MethodTrial:
    cell = found[0][0].planned.cell
    num_rounds = sum(len(outcome.rounds) for _, outcome in found) / len(found)
    clients = [client for _, outcome in found for client in outcome.clients]
    return MethodTrial(
        method=cell.method,
        options=cell.options,
        learning_rate=cell.learning_rate,
        is_rate_at_edge=found[0][0].is_at_edge,
        accuracy={choice.planned.cell.seed: _accuracy(outcome, names) for choice, outcome in found},
        validation=tuple(_mean_validation([outcome.rounds for _, outcome in found])),
        bytes_up=statistics.fmean(it.bytes_up for it in clients) / num_rounds,
        bytes_down=statistics.fmean(it.bytes_down for it in clients) / num_rounds,
        personal_layers={choice.planned.cell.seed: outcome.rounds[-1].personal_layers for choice, outcome in found},
    )


def _accuracy(outcome: CellOutcome, names: Sequence[str]) -> dict[str, float]:
    """Return device -> test accuracy, under the names that its user gave."""
    pairs = zip(names, outcome.clients, strict=True)
    return {name: it.test_accuracy for name, it in pairs if it.test_accuracy is not None}


def _mean_validation(runs: Sequence[Sequence[RoundOutcome]]) -> list[float]:
    return [statistics.fmean(it.validation_accuracy for it in rounds) for rounds in zip(*runs, strict=True)]


def _mean_conflict(outcomes: Sequence[CellOutcome], layers: Sequence[str]) -> dict[str, float]:
    """Return layer -> mean share of pairs in conflict, of the layers of which any could be compared."""
    found: dict[str, list[float]] = {layer: [] for layer in layers}
    for outcome in outcomes:
        for it in outcome.rounds:
            for layer, share in it.conflict.items():
                if share is not None:
                    found[layer].append(share)
    return {layer: statistics.fmean(shares) for layer, shares in found.items() if shares}


def _failures(plan: StudyPlan, store: ResultStore, by_method: dict[str, list[tuple[Choice, CellOutcome]]]) -> list[str]:
    """Say which cells failed, and which method has no learning rate that worked with every seed."""
    told = []
    for it in plan.cells:
        outcome = store.read(it.digest, with_rounds=False)
        if outcome is not None and outcome.status == "failed":
            told.append(f"{it.method}, rate {it.cell.learning_rate:g}, seed {it.cell.seed}: {outcome.reason}")
    missing = [method for method in dict.fromkeys(it.method for it in plan.cells) if method not in by_method]
    return told + [f"{method}: no learning rate worked with every seed; try smaller ones" for method in missing]
