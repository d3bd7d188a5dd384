"""Flower's simulation on Ray, as its PyTorch quickstart does it: a ServerApp with FedAvg, a ClientApp, 100 supernodes.

A client makes its model, takes the values from the message, trains through DataLoader and SGD and replies with its
values; each of Ray's actors makes the data set once and keeps it. One actor per CPU.

Differs from the quickstart: the cohort's clients are named in the messages, so that all programs train the same;
batches are not shuffled; nothing is evaluated; its call home is switched off.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict  # type: ignore[import-not-found]
from flwr.clientapp import ClientApp  # type: ignore[import-not-found]
from flwr.serverapp import ServerApp  # type: ignore[import-not-found]
from flwr.serverapp.strategy import FedAvg  # type: ignore[import-not-found]
from flwr.simulation import run_simulation  # type: ignore[import-not-found]
from torch.utils.data import DataLoader, TensorDataset

from scripts.peers.program import Clock
from simulations.bench.workloads import WORKLOADS, Workload, cohort, make_clients, make_module

__all__ = ["PACKAGES", "CohortFedAvg", "train", "train_client"]

PACKAGES = ("flwr", "ray")


@lru_cache(maxsize=1)
def clients_of(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return all clients' data, made once in each process."""
    return make_clients(WORKLOADS[name])


def train_client(message: Any, _: Any) -> Any:
    """Answer one message with a trained model."""
    config = message.content["config"]
    workload, client = WORKLOADS[config["workload"]], config["client"]
    inputs, targets = clients_of(workload.name)
    module = make_module(workload.name)
    module.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimizer = torch.optim.SGD(module.parameters(), lr=workload.learning_rate)
    module.train()
    for _epoch in range(workload.num_epochs):
        for images, labels in DataLoader(TensorDataset(inputs[client], targets[client]), workload.batch_size):
            optimizer.zero_grad()
            torch.autograd.backward(torch.nn.functional.cross_entropy(module(images), labels))
            optimizer.step()
    content = {
        "arrays": ArrayRecord(module.state_dict()),
        "metrics": MetricRecord({"num-examples": len(targets[client])}),
    }
    return Message(content=RecordDict(content), reply_to=message)


class CohortFedAvg(FedAvg):  # type: ignore[misc]
    """Flower's FedAvg, with the workload's cohort on the nodes that it samples, and a clock.

    Args:
        workload: Whose cohorts.
        clock: Told when a round's average is there.
    """

    def __init__(self, workload: Workload, clock: Clock) -> None:
        """Sample as many nodes as the cohort has clients, and evaluate nothing."""
        super().__init__(
            fraction_train=workload.cohort_size / workload.num_clients,
            fraction_evaluate=0.0,
            min_train_nodes=workload.cohort_size,  # the fraction is of the nodes that are there when it first looks
            min_available_nodes=workload.num_clients,
        )
        self.workload, self.clock = workload, clock

    def configure_train(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Iterator[Any]:
        """Address one message to each client of the cohort."""
        messages = super().configure_train(server_round, arrays, config, grid)
        for message, client in zip(messages, cohort(self.workload, server_round), strict=True):
            named = ConfigRecord({"workload": self.workload.name, "client": client})
            content = RecordDict({"arrays": arrays, "config": named})
            node = message.metadata.dst_node_id
            yield Message(content=content, message_type=MessageType.TRAIN, dst_node_id=node)

    def aggregate_train(self, server_round: int, replies: Iterable[Any]) -> tuple[Any, Any]:
        """Average, if all have answered, and tell the clock."""
        replies = list(replies)
        failed = [reply for reply in replies if reply.has_error()]
        if failed or len(replies) != self.workload.cohort_size:
            raise RuntimeError(f"{len(replies)} clients answered, {len(failed)} of them with errors: {failed[:1]}")
        arrays, metrics = super().aggregate_train(server_round, replies)
        self.clock.end_round()
        return arrays, metrics


def train(workload: Workload, num_rounds: int, clock: Clock) -> dict[str, torch.Tensor]:
    """Return the average after some rounds."""
    final: dict[str, torch.Tensor] = {}
    server_app, client_app = ServerApp(), ClientApp()

    def serve(grid: Any, _: Any) -> None:
        arrays = ArrayRecord(make_module(workload.name).state_dict())
        result = CohortFedAvg(workload, clock).start(grid=grid, initial_arrays=arrays, num_rounds=num_rounds)
        final.update(result.arrays.to_torch_state_dict())

    server_app.main()(serve)
    client_app.train()(train_client)
    run_simulation(
        server_app=server_app,
        client_app=client_app,
        num_supernodes=workload.num_clients,
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"num_cpus": len(os.sched_getaffinity(0))},
        },
    )
    return final
