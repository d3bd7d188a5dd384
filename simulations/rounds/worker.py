"""A worker trains clients, chunk by chunk: installs what they start from, tests swaps, trains, and keeps what is theirs.

A chunk is what an engine holds at once, so memory grows with the chunk and not with the cohort. The order of a client's
round is a device's (``edge_client.training``): swap test, training, summaries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from aggregator.averaging import WeightedSum
from simulations.engines.batches import gather_batches, num_steps
from simulations.engines.engine import Engine, StepRule
from simulations.engines.model import Stack, install, layer_rows
from simulations.engines.population import Population
from simulations.rounds.job import Measured, MeasureJob, Phase, Trained, TrainJob, merge_measured, merge_trained
from simulations.rounds.keeping import DITTO, KeptRows
from simulations.rounds.measuring import measure
from simulations.rounds.summaries import summarize

__all__ = ["Worker", "split_into_chunks"]

FLEET_EPOCH = 0


class Worker:
    """Does jobs.

    Args:
        engine: Trains.
        population: All clients' data.
        kept: What clients keep; workers of one simulation share it.
        chunk_size: Clients that train at once, at least 1.
    """

    def __init__(self, engine: Engine, population: Population, kept: KeptRows, chunk_size: int) -> None:
        """Read nothing yet."""
        self.engine = engine
        self.chunk_size = chunk_size
        self._population = population
        self._kept = kept

    def train(self, job: TrainJob) -> Trained:
        """Return what the job's clients answer."""
        places = {client: place for place, client in enumerate(job.clients)}
        return merge_trained(
            self._train_chunk(job, chunk, job.shares[[places[client] for client in chunk]])
            for chunk in split_into_chunks(job, self._population, self.chunk_size)
        )

    def measure(self, job: MeasureJob) -> Measured:
        """Return how good the job's clients' models are."""
        split = getattr(self._population, job.split)
        parts = []
        for begin in range(0, len(job.clients), self.chunk_size):
            chunk = job.clients[begin : begin + self.chunk_size]
            names = tuple(DITTO + layer for layer in job.averages) if job.is_ditto else job.personal_layers
            params = self._install(chunk, job.averages, names)
            parts.append(measure(self.engine, params, split, chunk))
        return merge_measured(parts)

    def _train_chunk(self, job: TrainJob, chunk: Sequence[int], shares: np.ndarray) -> Trained:
        installed = self._install(chunk, job.averages, job.personal_layers)
        gains = self._swap(job, chunk)
        params, losses = self._descend(job, chunk, installed, installed)
        finite = torch.stack([values.flatten(1).isfinite().all(1) for values in params.values()]).all(0)
        if not bool(finite.all()):
            places = finite.nonzero().flatten()
            diverged = tuple(np.array(chunk)[(~finite).numpy()].tolist())
            chunk, shares, losses = (
                tuple(np.array(chunk)[finite.numpy()].tolist()),
                shares[finite.numpy()],
                losses[places],
            )
            params = {name: values[places] for name, values in params.items()}
            installed = {name: values[places] for name, values in installed.items()}
        else:
            diverged = ()
        if not chunk:
            return Trained(diverged=diverged)
        answer = Trained(tuple(chunk), diverged, losses.double().numpy(), gains=gains)
        for layer in self.engine.model.layers:
            own = layer_rows(layer, params)
            if layer.name not in job.personal_layers:
                answer.sums[layer.name] = WeightedSum(layer.num_params)
                answer.sums[layer.name].add_rows(own.numpy(), shares)
            if layer.name in job.kept:
                self._kept.write(layer.name, chunk, own)
            if job.evidence is not None:
                update = (own - layer_rows(layer, installed)).numpy()
                is_personal = layer.name in job.personal_layers
                sketches, norms = summarize(job.evidence, layer, update, is_personal)
                answer.norms[layer.name] = norms
                if sketches is not None:
                    answer.sketches[layer.name] = sketches
        if job.ditto is not None:
            self._train_ditto(job, chunk, installed, job.ditto)
        return answer

    def _install(self, chunk: Sequence[int], averages: dict[str, np.ndarray], own_layers: Sequence[str]) -> Stack:
        """Return the averages, with a client's own version of the layers that are its own, where it has one."""
        rows = {}
        for layer, average in averages.items():
            rows[layer] = torch.from_numpy(average)
            name = next((name for name in own_layers if name.removeprefix(DITTO) == layer), None)
            if name is not None:
                rows[layer] = self._own(name, chunk, rows[layer])
        return install(self.engine.model, rows, len(chunk))

    def _own(self, name: str, chunk: Sequence[int], average: torch.Tensor) -> torch.Tensor:
        """Return the clients' own versions of a layer; of those who have none the average."""
        known = self._kept.known(name, chunk)
        rows = average.repeat(len(chunk), 1)
        if known.any():
            owners = [client for client, has in zip(chunk, known, strict=True) if has]
            rows[torch.from_numpy(known)] = self._kept.read(name, owners)
        return rows

    def _swap(self, job: TrainJob, chunk: Sequence[int]) -> dict[str, dict[int, float]]:
        """Return by how much each candidate's own version lowers a tester's validation loss."""
        testers = [client for client in chunk if client in job.testers]
        if not testers or not job.swap_candidates:
            return {}
        split, engine = self._population.validation, self.engine
        base = measure(engine, self._install(testers, job.averages, job.personal_layers), split, testers).loss
        gains = {}
        for candidate in job.swap_candidates:
            swapped = self._install(testers, job.averages, (*job.personal_layers, candidate))
            saved = base - measure(engine, swapped, split, testers).loss
            gains[candidate] = dict(zip(testers, saved.tolist(), strict=True))
        return gains

    def _descend(
        self, job: TrainJob, chunk: Sequence[int], params: Stack, anchor: Stack, proximal: float | None = None
    ) -> tuple[Stack, torch.Tensor]:
        """Return the parameters after all phases, and each client's mean loss in the last one."""
        losses, first_epoch = torch.zeros(len(chunk)), 0
        for phase in job.phases:
            epochs = range(first_epoch, first_epoch + phase.num_epochs)
            labels = [[self._label(job, client, epoch) for client in chunk] for epoch in epochs]
            batches = gather_batches(self._population.train, chunk, labels, phase.batch_size)
            params, losses = self.engine.train(params, batches, self._rule(phase, proximal), anchor)
            first_epoch = epochs.stop
        return params, losses

    def _label(self, job: TrainJob, client: int, epoch: int) -> str:
        """Return the label that decides the order of a client's examples, as on a device of its name."""
        return f"batches/{job.seed}/{self._population.names[client]}/{FLEET_EPOCH}/{job.round_number}/{epoch}"

    def _rule(self, phase: Phase, proximal: float | None) -> StepRule:
        trained = None if phase.trained is None else self.engine.model.parameters_of(phase.trained)
        return StepRule(
            phase.learning_rate,
            phase.momentum,
            phase.max_gradient_norm,
            phase.proximal if proximal is None else proximal,
            trained,
        )

    def _train_ditto(self, job: TrainJob, chunk: Sequence[int], installed: Stack, pull: float) -> None:
        """Train Ditto's personal models, each pulled to what its client was given, and keep them."""
        names = tuple(DITTO + layer for layer in job.averages)
        start = self._install(chunk, job.averages, names)
        params, _ = self._descend(job, chunk, start, installed, pull)
        for layer in self.engine.model.layers:
            self._kept.write(DITTO + layer.name, chunk, layer_rows(layer, params))


def split_into_chunks(job: TrainJob, population: Population, chunk_size: int) -> Iterator[tuple[int, ...]]:
    """Yield the job's clients, so many at once, those with more steps first.

    Args:
        job: Whose clients they are.
        population: Says how many examples each has.
        chunk_size: Most clients in a chunk, at least 1.
    """
    steps = num_steps(population.train.counts, job.phases[0].batch_size)
    ordered = sorted(job.clients, key=lambda client: (-steps[client], client))
    for begin in range(0, len(ordered), chunk_size):
        yield tuple(ordered[begin : begin + chunk_size])
