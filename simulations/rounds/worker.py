"""A worker trains clients, chunk by chunk: installs what they start from, tests swaps, trains, and keeps what is theirs.

A chunk is what an engine holds at once, so memory grows with the chunk and not with the cohort. The order of a client's
round is a device's (``edge_client.training``): swap test, training, summaries.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch

from aggregator.averaging import WeightedSum
from simulations.engines.batches import gather_batches, num_steps
from simulations.engines.engine import CPU, Engine, StepRule
from simulations.engines.model import Stack, install, layer_rows
from simulations.engines.population import Population
from simulations.rounds.adaptive import learn_mixes, mixed
from simulations.rounds.job import (
    Adaptation,
    Measured,
    MeasureJob,
    Phase,
    Trained,
    TrainJob,
    merge_measured,
    merge_trained,
)
from simulations.rounds.keeping import DITTO, MIX, KeptRows
from simulations.rounds.measuring import measure
from simulations.rounds.summaries import summarize
from wire.errors import FleetError

__all__ = ["FLEET_EPOCH", "Worker", "split_into_chunks"]

FLEET_EPOCH = 0
"""Simulated fleets are never restored from a backup, so their epoch never rises."""


COLUMNS_AT_ONCE = 65_536
Answer = TypeVar("Answer")
logger = logging.getLogger(__name__)


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
        self._population = population.to(engine.device)
        self._kept = kept

    def train(self, job: TrainJob) -> Trained:
        """Return what the job's clients answer."""
        places = {client: place for place, client in enumerate(job.clients)}
        chunks = split_into_chunks(job, self._population, self.chunk_size)
        answers = self._each(
            chunks, lambda chunk: self._train_chunk(job, chunk, job.shares[[places[client] for client in chunk]])
        )
        return merge_trained(answers)

    def measure(self, job: MeasureJob) -> Measured:
        """Return how good the job's clients' models are."""
        clients = job.clients
        if job.adaptation is not None:
            clients = _longest_first(clients, self._population, job.adaptation.batch_size)
        chunks = _cut(clients, self.chunk_size)
        return merge_measured(self._each(chunks, lambda chunk: self._measure_chunk(job, chunk)))

    def _each(self, chunks: Iterable[tuple[int, ...]], work: Callable[[tuple[int, ...]], Answer]) -> Iterator[Answer]:
        """Yield what the work answers, chunk by chunk; one for which memory does not suffice is halved."""
        waiting = deque(chunks)
        while waiting:
            chunk = waiting.popleft()
            try:
                yield work(chunk)
            except torch.OutOfMemoryError as error:
                waiting.extendleft(reversed(self._halve(chunk, error)))

    def _measure_chunk(self, job: MeasureJob, chunk: Sequence[int]) -> Measured:
        names = tuple(DITTO + layer for layer in job.averages) if job.is_ditto else job.personal_layers
        params = self._install(chunk, job.averages, names)
        if job.adaptation is not None:
            params = self._mix(job.adaptation, job.averages, chunk, params)[0]
        if job.chooses:
            params = self._choose(job, chunk, params)
        return measure(self.engine, params, getattr(self._population, job.split), chunk)

    def _halve(self, chunk: tuple[int, ...], error: torch.OutOfMemoryError) -> tuple[tuple[int, ...], ...]:
        """Return a chunk for which memory did not suffice in two, and take no larger ones from now on."""
        if len(chunk) == 1:
            raise FleetError(f"memory does not suffice for one client: {error}") from error
        half = (len(chunk) + 1) // 2
        logger.warning("memory ran out with %d clients at once: going on with %d", len(chunk), half)
        self.chunk_size = min(self.chunk_size, half)
        return chunk[:half], chunk[half:]

    def _train_chunk(self, job: TrainJob, chunk: Sequence[int], shares: np.ndarray) -> Trained:
        mixes: Stack = {}
        installed = self._install(chunk, job.averages, job.personal_layers)
        if job.adaptation is not None:
            installed, mixes = self._mix(job.adaptation, job.averages, chunk, installed)
        gains = self._swap(job, chunk)
        params, losses = self._descend(job, chunk, installed, installed)
        finite, losses = (_finite(params) & losses.isfinite()).cpu(), losses.cpu()
        diverged = _where(chunk, ~finite)
        if diverged:
            chunk, shares, losses = _where(chunk, finite), shares[finite.numpy()], losses[finite]
            params, installed, mixes = (
                {name: rows[finite] for name, rows in it.items()} for it in (params, installed, mixes)
            )
            gains = {layer: {it: gain for it, gain in found.items() if it in chunk} for layer, found in gains.items()}
        if not chunk:
            return Trained(diverged=diverged)
        if job.ditto is not None:  # before anything is kept: should memory run out, the chunk begins anew
            self._train_ditto(job, chunk, installed, job.ditto)
        self._keep_mixes(chunk, mixes)
        answer = Trained(tuple(chunk), diverged, losses.double().numpy(), gains=gains)
        for layer in self.engine.model.layers:
            own = layer_rows(layer, params)
            if layer.name not in job.personal_layers:
                answer.sums[layer.name] = WeightedSum(layer.num_params)
                _add_rows(answer.sums[layer.name], own, shares)
            if layer.name in job.kept:
                self._kept.write(layer.name, chunk, own.cpu())
            if job.evidence is not None:
                update = (own - layer_rows(layer, installed)).cpu().numpy()
                is_personal = layer.name in job.personal_layers
                sketches, norms = summarize(job.evidence, layer, update, is_personal)
                answer.norms[layer.name] = norms
                if sketches is not None:
                    answer.sketches[layer.name] = sketches
        return answer

    def _install(self, chunk: Sequence[int], averages: dict[str, np.ndarray], own_layers: Sequence[str]) -> Stack:
        """Return the averages, with a client's own version of the layers that are its own, where it has one."""
        rows = {}
        for layer, average in averages.items():
            rows[layer] = torch.from_numpy(average)
            name = next((name for name in own_layers if name.removeprefix(DITTO) == layer), None)
            if name is not None:
                rows[layer] = self._own(name, chunk, rows[layer])
        return install(self.engine.model, {name: it.to(self.engine.device) for name, it in rows.items()}, len(chunk))

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

    def _choose(self, job: MeasureJob, chunk: Sequence[int], params: Stack) -> Stack:
        """Return the parameters with each client's own version of a layer where it lowers its validation loss."""
        split, engine = self._population.validation, self.engine
        best = measure(engine, params, split, chunk).loss
        for layer in reversed([it for it in engine.model.layers if it.name not in job.personal_layers]):
            names = {parameter.name for parameter in layer.parameters}
            own = {name: it for name, it in self._install(chunk, job.averages, (layer.name,)).items() if name in names}
            loss = measure(engine, params | own, split, chunk).loss
            is_better = torch.from_numpy(loss < best).to(engine.device)
            for name, values in own.items():
                params[name] = torch.where(is_better.view(-1, *[1] * (values.dim() - 1)), values, params[name])
            best = np.minimum(loss, best)
        return params

    def _descend(
        self, job: TrainJob, chunk: Sequence[int], params: Stack, anchor: Stack, proximal: float | None = None
    ) -> tuple[Stack, torch.Tensor]:
        """Return the parameters after all phases, and each client's mean loss in the last one."""
        losses, first_epoch = torch.zeros(len(chunk), device=self.engine.device), 0
        for phase in job.phases:
            epochs = range(first_epoch, first_epoch + phase.num_epochs)
            labels = [[self._label(job, client, epoch) for client in chunk] for epoch in epochs]
            batches = gather_batches(self._population.train, chunk, labels, phase.batch_size)
            params, losses = self.engine.train(params, batches, self._rule(phase, proximal), anchor)
            first_epoch = epochs.stop
        return params, losses

    def _label(self, job: TrainJob, client: int, epoch: int) -> str:
        """Return the label that decides the order of a client's examples, as on a device of its name."""
        if job.seed is None:
            return ""
        return f"batches/{job.seed}/{self._population.names[client]}/{FLEET_EPOCH}/{job.round_number}/{epoch}"

    def _rule(self, phase: Phase, proximal: float | None) -> StepRule:
        trained = None if phase.trained is None else self.engine.model.parameters_of(phase.trained)
        return replace(phase.rule, trained=trained, proximal=phase.rule.proximal if proximal is None else proximal)

    def _train_ditto(self, job: TrainJob, chunk: Sequence[int], installed: Stack, pull: float) -> None:
        """Train Ditto's personal models, each pulled to what its client was given, and keep them."""
        names = tuple(DITTO + layer for layer in job.averages)
        start = self._install(chunk, job.averages, names)
        params, _ = self._descend(job, chunk, start, installed, pull)
        finite = _finite(params).cpu()
        for layer in self.engine.model.layers:
            self._kept.write(DITTO + layer.name, _where(chunk, finite), layer_rows(layer, params).cpu()[finite])

    def _mix(
        self, order: Adaptation, averages: dict[str, np.ndarray], chunk: Sequence[int], installed: Stack
    ) -> tuple[Stack, Stack]:
        """Return what FedALA installs, and adaptive layer -> the mixes that the clients have learned."""
        model = self.engine.model
        kinds = dict.fromkeys(averages, None) | {layer: MIX + layer for layer in order.layers}
        ones = {layer: torch.ones(len(values)) for layer, values in averages.items()}
        rows = {
            layer: ones[layer] if kind is None else self._own(kind, chunk, ones[layer]) for layer, kind in kinds.items()
        }
        rows = {layer: values.to(self.engine.device) for layer, values in rows.items()}
        adaptive = model.parameters_of(frozenset(order.layers))
        mixes = {name: values for name, values in install(model, rows, len(chunk)).items() if name in adaptive}
        own = self._install(chunk, averages, order.layers)
        is_first = ~self._kept.known(MIX + order.layers[0], chunk)
        learned = learn_mixes(self.engine, self._population, chunk, order, installed, own, mixes, is_first)
        of_layers = {layer.name: layer_rows(layer, learned) for layer in model.layers if layer.name in order.layers}
        return mixed(installed, own, learned), of_layers

    def _keep_mixes(self, chunk: Sequence[int], mixes: Stack) -> None:
        """Keep what clients have learned that had an own version to mix."""
        for layer, rows in mixes.items():
            has_own = torch.from_numpy(self._kept.known(layer, chunk))
            self._kept.write(MIX + layer, _where(chunk, has_own), rows.cpu()[has_own])


