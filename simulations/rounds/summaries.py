"""Summaries of many clients' updates to one layer: the product's sketches, or the updates themselves."""

from __future__ import annotations

import numpy as np
import torch

from simulations.rounds.job import EvidenceOrder
from wire.manifest import LayerSpec
from wire.sketches import CountSketch, personal_width

__all__ = ["summarize"]


def summarize(
    order: EvidenceOrder, layer: LayerSpec, updates: np.ndarray, is_personal: bool
) -> tuple[np.ndarray | None, np.ndarray]:
    """Return one sketch a client, or None where none is wanted, and the updates' norms.

    Args:
        order: What is wanted.
        layer: Whose updates they are.
        updates: Shape ``(clients, num_params)``, float32.
        is_personal: Whether the layer is personal in this round.
    """
    norms = torch.linalg.vector_norm(torch.from_numpy(updates), dim=1, dtype=torch.float64).numpy()
    if order.width is None:
        return updates, norms
    width = order.width
    if is_personal:
        width = personal_width(layer.num_params, width) if order.of_personal else 0
    if width == 0:
        return None, norms
    sketch = CountSketch(order.seed, layer.name, layer.num_params, width, is_personal)
    return np.stack([sketch.summarize(update) for update in updates]), norms
