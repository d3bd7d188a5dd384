"""FedALA's adaptive local aggregation: each client mixes the average with its own version, parameter by parameter.

J. Zhang et al., "FedALA: Adaptive Local Aggregation for Personalized Federated Learning", AAAI 2023, arXiv:2212.01197.
At the start of a round a client has its own version of each adaptive layer, as it trained it last, and the average::

    params = own + (average - own) * mix          mix in [0, 1], elementwise, at first all ones: the average
    mix   <- clip(mix - rate * dloss/dparams * (average - own), 0, 1)         over a share of its training examples

The first time it goes over them until the loss settles, later once. The other layers are the average.

Differs from the paper: the share is drawn as whole batches in an order that depends on the round, not as a stretch of
the examples; the loss has settled when the means of the last ten epochs deviate by less than ``SETTLED``, and after
``MOST_EPOCHS`` at the latest. A client without an own version takes the average, and learns no mix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from simulations.engines.batches import Batches, gather_batches
from simulations.engines.engine import Engine
from simulations.engines.model import Stack, take_clients
from simulations.engines.population import Population
from simulations.rounds.job import Adaptation

__all__ = ["learn_mixes", "mixed"]

EPOCHS_COMPARED = 10
SETTLED = 0.01
MOST_EPOCHS = 30


def mixed(average: Stack, own: Stack, mixes: Stack) -> Stack:
    """Return ``own + (average - own) * mix`` where there is a mix, and the average elsewhere.

    With a mix of ones it has the average's bits.

    Args:
        average: Of all parameters.
        own: Of those that are mixed.
        mixes: Parameter -> values in ``[0, 1]``, of the parameters' shapes.
    """
    return average | {name: torch.lerp(own[name], average[name], mix) for name, mix in mixes.items()}


@torch.no_grad()
def learn_mixes(
    engine: Engine,
    population: Population,
    clients: Sequence[int],
    order: Adaptation,
    average: Stack,
    own: Stack,
    mixes: Stack,
    is_first: np.ndarray,
) -> Stack:
    """Return the clients' mixes after learning; those given stay as they are.

    Args:
        engine: Gives gradients.
        population: The clients' training data.
        clients: Their numbers, those with more steps first.
        order: How mixes are learned.
        average: Of all parameters.
        own: The clients' own version of the adaptive layers.
        mixes: As learned before; ones the first time.
        is_first: Whose first time it is, shape ``(clients,)``, bool.
    """
    batches = _some_batches(population, clients, order)
    mixes = {name: mix.clone() for name, mix in mixes.items()}
    changes = {name: average[name] - own[name] for name in mixes}
    learns = torch.ones(len(clients), device=engine.device)
    losses: list[torch.Tensor] = []
    while learns.any() and len(losses) < MOST_EPOCHS:
        losses.append(_one_epoch(engine, batches, order.rate, average, own, changes, mixes, learns))
        learns *= torch.from_numpy(is_first).to(engine.device)
        if len(losses) > EPOCHS_COMPARED:
            learns *= torch.stack(losses[-EPOCHS_COMPARED:]).std(0, correction=0) >= SETTLED
    return mixes


def _one_epoch(
    engine: Engine,
    batches: Batches,
    rate: float,
    average: Stack,
    own: Stack,
    changes: Stack,
    mixes: Stack,
    learns: torch.Tensor,
) -> torch.Tensor:
    """Change the mixes of those who learn, in place; return each client's mean loss."""
    trained = frozenset(mixes)
    sums, num_steps = torch.zeros_like(learns), torch.zeros_like(learns)
    for step, active in enumerate(batches.active):
        now = slice(active)
        params = mixed(*(take_clients(stack, now) for stack in (average, own, mixes)))
        loss, gradients = engine.gradients(params, *batches.of_step(step), trained)
        sums[now] += loss
        num_steps[now] += 1
        for name, gradient in gradients.items():
            moves = learns[now].view(-1, *[1] * (gradient.dim() - 1))
            mixes[name][now].sub_(gradient * changes[name][now] * moves, alpha=rate).clamp_(0, 1)
    return sums / num_steps


def _some_batches(population: Population, clients: Sequence[int], order: Adaptation) -> Batches:
    """Return the first batches of each client's order, as many as its share of the examples asks for."""
    names = [population.names[client] for client in clients]
    labels = [[f"mixes/{order.seed}/{name}/{order.round_number}" for name in names]]
    whole = gather_batches(population.train, clients, labels, order.batch_size)
    steps = -(-population.train.counts[list(clients)] // order.batch_size)
    taken = np.ceil(steps * order.data_share)
    active = tuple(int((taken > step).sum()) for step in range(int(taken[0])))
    return replace(whole, active=active)
