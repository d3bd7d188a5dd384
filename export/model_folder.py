"""The folder of an exported model: the program's files, the manifest that names them, and initial values.

::

    manifest.json  train.onnx  predict.onnx  train.pte  predict.pte  initial.safetensors

The files are made and verified in a temporary folder beside it. A new folder appears whole, by one rename. In a folder that
exists, files are replaced one by one and the manifest last: whoever reads in between finds digests that do not match.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.numpy
import torch
from msgspec import UNSET

from export.model_check import check_model
from export.models import TrainableModel, load_model
from export.program_files import program_files
from export.verify import Verification, verify_files
from wire.errors import StoreError
from wire.manifest import ModelManifest, ProgramFile, encode_manifest

__all__ = ["INITIAL_VALUES", "MANIFEST", "ExportReport", "export_model", "export_program", "write_initial_values"]

MANIFEST = "manifest.json"
INITIAL_VALUES = "initial.safetensors"


@dataclass(frozen=True)
class ExportReport:
    """What was exported, and how far it is from autograd.

    Args:
        manifest: As it was written.
        verifications: One for each runtime.
    """

    manifest: ModelManifest
    verifications: tuple[Verification, ...]


def export_model(name: str, folder: Path) -> ModelManifest:
    """Export a model by name; see ``export_program``.

    Args:
        name: A built-in name, or ``package.module:factory``.
        folder: Where the manifest and the files go.

    Raises:
        ExportError: If there is no such model, it cannot be exported, or a program is not right.
        StoreError: If the folder cannot be written.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = load_model(name)
    return export_program(model, name, folder).manifest


def export_program(
    model: TrainableModel, name: str, folder: Path, partials: Sequence[Sequence[str]] = ()
) -> ExportReport:
    """Write the model's program for every runtime, with its manifest, after each was held against autograd.

    Args:
        model: The model; its values are not written.
        name: Its name in the manifest.
        folder: Where the manifest and the files go; made if it does not exist.
        partials: Sets of layers, for each of which a smaller training program is written beside the whole one.

    Returns:
        The manifest, and the errors that verification found.

    Raises:
        ExportError: If the model cannot be exported, or a program is not right; nothing is written then.
        StoreError: If the folder cannot be written.
    """
    checked = check_model(model)
    files, memory = program_files(checked, partials)
    manifest = ModelManifest(
        model=name,
        layers=checked.layers,
        input_shape=model.input_shape,
        num_classes=model.num_classes,
        files={file: ProgramFile(hashlib.sha256(data).hexdigest(), len(data)) for file, data in files.items()},
        loss=UNSET if model.loss == "cross-entropy" else model.loss,
        positions=model.positions or UNSET,
        num_tokens=UNSET if model.num_tokens is None else model.num_tokens,
        masks=checked.masks or UNSET,
        memory=memory,
        partials=tuple(tuple(layers) for layers in partials) or UNSET,
    )
    folder = folder.absolute()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as parent:
            made = Path(parent) / folder.name
            made.mkdir()
            for file, data in files.items():
                (made / file).write_bytes(data)
            verifications = verify_files(checked, manifest, made)
            (made / MANIFEST).write_bytes(encode_manifest(manifest))
            _move(made, folder)
    except OSError as error:
        raise StoreError(f"cannot write the model to {folder}: {error.strerror}") from error
    return ExportReport(manifest, verifications)


def write_initial_values(name: str, seed: int, path: Path) -> None:
    """Write the model's initial values for a seed; the same seed gives the same bytes.

    Args:
        name: A built-in name, or ``package.module:factory``.
        seed: For torch's generator, which is left as it was.
        path: A ``.safetensors`` file, its tensors named as the manifest's parameters.

    Raises:
        ExportError: If there is no such model.
        StoreError: If the file cannot be written.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = load_model(name)
    values = {parameter: tensor.numpy() for parameter, tensor in check_model(model).initial_values().items()}
    unfinished = path.with_name(f".{path.name}-unfinished")
    try:
        unfinished.write_bytes(safetensors.numpy.save(values))
        unfinished.replace(path)
    except OSError as error:
        raise StoreError(f"cannot write initial values to {path}: {error.strerror}") from error


def _move(made: Path, folder: Path) -> None:
    """Rename the folder, or its files one by one where the target exists, the manifest last."""
    if not folder.exists():
        made.rename(folder)
        return
    for file in sorted(made.iterdir(), key=lambda path: path.name == MANIFEST):
        file.replace(folder / file.name)
