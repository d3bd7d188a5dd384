"""The FedLAG paper's grid as scenarios: four benchmarks, three ways to divide them, 20 to 100 users.

Name the folder that holds the benchmark; ``num_clients`` takes 20 (the default) to 100. All training data is dealt out,
unless ``examples_per_client`` asks for less; float32 takes four times the benchmark's size, 5 GB for Tiny-ImageNet.

Source: arXiv:2410.02845.

Differs from the paper: a third of each client's examples is for validation, each client is tested on its own mix of
labels, and networks have group norm.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from simulations.data.benchmarks import load_benchmark
from simulations.data.leaf import FEMNIST_CLASSES, femnist_clients
from simulations.data.pools import Pool
from simulations.data.recipes import Scenario, by_classes, by_dirichlet, pooled
from simulations.data.sources import Source, scale_images

__all__ = ["PAPER_GRID"]


def _load(folder: Path | None, _: int, *, name: str) -> Pool:
    return load_benchmark(name, folder)


def _source(name: str, input_shape: tuple[int, ...], num_classes: int, model: str) -> Source:
    return Source(partial(_load, name=name), scale_images, input_shape, num_classes, model, examples_per_client=None)


SOURCES = {
    "cifar10": (_source("cifar10", (3, 32, 32), 10, "resnet9-gn"), 2),
    "cifar100": (_source("cifar100", (3, 32, 32), 100, "resnet9-gn-cifar100"), 10),
    "emnist": (_source("emnist", (1, 28, 28), 62, "emnist-cnn"), 6),
    "tiny-imagenet": (_source("tiny-imagenet", (3, 64, 64), 200, "resnet9-gn-tiny"), 20),
}
"""Name -> source, and how many classes a client has in the pathological division: as in PFLlib, a tenth or so."""

FEMNIST = Scenario(
    "femnist-users",
    "LEAF's handwriting, a client for each writer",
    "emnist-cnn",
    (1, 28, 28),
    FEMNIST_CLASSES,
    femnist_clients,
)

PAPER_GRID: tuple[Scenario, ...] = (
    *(
        pooled(
            f"{name}-dirichlet-{alpha}", f"{name}, Dirichlet({alpha}) shares of classes", source, by_dirichlet(alpha)
        )
        for name, (source, _) in SOURCES.items()
        for alpha in (0.1, 0.5)
    ),
    *(
        pooled(f"{name}-pathological", f"{name}, {classes} classes per client", source, by_classes(classes))
        for name, (source, classes) in SOURCES.items()
    ),
    FEMNIST,
)
"""The grid, and LEAF's natural clients beside it; all need a folder."""
