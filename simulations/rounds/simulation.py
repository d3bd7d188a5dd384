"""A fleet without messages: the aggregator's selection and averaging over clients that engines train.

Round by round it does what ``aggregator.fleet`` and ``edge_client.session`` do together, with the same cohorts, batches,
sketches, swap tests and decisions; a test holds it against them. What is left out is everything in between: encoding,
the broker, deadlines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from aggregator.config import RoundSettings
from aggregator.evidence import Decision, Evidence, measure_conflicts
from aggregator.planning import choose_cohort, cohort_draw
from aggregator.schedule import learning_rate_of_round
from aggregator.selection import make_selector
from simulations.engines.model import SimulatedModel
from simulations.engines.population import Population
from simulations.rounds.grouping import GroupedWorkers
from simulations.rounds.job import Adaptation, EvidenceOrder, Measured, MeasureJob, Trained, TrainJob
from simulations.rounds.lying import Lie, choose_liars, tell
from simulations.rounds.method import Method, check_fit, phases
from simulations.rounds.worker import FLEET_EPOCH
from simulations.rounds.workers import Workers
from wire.errors import ConfigError, FleetError
from wire.messages import TrainingSettings

__all__ = ["RoundRecord", "Simulation"]


@dataclass(frozen=True, eq=False)
class RoundRecord:
    """What a round was.

    Args:
        round_number: From 1.
        cohort: The clients that trained, by number.
        diverged: Those of them whose training left the numbers; they do not count.
        train_loss: Mean over the clients that count, in nats.
        personal_layers: Of this round.
        decision: For the next round.
        conflict_scores: Layer -> share of pairs in conflict, where evidence was asked for.
        swap_gains: Candidate -> mean gain in nats, in a round with a test.
        shared_params: Parameters that each client received and sent.
    """

    round_number: int
    cohort: tuple[int, ...]
    diverged: tuple[int, ...]
    train_loss: float
    personal_layers: tuple[str, ...]
    decision: Decision
    conflict_scores: dict[str, float]
    swap_gains: dict[str, float]
    shared_params: int


class Simulation:
    """A fleet that learns.

    Args:
        model: What it learns.
        population: The clients' data.
        method: Which layers are personal, and how clients train.
        rounds: As of a deployed fleet: cohort, sketches, seed and, if the method wants to know, the number of rounds.
        training: As of a deployed fleet.
        workers: Train the clients.
        watches_conflict: Whether conflict is measured though the method does not need it.
        shuffles: Whether a client's examples come in a device's order, not as they lie.
        choose: Draw -> the numbers of the clients that train; None draws them as an aggregator does.
        lies: What the liars among the clients say of their gains; None: all are honest.

    Raises:
        ConfigError: If the cohort is larger than the fleet, or the method does not fit the model.
    """

    def __init__(
        self,
        model: SimulatedModel,
        population: Population,
        method: Method,
        rounds: RoundSettings,
        training: TrainingSettings,
        workers: Workers,
        *,
        watches_conflict: bool = False,
        shuffles: bool = True,
        choose: Callable[[int], Sequence[int]] | None = None,
        lies: Lie | None = None,
    ) -> None:
        """Begin with the model's values, before round 1."""
        if rounds.cohort_size > population.num_clients:
            raise ConfigError(
                f"a cohort of {rounds.cohort_size} cannot come from {population.num_clients} clients: lower cohort_size"
            )
        if training.num_epochs == 0:
            raise ConfigError("a round of 0 epochs trains nothing: raise num_epochs")
        check_fit(method, model.layer_sizes)
        if method.local.grouped and not isinstance(workers, GroupedWorkers):
            raise ConfigError(f"{method.name} averages layers in groups: give the simulation GroupedWorkers")
        self.averages: dict[str, np.ndarray] = model.initial_values()
        self.round_number = 1
        self._model = model
        self._population = population
        self._method = method
        self._rounds = rounds
        self._training = training
        self._workers = workers
        self._watches_conflict = watches_conflict
        self._shuffles = shuffles
        self._choose = choose or self._draw
        self._lies = lies
        self._liars = choose_liars(population.num_clients, rounds.seed) if lies else frozenset()
        self._numbers = {name: number for number, name in enumerate(population.names)}
        self._cohort_before: frozenset[int] = frozenset()
        self._selector = make_selector(method.selector, method.options, rounds.num_rounds)
        self._state, self.decision = self._selector.start(model.layer_sizes)

    def run_round(self) -> RoundRecord:
        """Train a cohort, average, and decide about the next round.

        Raises:
            FleetError: If all clients' training left the numbers.
        """
        decision, personal_layers = self.decision, self.decision.personal_layers
        trained = self._workers.train(self._job(decision))
        if not trained.clients:
            raise FleetError(
                f"the training of every client diverged in round {self.round_number}: lower the learning rate"
            )
        counts = self._population.train.counts
        share = float(counts[list(trained.clients)].sum() / counts[[*trained.clients, *trained.diverged]].sum())
        for layer, values in trained.sums.items():
            self.averages[layer] = values.average(share)
        evidence = self._evidence(trained)
        self._state, self.decision = self._selector.decide(self._state, evidence)
        conflicts = measure_conflicts(evidence) if evidence.sketches else {}
        record = RoundRecord(
            round_number=self.round_number,
            cohort=tuple(sorted((*trained.clients, *trained.diverged))),
            diverged=trained.diverged,
            train_loss=float(trained.losses.mean()),
            personal_layers=personal_layers,
            decision=self.decision,
            conflict_scores={layer: found.conflict_score for layer, found in conflicts.items()},
            swap_gains={layer: float(gains.mean()) for layer, gains in evidence.swap_gains.items()},
            shared_params=sum(size for layer, size in self._model.layer_sizes.items() if layer not in personal_layers),
        )
        self._cohort_before = frozenset(trained.clients)
        self.round_number += 1
        return record

    def measure(self, split: str) -> Measured:
        """Return how good every client's model is now: the averages, and its own personal layers.

        Args:
            split: ``validation`` or ``test``.

        Returns:
            One row a client, in the order of their names.
        """
        clients = tuple(range(self._population.num_clients))
        measured = self._workers.measure(
            MeasureJob(
                clients,
                split,
                self.averages,
                self.decision.personal_layers,
                self._method.local.ditto is not None,
                self._adaptation(),
                self._method.local.chooses,
            )
        )
        order = np.argsort(measured.clients)
        return Measured(clients, measured.accuracy[order], measured.loss[order])

    def _job(self, decision: Decision) -> TrainJob:
        settings, method = self._rounds, self._method
        rate = learning_rate_of_round(self._training.learning_rate, settings, self.round_number)
        training = msgspec.structs.replace(self._training, learning_rate=rate)
        clients = tuple(self._choose(cohort_draw(self.round_number, decision.swap_candidates)))
        counts = self._population.train.counts[list(clients)]
        kept = (*decision.personal_layers, *method.local.adaptive)
        return TrainJob(
            round_number=self.round_number,
            seed=settings.seed if self._shuffles else None,
            clients=clients,
            shares=counts / counts.sum(),
            averages=self.averages,
            personal_layers=decision.personal_layers,
            phases=phases(method.local, training, decision.personal_layers, self._model.layer_sizes),
            swap_candidates=decision.swap_candidates,
            testers=self._cohort_before,
            kept=kept if self._selector.is_fixed and not method.local.chooses else tuple(self._model.layer_sizes),
            evidence=self._evidence_order(),
            ditto=method.local.ditto,
            adaptation=self._adaptation(),
        )

    def _adaptation(self) -> Adaptation | None:
        """Return how the coming round's clients begin, if not with the average itself."""
        local, settings = self._method.local, self._rounds
        if not local.adaptive:
            return None
        share, batch_size = local.adaptive_share, self._training.batch_size
        return Adaptation(local.adaptive, local.adaptive_rate, share, settings.seed, self.round_number, batch_size)

    def _draw(self, draw: int) -> tuple[int, ...]:
        """Return the cohort that an aggregator with the same seed and devices of the same names would ask."""
        names, settings = frozenset(self._population.names), self._rounds
        cohort = choose_cohort(names, settings.cohort_size, settings.seed, FLEET_EPOCH, draw)
        return tuple(self._numbers[name] for name in cohort)

    def _evidence_order(self) -> EvidenceOrder | None:
        if not (self._selector.needs_evidence or self._watches_conflict):
            return None
        width = None if self._method.is_exact else self._rounds.sketch_width
        return EvidenceOrder(self._rounds.seed, width, self._selector.needs_personal_sketches)

    def _evidence(self, trained: Trained) -> Evidence:
        """Return what the clients told, one row a client in the order of their names, as the aggregator has it."""
        order = np.argsort(trained.clients)
        return Evidence(
            round_number=self.round_number,
            num_params=self._model.layer_sizes,
            sketches={layer: rows[order] for layer, rows in trained.sketches.items()},
            norms={layer: norms[order] for layer, norms in trained.norms.items()},
            swap_gains={layer: self._told(gains) for layer, gains in trained.gains.items()},
        )

    def _told(self, gains: Mapping[int, float]) -> np.ndarray:
        """Return what the clients say that they gain, in the order of their names."""
        found = sorted(gains.items())
        if self._lies is None:
            return np.array([gain for _, gain in found])
        return np.array([tell(self._lies, gain) if client in self._liars else gain for client, gain in found])
