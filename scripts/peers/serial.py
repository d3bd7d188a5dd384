"""The plain serial loop: one module, one client after the other, steps in place, no loader and no optimizer object."""

from __future__ import annotations

import torch

from scripts.peers.program import Clock
from simulations.bench.workloads import Workload, cohort, make_clients, make_module

__all__ = ["PACKAGES", "train"]

PACKAGES = ()


def train(workload: Workload, num_rounds: int, clock: Clock) -> dict[str, torch.Tensor]:
    """Return the average after some rounds."""
    inputs, targets = make_clients(workload)
    module = make_module(workload.name)
    params: list[torch.Tensor] = list(module.parameters())
    shared = [param.detach().clone() for param in params]
    for round_number in range(1, num_rounds + 1):
        average = [torch.zeros_like(values) for values in shared]
        for client in cohort(workload, round_number):
            with torch.no_grad():
                torch._foreach_copy_(params, shared)
            train_client(module, params, inputs[client], targets[client], workload)
            with torch.no_grad():
                for values, param in zip(average, params, strict=True):
                    values.add_(param, alpha=1 / workload.cohort_size)
        shared = average
        clock.end_round()
    return {name: values for (name, _), values in zip(module.named_parameters(), shared, strict=True)}


def train_client(
    module: torch.nn.Module,
    params: list[torch.Tensor],
    inputs: torch.Tensor,
    targets: torch.Tensor,
    workload: Workload,
) -> None:
    """Take a client's local epochs in place."""
    for _ in range(workload.num_epochs):
        for first in range(0, len(inputs), workload.batch_size):
            batch = slice(first, first + workload.batch_size)
            loss = torch.nn.functional.cross_entropy(module(inputs[batch]), targets[batch])
            torch.autograd.backward(loss)
            with torch.no_grad():
                for param in params:
                    if param.grad is not None:
                        param.add_(param.grad, alpha=-workload.learning_rate)
                        param.grad = None