def _add_rows(total: WeightedSum, rows: torch.Tensor, shares: np.ndarray) -> None:
    """Add clients to an average; what lies on a GPU is summed up there, in float64, some columns at a time."""
    if rows.device == CPU:
        total.add_rows(rows.numpy(), shares)
        return
    each = torch.from_numpy(shares).to(rows.device)
    sums = torch.cat([each @ columns.double() for columns in torch.split(rows, COLUMNS_AT_ONCE, dim=1)])
    total.add_sum(sums.cpu().numpy(), float(shares.sum()))


def _finite(params: Stack) -> torch.Tensor:
    """Return whose parameters are all numbers, shape ``(clients,)``, bool."""
    return torch.stack([values.flatten(1).sum(1) for values in params.values()]).sum(0).isfinite()


def _where(clients: Sequence[int], chosen: torch.Tensor) -> tuple[int, ...]:
    """Return the clients that are chosen."""
    return tuple(client for client, is_chosen in zip(clients, chosen.tolist(), strict=True) if is_chosen)


def split_into_chunks(job: TrainJob, population: Population, chunk_size: int) -> Iterator[tuple[int, ...]]:
    """Return the job's clients, so many at once, those with more steps first.

    Args:
        job: Whose clients they are.
        population: Says how many examples each has.
        chunk_size: Most clients in a chunk, at least 1.
    """
    return _cut(_longest_first(job.clients, population, job.phases[0].batch_size), chunk_size)


def _cut(clients: tuple[int, ...], chunk_size: int) -> Iterator[tuple[int, ...]]:
    """Yield the clients, so many at once."""
    for begin in range(0, len(clients), chunk_size):
        yield clients[begin : begin + chunk_size]


def _longest_first(clients: Sequence[int], population: Population, batch_size: int) -> tuple[int, ...]:
    """Return the clients, those with more steps first."""
    steps = num_steps(population.train.counts, batch_size)
    return tuple(sorted(clients, key=lambda client: (-steps[client], client)))
