"""Loss and accuracy of many clients' models, each on its own examples, as a device measures them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from edge_client.scoring import LARGEST_LOSS
from edge_client.training import EVALUATION_BATCH
from simulations.engines.engine import Engine
from simulations.engines.model import Stack
from simulations.engines.population import ResidentSplit
from simulations.rounds.job import Measured

__all__ = ["measure"]

MOST_EXAMPLES = 16_384
"""Of all clients together, at once: a GPU may have a thousand clients in a chunk."""


def measure(engine: Engine, params: Stack, split: ResidentSplit, clients: Sequence[int]) -> Measured:
    """Return mean loss and accuracy, as ``edge_client.training.measure`` gives them for each client.

    Args:
        engine: Predicts.
        params: The clients' parameters, in their order.
        split: Whose examples are used.
        clients: Their numbers.
    """
    counts = split.counts[list(clients)]
    loss, correct = torch.zeros(len(clients), dtype=torch.float64), torch.zeros(len(clients), dtype=torch.float64)
    starts = split.starts[list(clients)][:, None]
    batch_size = max(1, min(EVALUATION_BATCH, MOST_EXAMPLES // max(1, len(clients))))
    for begin in range(0, int(counts.max(initial=0)), batch_size):
        places = np.arange(begin, min(begin + batch_size, int(counts.max())))
        is_there = torch.from_numpy(places < counts[:, None]).to(split.inputs.device)
        last = np.maximum(counts - 1, 0)[:, None]
        rows = torch.from_numpy(np.minimum(starts + np.minimum(places, last), len(split.targets) - 1))
        rows = rows.to(split.inputs.device)
        x = split.inputs.index_select(0, rows.flatten()).view(*rows.shape, *split.inputs.shape[1:])
        y = split.targets.index_select(0, rows.flatten()).view(rows.shape)
        logits = engine.predict(params, x).double()
        losses = -logits.log_softmax(2).gather(2, y.unsqueeze(2)).squeeze(2)
        losses = losses.nan_to_num(nan=LARGEST_LOSS, posinf=LARGEST_LOSS).clamp(max=LARGEST_LOSS)
        loss += (losses * is_there).sum(1).cpu()
        correct += ((logits.argmax(2) == y) & is_there).sum(1).cpu()
    with np.errstate(invalid="ignore"):
        return Measured(tuple(clients), correct.numpy() / counts, loss.numpy() / counts)
