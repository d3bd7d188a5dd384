"""Clients that nobody had to invent: the twenty arms with a smartwatch, the roles of Shakespeare's plays."""

from __future__ import annotations

import numpy as np

from edge_client.dataset import Dataset, Split
from simulations.data.partitions import random_rotation, rotate_sensor
from simulations.data.pools import Request
from simulations.data.shakespeare import WINDOW, cut_windows, encode_text, load_roles
from simulations.data.watch import load_watch_devices
from wire.errors import ConfigError, DataError

__all__ = ["role_clients", "watch_clients"]

NUM_ROLES = 20
ROLE_EXAMPLES = 600
ROLE_TEST = 200
ROLE_SHARES = {"train": 50, "validation": 20, "test": 30}
"""Percent of what a role says."""

MIN_CHARACTERS = 2000


def watch_clients(request: Request, *, mounted: bool) -> dict[str, Dataset]:
    """Return the twenty arms of ten people, or the first few of them.

    Args:
        request: ``folder`` is not used; ``examples_per_client`` counts training windows and half as many for
            validation, drawn from what a device has.
        mounted: Whether each device is mounted its own way: one random rotation, the same in every split.

    Returns:
        Name -> data, sorted by name; a device keeps its own name, for example ``person-03-left``.

    Raises:
        ConfigError: If more clients are asked for than there are.
        DataError: If the data is missing; the line says how to get it.
    """
    if request.folder is not None:
        raise ConfigError("the smartwatch data is read from the installed seglearn alone; name no folder")
    devices = load_watch_devices(request.seed)
    num_clients = _checked_number(request.num_clients or len(devices), len(devices), "smartwatches")
    data: dict[str, Dataset] = {}
    for index, device in enumerate(devices[:num_clients]):
        rng = np.random.default_rng(np.random.SeedSequence(request.seed, spawn_key=(len(devices), index)))
        rotation = random_rotation(rng) if mounted else np.eye(3)
        train, validation, test = (
            Split(rotate_sensor(x, rotation) if mounted else x, y)
            for x, y in (
                (device.x_train, device.y_train),
                (device.x_validation, device.y_validation),
                (device.x_test, device.y_test),
            )
        )
        each = request.examples_per_client
        if each is not None:
            train = _some(train, max(1, each - round(each / 3)), rng)
            validation = _some(validation, max(1, round(each / 3)), rng)
        if request.validation_examples is not None:
            validation = _some(validation, request.validation_examples, rng)
        data[device.device_id] = Dataset(train, validation, test)
    return data


def role_clients(request: Request) -> dict[str, Dataset]:
    """Return twenty roles with at least 2,000 characters, drawn by the seed.

    What a role says is cut into three blocks of time, in an order that the seed draws: 50 percent for training, 20 for
    validation, 30 for tests. Windows begin anywhere in their block, and end in it.

    Args:
        request: ``folder`` is that of the texts.

    Returns:
        Name -> data, sorted by name, for example ``macbeth-lady-macbeth``: windows of 20 characters, shape
        ``(windows, 20)``, float32, and the next character.

    Raises:
        ConfigError: If more clients are asked for than there are roles.
        DataError: If the texts are missing; the line says how to get them.
    """
    roles = load_roles(request.folder, min_characters=MIN_CHARACTERS)
    num_clients = _checked_number(request.num_clients or NUM_ROLES, len(roles), "roles")
    rng = np.random.default_rng(np.random.SeedSequence(request.seed))
    names = sorted(rng.choice(sorted(roles), num_clients, replace=False).tolist())
    each = request.examples_per_client or ROLE_EXAMPLES
    wanted = {"train": max(1, each - round(each / 3)), "validation": max(1, round(each / 3)), "test": ROLE_TEST}
    if request.validation_examples is not None:
        wanted["validation"] = min(wanted["validation"], request.validation_examples)
    data: dict[str, Dataset] = {}
    for index, name in enumerate(names):
        own = np.random.default_rng(np.random.SeedSequence(request.seed, spawn_key=(index,)))
        symbols = encode_text(roles[name])
        splits: dict[str, Split] = {}
        begin = 0
        for part in own.permutation(list(ROLE_SHARES)):
            end = begin + ROLE_SHARES[str(part)] * len(symbols) // 100
            places = end - begin - WINDOW
            if places < 1:
                raise DataError(f"{name} says too little: its {part} block holds no window of {WINDOW} characters")
            starts = begin + np.sort(own.choice(places, min(places, wanted[str(part)]), replace=False))
            splits[str(part)] = Split(*cut_windows(symbols, starts))
            begin = end
        data[name] = Dataset(**splits)
    return data


def _checked_number(wanted: int, available: int, what: str) -> int:
    if wanted > available:
        raise ConfigError(f"there are {available} {what}, not {wanted}; ask for fewer clients")
    return wanted


def _some(split: Split, most: int, rng: np.random.Generator) -> Split:
    """Return at most so many examples, any with the same chance, in their order."""
    chosen = np.sort(rng.choice(len(split.targets), min(most, len(split.targets)), replace=False))
    return Split(split.inputs[chosen], split.targets[chosen])
