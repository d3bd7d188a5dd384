"""A user's data folder, or file, into devices: found, checked, split, and refused or reported by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edge_client.dataset import Dataset, Split
from simulations.advise.arrays import MOST_BYTES, read_device_files, read_grouped_file
from simulations.advise.pictures import class_folders, read_pictures
from simulations.advise.splitting import complete_splits
from simulations.advise.tables import Columns, read_table
from simulations.data.federation import Federation, check_federation
from simulations.demo.wording import printable
from simulations.engines.model import SimulatedModel
from wire.errors import ConfigError, DataError

__all__ = ["DeviceData", "DeviceSource", "read_devices"]

FEWEST_DEVICES = 2
MOST_NAMED = 3

Parts = Mapping[str, Split]


class DeviceSource(NamedTuple):
    """Where the data lies, and how it is to be read.

    Args:
        path: A folder, a ``.npz`` or a ``.csv`` file.
        columns: Of a ``.csv`` file.
        limit: The most devices, taken evenly from all; None takes all.
    """

    path: Path
    columns: Columns | None = None
    limit: int | None = None


class DeviceData(NamedTuple):
    """What was read.

    Args:
        federation: The devices, at least two, each with all three splits.
        num_found: Devices in the folder or file, those that were not taken included.
        notes: What one should know about the data, a sentence each.
    """

    federation: Federation
    num_found: int
    notes: tuple[str, ...]


class _Found(NamedTuple):
    """Devices that are not read yet."""

    readers: dict[str, Callable[[], Parts]]
    notes: tuple[str, ...] = ()


def read_devices(source: DeviceSource, model_name: str, model: SimulatedModel) -> DeviceData:
    """Return the devices' data, checked.

    Args:
        source: Where it lies.
        model_name: What the user called the model.
        model: What is to learn from it.

    Raises:
        ConfigError: If columns are missing or named in vain, or pictures cannot be read here.
        DataError: If there is no data, it is broken or does not fit the model, or fewer than two devices have enough;
            the line names the file or the device.
    """
    found = _find(source, model)
    names = _evenly(sorted(found.readers), source.limit)
    clients: dict[str, Dataset] = {}
    left_out: list[str] = []
    num_bytes = 0
    for name in names:
        if not _is_text(name):
            raise DataError(f"{printable(name)}: this device's name is no text in UTF-8; rename it")
        parts = found.readers[name]()
        _check_shapes(name, parts, model)
        num_bytes += sum(part.inputs.nbytes for part in parts.values())
        if num_bytes > MOST_BYTES:
            raise DataError(f"{name}: a trial takes {MOST_BYTES / 1e9:.1f} GB of data at most; use --limit-clients")
        try:
            clients[name] = complete_splits(parts)
        except DataError as error:
            left_out.append(f"{name} is left out: {error}")
    if len(clients) < FEWEST_DEVICES:
        reasons = "; ".join(left_out[:MOST_NAMED])
        raise DataError(
            f"{source.path} gives {len(clients)} device{'s' * (len(clients) != 1)} with enough examples, and a comparison "
            f"needs {FEWEST_DEVICES} or more" + (f": {reasons}" if reasons else "")
        )
    federation = Federation(printable(str(source.path)), 0, model_name, model.input_shape, model.num_classes, clients)
    notes = [*found.notes, *left_out, *check_federation(federation), *_surprises(federation)]
    return DeviceData(federation, len(found.readers), tuple(notes))


def _find(source: DeviceSource, model: SimulatedModel) -> _Found:
    path = source.path
    if path.suffix.lower() == ".csv" and not path.is_dir():
        return _table(path, source.columns, model)
    if source.columns is not None:
        raise ConfigError(f"--device-column and --label-column are for a .csv file, and {path} is none")
    if path.is_dir():
        try:
            return _folder(path, model)
        except OSError as error:
            raise DataError(f"cannot read {error.filename or path}: {error.strerror}") from error
    if path.suffix.lower() == ".npz":
        return _kept(read_grouped_file(path))
    if not path.exists():
        raise DataError(f"there is nothing at {path}; name a folder or file with your devices' data")
    raise DataError(f"{path} is neither a folder nor a .npz or .csv file; docs/advise.md shows the four forms")


def _table(path: Path, columns: Columns | None, model: SimulatedModel) -> _Found:
    if columns is None:
        raise ConfigError(f"{path} needs --device-column and --label-column: which device a row is of, and its class")
    table = read_table(path, columns, int(np.prod(model.input_shape)))
    shaped = {
        name: {part: Split(it.inputs.reshape(-1, *model.input_shape), it.targets) for part, it in parts.items()}
        for name, parts in table.devices.items()
    }
    return _kept(shaped, table.notes)


def _folder(path: Path, model: SimulatedModel) -> _Found:
    files = sorted(it for it in path.glob("*.npz") if it.is_file())
    folders = sorted(it for it in path.iterdir() if it.is_dir() and not it.name.startswith("."))
    if files and folders:
        raise DataError(f"{path} holds .npz files and folders; put one .npz there for each device, or one folder")
    if files:
        return _Found({it.stem: _files_reader([it]) for it in files})
    if not folders:
        raise DataError(f"{path} is empty; put one .npz there for each device, or one folder")
    pictures = {it.name: class_folders(it) for it in folders}
    classes = tuple(sorted({name for by_class in pictures.values() for name in by_class}))
    readers = {it.name: _folder_reader(it, classes, model) for it in folders}
    if not classes:
        return _Found(readers)
    told = ", ".join(f"{number} = {word}" for number, word in enumerate(classes))
    return _Found(readers, (f"classes: {told}", "pictures are brought to the model's size, pixels to 0 to 1"))


def _files_reader(files: Sequence[Path]) -> Callable[[], Parts]:
    return lambda: read_device_files(files)


def _folder_reader(folder: Path, classes: Sequence[str], model: SimulatedModel) -> Callable[[], Parts]:
    files = sorted(it for it in folder.glob("*.npz") if it.is_file())
    if files:
        return _files_reader(files)
    return lambda: read_pictures(folder, classes, model.input_shape)


def _kept(devices: Mapping[str, Parts], notes: Iterable[str] = ()) -> _Found:
    return _Found({name: _keeper(parts) for name, parts in devices.items()}, tuple(notes))


def _keeper(parts: Parts) -> Callable[[], Parts]:
    return lambda: parts


def _evenly(names: Sequence[str], limit: int | None) -> list[str]:
    """Return at most so many of the names, taken evenly from all: neighbors in a list are often alike."""
    count = len(names) if limit is None else min(limit, len(names))
    return [names[place * len(names) // count] for place in range(count)]


def _is_text(name: str) -> bool:
    """Say whether a name, which may be a file's, can be written as UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_shapes(name: str, parts: Parts, model: SimulatedModel) -> None:
    """Refuse examples of another shape before they are cut and joined, with what to do."""
    for part, split in parts.items():
        if split.inputs.shape[1:] != model.input_shape:
            raise DataError(
                f"{name}: its {part} examples have shape {split.inputs.shape[1:]}, and the model takes "
                f"{model.input_shape}; reshape them, or name another model"
            )


def _surprises(federation: Federation) -> Iterator[str]:
    """Say which devices are judged by classes that they themselves never train on: most often rows sorted by class."""
    unseen = [
        name
        for name, data in federation.clients.items()
        if data.test is not None and not np.isin(data.test.targets, data.train.targets).all()
    ]
    if unseen:
        told = ", ".join(unseen[:MOST_NAMED]) + (", ..." if len(unseen) > MOST_NAMED else "")
        yield (
            f"{len(unseen)} of {len(federation.clients)} devices are judged by classes that they never train on ({told}); "
            "rows are cut in their order, so this is what happens if they are sorted by class"
        )
    used = set[int]().union(*(np.unique(data.train.targets).tolist() for data in federation.clients.values()))
    if len(used) < federation.num_classes:
        yield f"the devices train on {len(used)} of the model's {federation.num_classes} classes"
