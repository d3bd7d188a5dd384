"""pfl-research's simulation in one process: SimulatedBackend, FederatedAveraging, a PyTorchModel with local SGD.

Differs from its examples: the user sampler gives the workload's cohorts in their order, so that all programs train the
same; nothing is evaluated after the first round, which is not timed.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import chain
from typing import Any

import torch
from pfl.aggregate.simulate import SimulatedBackend  # type: ignore[import-not-found]
from pfl.aggregate.weighting import WeightByDatapoints  # type: ignore[import-not-found]
from pfl.algorithm.base import NNAlgorithmParams  # type: ignore[import-not-found]
from pfl.algorithm.federated_averaging import FederatedAveraging  # type: ignore[import-not-found]
from pfl.callback.base import TrainingProcessCallback  # type: ignore[import-not-found]
from pfl.data.dataset import Dataset  # type: ignore[import-not-found]
from pfl.data.federated_dataset import FederatedDataset  # type: ignore[import-not-found]
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams  # type: ignore[import-not-found]
from pfl.metrics import Weighted  # type: ignore[import-not-found]
from pfl.model.pytorch import PyTorchModel  # type: ignore[import-not-found]

from scripts.peers.program import Clock
from simulations.bench.workloads import Workload, cohort, make_clients, make_module

__all__ = ["PACKAGES", "EndOfRound", "LossModule", "train"]

PACKAGES = ("pfl",)


def batch_loss(module: torch.nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy of a batch."""
    module.train()
    return torch.nn.functional.cross_entropy(module(inputs), targets)


@torch.no_grad()
def summed_loss(module: torch.nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> dict[str, Any]:
    """Return the loss as pfl-research wants to add it up."""
    module.eval()
    total = torch.nn.functional.cross_entropy(module(inputs), targets, reduction="sum").item()
    return {"loss": Weighted(total, len(targets))}


# A workload's layers, with the two methods for which pfl-research asks.
LossModule = type("LossModule", (torch.nn.Sequential,), {"loss": batch_loss, "metrics": summed_loss})


class EndOfRound(TrainingProcessCallback):  # type: ignore[misc]
    """Tells the clock when a round's average is there.

    Args:
        clock: Told.
    """

    def __init__(self, clock: Clock) -> None:
        """Keep the clock."""
        self.clock = clock

    def after_central_iteration(self, *metrics_and_model: Any, central_iteration: int) -> Any:
        """Go on, as pfl-research does by itself."""
        self.clock.end_round()
        return super().after_central_iteration(*metrics_and_model, central_iteration=central_iteration)


def train(workload: Workload, num_rounds: int, clock: Clock) -> dict[str, torch.Tensor]:
    """Return the average after some rounds."""
    inputs, targets = make_clients(workload)
    rounds = range(1, num_rounds + 1)
    sampled = chain.from_iterable(cohort(workload, round_number) for round_number in rounds)
    clients = FederatedDataset(
        lambda client: Dataset([inputs[client], targets[client]], user_id=str(client)), lambda: next(sampled)
    )
    module = LossModule(OrderedDict(make_module(workload.name).named_children()))
    model = PyTorchModel(
        model=module,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(module.parameters(), lr=1.0),
    )
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=num_rounds,
            evaluation_frequency=num_rounds + 1,
            train_cohort_size=workload.cohort_size,
            val_cohort_size=0,
        ),
        backend=SimulatedBackend(training_data=clients, val_data=clients, postprocessors=[WeightByDatapoints()]),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_num_epochs=workload.num_epochs,
            local_learning_rate=workload.learning_rate,
            local_batch_size=workload.batch_size,
        ),
        model_eval_params=NNEvalHyperParams(local_batch_size=workload.examples_per_client),
        callbacks=[EndOfRound(clock)],
    )
    return {name: values.detach() for name, values in module.named_parameters()}
