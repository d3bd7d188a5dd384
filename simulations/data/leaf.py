"""FEMNIST in LEAF's json layout: every client is a person who wrote.

Source: Caldas et al., "LEAF: A Benchmark for Federated Settings", arXiv:1812.01097.

Differs from LEAF: a third of a person's training examples is for validation.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import numpy as np

from edge_client.dataset import Dataset, Split
from simulations.data.pools import Request
from wire.errors import ConfigError, DataError

__all__ = ["FEMNIST_CLASSES", "LeafFile", "UserData", "femnist_clients"]

FEMNIST_CLASSES = 62
PIXELS = 784
IMAGE_SHAPE = (1, 28, 28)
FEWEST_EXAMPLES = 15
MAX_FILE_BYTES = 1 << 30
NUM_CLIENTS = 20


class UserData(msgspec.Struct, frozen=True):
    """One person's examples: pixels in ``[0, 1]``, row by row, and their classes."""

    x: list[list[float]]
    y: list[int]


class LeafFile(msgspec.Struct, frozen=True):
    """One file of LEAF's; numbers of samples are counted, not believed."""

    users: list[str]
    user_data: dict[str, UserData]


def femnist_clients(request: Request) -> dict[str, Dataset]:
    """Return people who wrote at least 15 training examples each, drawn by the seed.

    Args:
        request: ``folder`` is LEAF's ``data``, with ``train/*.json`` and ``test/*.json``; it must be named.

    Returns:
        Name -> data, sorted by name; images of shape ``(1, 28, 28)``, classes as LEAF counts them, 62.

    Raises:
        ConfigError: If no folder is named, or there are fewer people than clients asked for.
        DataError: If files are missing or broken.
    """
    if request.folder is None:
        raise ConfigError("femnist-users needs a folder: name LEAF's data folder, with train/*.json and test/*.json")
    train, test = (_read(request.folder, part) for part in ("train", "test"))
    names = sorted(name for name, split in train.items() if len(split.targets) >= FEWEST_EXAMPLES)
    num_clients = request.num_clients or min(NUM_CLIENTS, len(names))
    if not names or num_clients > len(names):
        raise ConfigError(
            f"{request.folder} has {len(names)} people with {FEWEST_EXAMPLES} or more training examples, "
            f"{num_clients} clients were asked for; ask for fewer, or sample more of LEAF's data"
        )
    rng = np.random.default_rng(np.random.SeedSequence(request.seed))
    data: dict[str, Dataset] = {}
    for name in sorted(rng.choice(names, num_clients, replace=False).tolist()):
        inputs, targets = train[name]
        chosen = rng.permutation(len(targets))[: request.examples_per_client]
        cut = max(1, round(len(chosen) / 3))
        kept = min(cut, request.validation_examples or cut)
        own, held_out = chosen[cut:], chosen[:kept]
        data[name] = Dataset(
            Split(inputs[own], targets[own]), Split(inputs[held_out], targets[held_out]), test.get(name)
        )
    return data


def _read(folder: Path, part: str) -> dict[str, Split]:
    """Return what each person wrote for one part."""
    home = folder / part if (folder / part).is_dir() else folder / "data" / part
    paths = sorted(home.glob("*.json"))
    if not paths:
        raise DataError(f"FEMNIST is not here: expected {folder}/{part}/*.json, as LEAF's preprocess.sh writes them")
    people: dict[str, Split] = {}
    for path in paths:
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise DataError(f"{path} is larger than {MAX_FILE_BYTES} bytes; let LEAF write smaller files")
            content = msgspec.json.decode(path.read_bytes(), type=LeafFile)
        except OSError as error:
            raise DataError(f"cannot read {path} ({error.strerror}); run LEAF's preprocess.sh again") from error
        except msgspec.MsgspecError as error:
            raise DataError(f"{path} is not a file of LEAF's FEMNIST ({error}); run its preprocess.sh again") from error
        for user in content.users:
            people[_client_name(user)] = _person(path, user, content.user_data.get(user))
    return people


def _person(path: Path, user: str, data: UserData | None) -> Split:
    if data is None or len(data.x) != len(data.y) or any(len(row) != PIXELS for row in data.x):
        raise DataError(f"{path}: {user!r} does not have one class for each picture of {PIXELS} pixels; make it again")
    inputs = np.array(data.x, dtype=np.float32).reshape(-1, *IMAGE_SHAPE)
    return Split(inputs, np.array(data.y, dtype=np.int64))


def _client_name(user: str) -> str:
    """Return a name of letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", user.lower()).strip("-") or "nobody"
