"""One peer's program: trains some rounds of a workload and writes what they cost, and what they learned.

Usage: ``python -m scripts.peers.program PEER --workload T --rounds N --started S --output FILE``

The first round warms up; N rounds are timed after it. A peer is a module of this folder with two things:
``train(workload, num_rounds, clock) -> {parameter: values}`` and ``PACKAGES``, whose versions are told.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import torch

from scripts.peers import accounting
from simulations.bench.workloads import WORKLOADS, Workload, make_clients, make_module

__all__ = ["Clock", "training_loss"]


class Clock:
    """Reads the costs of a run when its first round and its last round have ended.

    Args:
        mark: The run's.
        num_rounds: All rounds, the first included: at least 2.
        started_s: When the process was started, on the monotonic clock.
    """

    def __init__(self, mark: str, num_rounds: int, started_s: float) -> None:
        """Start with no round ended."""
        self.mark = mark
        self.num_rounds = num_rounds
        self.started_s = started_s
        self.num_ended = 0
        self.first_s = self.first_cpu_s = self.last_s = self.last_cpu_s = 0.0

    def end_round(self) -> None:
        """Note that a round has ended and its average is there."""
        self.num_ended += 1
        if self.num_ended == self.num_rounds:
            self.last_s, self.last_cpu_s = time.monotonic(), accounting.cpu_s(self.mark)
        if self.num_ended == 1:
            first_s = time.monotonic()
            self.first_cpu_s, self.first_s = accounting.cpu_s(self.mark), time.monotonic()
            self.started_s += self.first_s - first_s  # reading is not the round's

    def costs(self) -> dict[str, float]:
        """Return CPU and wall seconds per timed round, and the time to the first round's end.

        Raises:
            RuntimeError: If not all rounds have ended.
        """
        if self.num_ended != self.num_rounds:
            raise RuntimeError(f"{self.num_ended} rounds ended, not {self.num_rounds}")
        num_timed = self.num_rounds - 1
        return {
            "cpu_s_per_round": (self.last_cpu_s - self.first_cpu_s) / num_timed,
            "wall_s_per_round": (self.last_s - self.first_s) / num_timed,
            "first_round_s": self.first_s - self.started_s,
        }


@torch.no_grad()
def training_loss(workload: Workload, params: Mapping[str, torch.Tensor]) -> float:
    """Return the mean cross-entropy over all images of all clients.

    Args:
        workload: Names the model and says how many clients.
        params: The model's values, by the names of its parameters.
    """
    module = make_module(workload.name)
    module.load_state_dict(dict(params))
    inputs, targets = make_clients(workload)
    losses = [
        torch.nn.functional.cross_entropy(module(images), labels).item()
        for images, labels in zip(inputs, targets, strict=True)
    ]
    return sum(losses) / len(losses)


def main() -> None:
    """Run the program that the command line names."""
    parser = argparse.ArgumentParser(description="Train one workload with one peer.")
    parser.add_argument("peer")
    parser.add_argument("--workload", choices=WORKLOADS, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--started", type=float, required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    workload = WORKLOADS[options.workload]
    peer = importlib.import_module(f"scripts.peers.{options.peer}")
    clock = Clock(os.environ[accounting.MARK], options.rounds + 1, options.started)
    params = peer.train(workload, options.rounds + 1, clock)
    result = {
        **clock.costs(),
        "loss": training_loss(workload, params),
        "initial_loss": training_loss(workload, make_module(workload.name).state_dict()),
        "versions": {name: version(name) for name in ("torch", *peer.PACKAGES)},
    }
    options.output.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
