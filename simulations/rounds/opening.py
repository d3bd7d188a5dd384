"""Workers for a simulation, by the name of an engine."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from simulations.engines.engine import StepRule
from simulations.engines.model import SimulatedModel
from simulations.engines.planner import ENGINES, Plan, num_cores, one_thread_plan, plan
from simulations.engines.population import Population
from simulations.rounds.processes import ProcessWorkers, WorkerRecipe
from simulations.rounds.ray_cluster import RayWorkers, num_cluster_cpus
from simulations.rounds.workers import InProcess, Workers, one_thread
from wire.errors import ConfigError

__all__ = ["ENGINE_NAMES", "open_plan", "open_workers", "plan_workers"]

ENGINE_NAMES = ("auto", *ENGINES, "processes", "ray")
USUAL_RULE = StepRule(0.05, 0.9, 5.0)
WORTH_SENDING_S = 0.1
"""A chunk that trains for less is mostly sent: a Ray task costs some milliseconds."""


def open_workers(
    model: SimulatedModel,
    population: Population,
    folder: Path,
    *,
    engine: str = "auto",
    cohort_size: int | None = None,
    batch_size: int = 10,
    rule: StepRule = USUAL_RULE,
) -> Workers:
    """Return workers; close them when the simulation is over.

    Args:
        model: What is trained.
        population: The clients' data.
        folder: Where clients keep their own layers; must exist, and be used by this simulation alone.
        engine: One of ``ENGINE_NAMES``: the planner's choice, an engine in this process, a process on each core,
            or the Ray cluster of RAY_ADDRESS or of this machine.
        cohort_size: Clients in a round; None is all.
        batch_size: Examples a step.
        rule: Of the steps.

    Raises:
        ConfigError: If there is no such engine, or no cluster.
        NotAChainError: If the engine cannot train the model.
        ProgramError: If ``native`` cannot be compiled.
    """
    chosen = plan_workers(model, population, engine=engine, cohort_size=cohort_size, batch_size=batch_size, rule=rule)
    return open_plan(chosen, model, population, folder)


def open_plan(chosen: Plan, model: SimulatedModel, population: Population, folder: Path) -> Workers:
    """Return workers that follow a plan; see ``open_workers``."""
    recipe = WorkerRecipe(model, population, folder, chosen.engine, chosen.chunk_size)
    if chosen.is_on_ray:
        return RayWorkers(recipe)
    if chosen.num_processes > 1:
        return ProcessWorkers(recipe, chosen.num_processes)
    return InProcess(recipe.make())


def plan_workers(
    model: SimulatedModel,
    population: Population,
    *,
    engine: str = "auto",
    cohort_size: int | None = None,
    batch_size: int = 10,
    rule: StepRule = USUAL_RULE,
) -> Plan:
    """Return how ``open_workers`` trains with the same arguments; takes about a second.

    Raises:
        ConfigError: If there is no such engine, or no cluster.
        NotAChainError: If the engine cannot train the model.
        ProgramError: If ``native`` cannot be compiled.
    """
    if engine not in ENGINE_NAMES:
        raise ConfigError(f"no engine is called {engine!r}; choose one of {', '.join(ENGINE_NAMES)}")
    clients = min(cohort_size or population.num_clients, population.num_clients)
    steps = -(-int(np.median(population.train.counts)) // batch_size)
    num_cpus = num_cluster_cpus() if engine == "ray" else num_cores()
    with one_thread():
        if engine in ENGINES:
            return one_thread_plan(model, clients, batch_size, rule, engine)
        chosen = plan(model, clients, steps, batch_size, rule)
    if engine == "ray":
        num_processes = min(num_cpus, clients)
        enough = math.ceil(WORTH_SENDING_S / (chosen.step_s * max(steps, 1)))
        chunk_size = min(max(chosen.chunk_size, enough), -(-clients // num_processes))  # a chunk for each processor
        return Plan(chosen.engine, chunk_size, num_processes, chosen.step_s, is_on_ray=True)
    if engine == "processes":
        return Plan(chosen.engine, chosen.chunk_size, min(num_cpus, clients), chosen.step_s)
    return chosen
