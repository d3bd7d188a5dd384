"""One cell, from its data to its outcome. Whatever goes wrong in it becomes its outcome, too."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from aggregator.config import RoundSettings
from aggregator.selection import make_selector
from simulations.data.federation import check_federation
from simulations.engines.model import SimulatedModel
from simulations.engines.planner import Plan
from simulations.engines.population import Population, gather_population
from simulations.rounds.grouping import GroupedWorkers
from simulations.rounds.keeping import RowFolder
from simulations.rounds.method import Method, step_rule
from simulations.rounds.opening import open_plan, plan_workers
from simulations.rounds.simulation import RoundRecord, Simulation
from simulations.rounds.workers import Workers
from simulations.study.cell import Cell, PlannedCell
from simulations.study.choice import choose_method
from simulations.study.material import make_federation, make_model
from simulations.study.origin import code_commit, code_versions
from simulations.study.outcome import LAST_ROUNDS, CellOutcome, ClientOutcome, RoundOutcome, Status
from wire.errors import FedlagError, FleetError
from wire.sketches import personal_width

__all__ = ["run_cell", "sketch_values"]

BYTES_PER_VALUE = 4
NUM_GROUPS = 4
PLANS: dict[object, Plan] = {}
"""What trials in this process have found."""


def run_cell(planned: PlannedCell) -> CellOutcome:
    """Return a cell's outcome; it depends on the cell alone, but for times and the rounding of its engine.

    Args:
        planned: The cell, and what is to train it.
    """
    origin = CellOutcome(digest=planned.digest, versions=code_versions(), commit=code_commit())
    try:
        return _Run(planned, origin).outcome()
    except FedlagError as error:
        return _not_done(origin, str(error))
    except Exception as error:  # noqa: BLE001 - a defect in one cell is told at the end, and the study goes on
        return _not_done(origin, f"{type(error).__name__}: {error}".rstrip(": "))


def sketch_values(
    layer_sizes: dict[str, int], personal_layers: Sequence[str], width: int | None, *, of_personal: bool
) -> int:
    """Return how many values a client's summaries have in one round.

    Args:
        layer_sizes: Layer -> number of its parameters.
        personal_layers: Those that are not sent.
        width: Most values of a sketch; None: personal layers' updates are sent whole, shared ones are sent anyway.
        of_personal: Whether personal layers are sketched.

    Example:
        >>> sketch_values({"fc1": 8000, "head": 100}, ["fc1"], 64, of_personal=False)
        64
    """
    total = 0
    for layer, size in layer_sizes.items():
        if layer not in personal_layers:
            total += 0 if width is None else min(width, size)
        elif width is None:
            total += size
        elif of_personal:
            total += personal_width(size, width)
    return total


class _Run:
    """A simulation under way, and what is written down of it."""

    def __init__(self, planned: PlannedCell, origin: CellOutcome) -> None:
        cell = planned.cell
        self.cell = cell
        self.origin = origin
        self.engine = planned.engine
        federation = make_federation(cell.scenario, cell.seed)
        self.warnings = check_federation(federation)
        self.model = make_model(cell.scenario, cell.seed)
        self.population = gather_population(federation.clients)
        self.method = choose_method(cell.method, cell.options, self.model, cell.num_rounds)
        self.rounds: list[RoundOutcome] = []
        self.tests: list[np.ndarray] = []
        self.values_up = np.zeros(self.population.num_clients, dtype=np.int64)
        self.values_down = np.zeros(self.population.num_clients, dtype=np.int64)

    def outcome(self) -> CellOutcome:
        """Run all rounds."""
        cell, population = self.cell, self.population
        cohort = cell.cohort_size or population.num_clients
        chosen = _plan(cell, self.engine, self.model, population, cohort)
        self.engine = chosen.way
        started = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="fedlag-cell-") as folder:
            workers = self._grouped(open_plan(chosen, self.model, population, Path(folder)), Path(folder))
            try:
                used = workers.usage().cpu_s
                status, reason = self._run_rounds(workers, cohort)
                used = workers.usage().cpu_s - used
            finally:
                workers.close()
        return CellOutcome(
            digest=self.origin.digest,
            status=status,
            reason=reason,
            engine=self.engine,
            wall_s=time.perf_counter() - started,
            cpu_s=used,
            layers=self.model.layer_sizes,
            clients=self._clients(),
            rounds=tuple(self.rounds),
            warnings=self.warnings,
            versions=self.origin.versions,
            commit=self.origin.commit,
        )

    def _grouped(self, workers: Workers, folder: Path) -> Workers:
        """Return workers that do what the method says of groups."""
        layers, counts = self.method.local.grouped, self.population.train.counts
        if not layers:
            return workers
        kept = RowFolder(folder, self.population.num_clients, self.model.layer_sizes)
        return GroupedWorkers(workers, kept, layers, counts, NUM_GROUPS)

    def _run_rounds(self, workers: Workers, cohort: int) -> tuple[Status, str]:
        cell = self.cell
        settings = RoundSettings(
            num_rounds=cell.num_rounds,
            cohort_size=cohort,
            sketch_width=cell.sketch_width,
            seed=cell.seed,
            schedule=cell.training.schedule,
            warmup_rounds=cell.training.warmup_rounds,
        )
        simulation = Simulation(
            self.model,
            self.population,
            self.method,
            settings,
            cell.training.settings(cell.learning_rate),
            workers,
            watches_conflict=cell.records_conflict,
            lies=cell.lies,
        )
        for number in range(1, cell.num_rounds + 1):
            try:
                record = simulation.run_round()
            except FleetError as error:
                self.tests.clear()
                return "diverged", str(error)
            self._count_values(record)
            measured = simulation.measure("validation")
            self.rounds.append(_round(record, float(measured.accuracy.mean()), float(measured.loss.mean())))
            if number > cell.num_rounds - LAST_ROUNDS:
                self.tests.append(simulation.measure("test").accuracy)
        return "done", ""

    def _count_values(self, record: RoundRecord) -> None:
        cohort = list(record.cohort)
        grouped = sum(self.model.layer_sizes[layer] for layer in self.method.local.grouped)
        self.values_down[cohort] += record.shared_params + grouped
        self.values_up[cohort] += record.shared_params + grouped + self._sketched(self.method, record)

    def _sketched(self, method: Method, record: RoundRecord) -> int:
        selector = make_selector(method.selector, method.options, self.cell.num_rounds)
        if not selector.needs_evidence:
            return 0
        return sketch_values(
            self.model.layer_sizes,
            record.personal_layers,
            None if method.is_exact else self.cell.sketch_width,
            of_personal=selector.needs_personal_sketches,
        )

    def _clients(self) -> tuple[ClientOutcome, ...]:
        accuracy = np.mean(self.tests, axis=0) if self.tests else np.full(self.population.num_clients, np.nan)
        return tuple(
            ClientOutcome(
                client=name,
                num_train=int(self.population.train.counts[number]),
                test_accuracy=None if math.isnan(accuracy[number]) else float(accuracy[number]),
                bytes_up=BYTES_PER_VALUE * int(self.values_up[number]),
                bytes_down=BYTES_PER_VALUE * int(self.values_down[number]),
            )
            for number, name in enumerate(self.population.names)
        )


def _round(record: RoundRecord, accuracy: float, loss: float) -> RoundOutcome:
    return RoundOutcome(
        round_number=record.round_number,
        train_loss=record.train_loss if math.isfinite(record.train_loss) else None,
        validation_accuracy=accuracy,
        validation_loss=loss,
        num_diverged=len(record.diverged),
        personal_layers=record.personal_layers,
        reasons=dict(record.decision.reasons),
        conflict={layer: _known(score) for layer, score in record.conflict_scores.items()},
        swap_gains=dict(record.swap_gains),
    )


def _known(score: float) -> float | None:
    return score if math.isfinite(score) else None


def _plan(cell: Cell, engine: str, model: SimulatedModel, population: Population, cohort: int) -> Plan:
    """Return how a cell is trained; ``auto`` stays on one thread, for cells share out the cores already."""
    key = (cell.scenario, cell.training, cohort, engine)
    if key not in PLANS:
        batch_size, rule = cell.training.batch_size, step_rule(cell.training.settings(cell.learning_rate))
        found = plan_workers(model, population, engine=engine, cohort_size=cohort, batch_size=batch_size, rule=rule)
        PLANS[key] = replace(found, num_processes=1) if engine == "auto" else found
    return PLANS[key]


def _not_done(origin: CellOutcome, reason: str) -> CellOutcome:
    return msgspec.structs.replace(origin, status="failed", reason=reason)
