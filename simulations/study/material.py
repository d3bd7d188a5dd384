"""What a cell learns from, and what it teaches: the clients' data, and the model with its initial values."""

from __future__ import annotations

import hashlib
import importlib.util
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from edge_client.dataset import BROKEN, Dataset, load_dataset
from export.models import TrainableModel
from simulations.data.federation import Federation
from simulations.data.scenarios import SCENARIOS, make_scenario
from simulations.engines.model import SimulatedModel, simulate_model
from simulations.models import load_simulation_model
from simulations.study.config import DataChoice
from wire.errors import ConfigError, DataError
from wire.manifest import ModelManifest

__all__ = ["fingerprint_of", "make_federation", "make_model"]


@lru_cache(maxsize=2)
def make_federation(scenario: DataChoice, seed: int) -> Federation:
    """Return the clients' data, checked; the last two are kept, because a study's cells come scenario by scenario.

    Raises:
        ConfigError: If there is no such scenario, or it cannot be made in this size.
        DataError: If data is missing, broken or does not fit the model; the line names the file.
        ExportError: If the user's own model cannot be trained.
    """
    folder = None if scenario.folder is None else Path(scenario.folder)
    if scenario.model is None:
        return make_scenario(
            scenario.name,
            seed,
            num_clients=scenario.num_clients,
            examples_per_client=scenario.examples_per_client,
            validation_examples=scenario.validation_examples,
            folder=folder,
        )
    if scenario.num_clients or scenario.examples_per_client or scenario.validation_examples:
        raise ConfigError(
            f"{scenario.name} takes its own data as it is: name neither num_clients nor numbers of examples"
        )
    if folder is None:
        raise ConfigError(f"{scenario.name} has a model of its own: name the folder that holds its clients' .npz files")
    return _read_clients(scenario.name, scenario.model, folder)


def make_model(scenario: DataChoice, seed: int) -> SimulatedModel:
    """Return the scenario's model, its initial values drawn by the seed; torch's own generator is left as it was.

    Raises:
        ConfigError: If there is no such scenario.
        ExportError: If there is no such model, or it cannot be trained.
    """
    name = scenario.model
    if name is None:
        if scenario.name not in SCENARIOS:
            known = ", ".join(sorted(SCENARIOS))
            raise ConfigError(
                f"no scenario is named {scenario.name!r}: name a model and a folder, or take one of {known}"
            )
        name = SCENARIOS[scenario.name].model
    return simulate_model(_load(name, seed))


def fingerprint_of(scenario: DataChoice) -> str:
    """Return a digest of what a name and a seed do not decide: the files in the folder, and the user's own model.

    Files of a user's own clients count with all their bytes; those of a benchmark with their names and sizes.

    Raises:
        DataError: If the folder cannot be read.
    """
    if scenario.folder is None and scenario.model is None:
        return ""
    seen = hashlib.sha256()
    folder = Path(scenario.folder or ".")
    try:
        if scenario.model is None:
            for path in sorted(it for it in folder.rglob("*") if it.is_file()):
                seen.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\0".encode())
        else:
            for path in _client_files(folder):
                seen.update(f"{path.name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
            seen.update(repr(_load(scenario.model, 0).module).encode() + _source(scenario.model))
    except OSError as error:
        raise DataError(f"cannot read {error.filename or folder}: {error.strerror}") from error
    return seen.hexdigest()


def _load(name: str, seed: int) -> TrainableModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return load_simulation_model(name)


def _source(model: str) -> bytes:
    """Return the text of the module that makes the model; nothing where it has none."""
    module = model.partition(":")[0] if ":" in model else ""
    spec = importlib.util.find_spec(module) if module else None
    return Path(spec.origin).read_bytes() if spec and spec.origin and spec.has_location else b""


def _client_files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.npz"))
    if not files:
        raise DataError(f"{folder} holds no .npz file; put one there for each client")
    return files


def _read_clients(name: str, model_name: str, folder: Path) -> Federation:
    model = simulate_model(_load(model_name, 0))
    manifest = ModelManifest(model_name[:64], model.layers, model.input_shape, model.num_classes, {})
    clients: dict[str, Dataset] = {}
    for path in _client_files(folder):
        _refuse_empty(path)
        clients[path.stem] = load_dataset(path, manifest)
    return Federation(name, 0, model_name, model.input_shape, model.num_classes, clients)


def _refuse_empty(path: Path) -> None:
    """Refuse a client without examples; anything else that is wrong is left to ``load_dataset``."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            empty = [key for key in ("y_train", "y_validation") if key in arrays and arrays[key].size == 0]
    except BROKEN:
        return
    if empty:
        raise DataError(f"{path}: {empty[0]} is empty; give this client examples, or leave it out of the folder")
