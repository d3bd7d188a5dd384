"""Federations by name: the study's eleven kinds of shift, and families that its rule was not made on.

Every scenario is decided by its seed. The seeds of the Fashion-MNIST scenarios are those of the study of layer choices:
the same clients with the same examples, but for the few classes of ``fashion-two-classes``.

Differs from the study: the smartwatch's recordings are cut with a gap of one window between splits, and images are
pooled without rounding.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from simulations.data.client_shifts import group_labels, group_turns, own_labels, own_sensor, own_tiles
from simulations.data.federation import Federation, check_federation
from simulations.data.natural import role_clients, watch_clients
from simulations.data.paper_grid import PAPER_GRID
from simulations.data.partitions import iid
from simulations.data.pools import Request
from simulations.data.recipes import Scenario, by_classes, by_dirichlet, pooled
from simulations.data.shakespeare import NUM_SYMBOLS, WINDOW
from simulations.data.sources import DIGITS, FASHION_14, FASHION_28, LETTER, SATELLITE
from simulations.data.watch import EXERCISES
from simulations.data.watch import INPUT_SHAPE as WATCH_SHAPE
from wire.errors import ConfigError

__all__ = ["SCENARIOS", "make_scenario"]


def make_scenario(
    name: str,
    seed: int,
    *,
    num_clients: int | None = None,
    examples_per_client: int | None = None,
    validation_examples: int | None = None,
    folder: Path | None = None,
) -> Federation:
    """Return a scenario's federation, checked.

    Args:
        name: One of ``SCENARIOS``.
        seed: Decides every draw.
        num_clients: Number of clients; None is the scenario's own, 20 for most.
        examples_per_client: Mean number of training and validation examples together, before a third of them goes to
            validation; None is the scenario's own, 150 for most.
        validation_examples: The most validation examples that a client keeps. Its training examples stay what they are.
        folder: Where the data lies; None looks where its package puts it.

    Raises:
        ConfigError: If there is no such scenario, or it cannot be made in this size.
        DataError: If the data is missing or broken; the line says how to get it.
    """
    scenario = SCENARIOS.get(name)
    if scenario is None:
        raise ConfigError(f"no scenario is named {name!r}; take one of {', '.join(sorted(SCENARIOS))}")
    clients = scenario.make(Request(seed, num_clients, examples_per_client, validation_examples, folder))
    federation = Federation(name, seed, scenario.model, scenario.input_shape, scenario.num_classes, clients)
    check_federation(federation)
    return federation


def _watch(name: str, about: str, *, mounted: bool) -> Scenario:
    return Scenario(name, about, "watch-cnn", WATCH_SHAPE, len(EXERCISES), partial(watch_clients, mounted=mounted))


_ALL = (
    _watch("watch-natural", "smartwatches on both arms of ten people", mounted=False),
    _watch("watch-mounted", "the smartwatches, each mounted at a random rotation", mounted=True),
    pooled(
        "fashion-own-labels", "clothes, each client with its own names for the classes", FASHION_14, iid, own_labels
    ),
    pooled(
        "fashion-own-labels-deep",
        "the same with a residual network of twenty layers",
        FASHION_14,
        iid,
        own_labels,
        model="resnet20-gn-14",
    ),
    pooled("fashion-label-groups", "clothes, four groups with their own names", FASHION_14, iid, group_labels),
    pooled("fashion-rotations", "clothes, four groups with turned cameras", FASHION_14, iid, group_turns),
    pooled(
        "fashion-tiles", "clothes, shuffled 2x2 tiles, half inverted", FASHION_14, iid, own_tiles, model="tiles-cnn"
    ),
    pooled("fashion-iid", "clothes, all clients alike: nothing should be personal", FASHION_14, iid),
    pooled("fashion-dirichlet-0.1", "clothes, very unequal shares of classes", FASHION_14, by_dirichlet(0.1)),
    pooled("fashion-dirichlet-0.5", "clothes, unequal shares of classes", FASHION_14, by_dirichlet(0.5)),
    pooled(
        "fashion-dirichlet-0.5-tiles",
        "clothes, unequal shares of classes and shuffled tiles",
        FASHION_14,
        by_dirichlet(0.5),
        own_tiles,
        model="tiles-cnn",
    ),
    pooled("fashion-two-classes", "clothes, two classes per client", FASHION_14, by_classes(2)),
    pooled("fashion28-dirichlet-0.1", "clothes at 28x28, very unequal shares", FASHION_28, by_dirichlet(0.1)),
    pooled("letter-dirichlet-0.1", "printed letters, very unequal shares of classes", LETTER, by_dirichlet(0.1)),
    pooled("letter-two-classes", "printed letters, two per client", LETTER, by_classes(2)),
    pooled("letter-own-labels", "printed letters, each client with its own alphabet", LETTER, iid, own_labels),
    pooled("satellite-dirichlet-0.5", "soil seen from space, unequal shares", SATELLITE, by_dirichlet(0.5)),
    pooled("satellite-sensors", "soil seen from space, each sensor with its own gains", SATELLITE, iid, own_sensor),
    pooled("digits-rotations", "small digits, four groups with turned cameras", DIGITS, iid, group_turns),
    pooled("digits-iid", "small digits, all clients alike", DIGITS, iid),
    Scenario(
        "shakespeare-roles",
        "the next character of what a role in a play says",
        "char-gru",
        (WINDOW,),
        NUM_SYMBOLS,
        role_clients,
    ),
)

SCENARIOS: dict[str, Scenario] = {scenario.name: scenario for scenario in (*_ALL, *PAPER_GRID)}
"""Name -> scenario."""
