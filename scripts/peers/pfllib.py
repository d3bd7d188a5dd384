"""The serial loop in PFLlib's manner: every client is an object with a model, an optimizer and a loader of its own.

PFLlib (github.com/TsingZ0/PFLlib) is no package that installs, so this follows its design, in our own words: the server
sends its model to all clients, those of the cohort train a copy through DataLoader and an optimizer, the server keeps
their models and adds them up by their numbers of examples.

Differs from PFLlib: a client's examples lie in memory rather than in a file that is read in each round; batches are not
shuffled, so that all programs see the same; nothing is evaluated.
"""

from __future__ import annotations

import copy

import torch
from torch.utils.data import DataLoader

from scripts.peers.program import Clock
from simulations.bench.workloads import Workload, cohort, make_clients, make_module

__all__ = ["PACKAGES", "Client", "Server", "train"]

PACKAGES = ()


class Client:
    """A client with everything of its own.

    Args:
        model: Copied.
        inputs: Its images.
        targets: Their classes.
        workload: Says how it trains.
    """

    def __init__(self, model: torch.nn.Module, inputs: torch.Tensor, targets: torch.Tensor, workload: Workload) -> None:
        """Copy the model and make its optimizer."""
        self.model = copy.deepcopy(model)
        self.inputs, self.targets, self.workload = inputs, targets, workload
        self.loss = torch.nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=workload.learning_rate)

    def receive(self, model: torch.nn.Module) -> None:
        """Take the server's values."""
        for own, sent in zip(self.model.parameters(), model.parameters(), strict=True):
            own.data = sent.detach().clone()

    def train(self) -> None:
        """Take the local epochs."""
        examples = list(zip(self.inputs, self.targets, strict=True))
        loader: DataLoader[tuple[torch.Tensor, torch.Tensor]] = DataLoader(examples, self.workload.batch_size)  # type: ignore[arg-type]
        self.model.train()
        for _ in range(self.workload.num_epochs):
            for images, labels in loader:
                loss = self.loss(self.model(images), labels)
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()


class Server:
    """The global model and all clients.

    Args:
        workload: What is trained.
    """

    def __init__(self, workload: Workload) -> None:
        """Make all clients."""
        self.workload = workload
        self.model = make_module(workload.name)
        clients = zip(*make_clients(workload), strict=True)
        self.clients = [Client(self.model, inputs, targets, workload) for inputs, targets in clients]

    def run_round(self, round_number: int) -> None:
        """Send, train, receive and aggregate."""
        for client in self.clients:
            client.receive(self.model)
        selected = [self.clients[index] for index in cohort(self.workload, round_number)]
        for client in selected:
            client.train()
        self.model = self.average([client.model for client in selected], [len(it.targets) for it in selected])

    @torch.no_grad()
    def average(self, models: list[torch.nn.Module], num_examples: list[int]) -> torch.nn.Module:
        """Return a new model, summed up parameter by parameter."""
        average = copy.deepcopy(models[0])
        torch._foreach_zero_(list(average.parameters()))
        for model, count in zip(models, num_examples, strict=True):
            for total, values in zip(average.parameters(), model.parameters(), strict=True):
                total.add_(values.clone() * (count / sum(num_examples)))
        return average


def train(workload: Workload, num_rounds: int, clock: Clock) -> dict[str, torch.Tensor]:
    """Return the average after some rounds."""
    server = Server(workload)
    for round_number in range(1, num_rounds + 1):
        server.run_round(round_number)
        clock.end_round()
    return server.model.state_dict()
