"""``fedlag edge export-model``: what the device's own model is now, in files that other programs read."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from edge_client.config import EdgeConfig
from edge_client.onnx_program import load_onnx_program, load_session
from edge_client.program_check import LOGITS, read_program_file
from edge_client.standalone import standalone_onnx
from edge_client.store import DeviceStore
from wire.durable import write_durably
from wire.errors import ProgramError, StoreError
from wire.tensors import unflatten_layer

__all__ = ["ExportedModel", "export_own_model"]

CHECKED_BATCH = 4
LARGEST_DIFFERENCE = 1e-5


class ExportedModel(NamedTuple):
    """What was written.

    Args:
        onnx: Takes ``x``, float32 ``(batch, *input_shape)``, and gives ``logits``.
        safetensors: The same model's values by parameter.
        model: The name under which it was exported.
        round_number: The round after whose training these values are.
    """

    onnx: Path
    safetensors: Path
    model: str
    round_number: int


def export_own_model(config: EdgeConfig, output: Path) -> ExportedModel:
    """Write the device's model as it was trained here last: its personal layers, and its own version of the shared ones.

    Args:
        config: The device's.
        output: Where the files go; ``.onnx`` and ``.safetensors`` are appended.

    Raises:
        StoreError: If the device has not trained yet, its program is gone or not for ONNX Runtime, or the disk refuses.
        ManifestError: If a file of the program is damaged.
        ProgramError: If the written model would not give what the device's own gives.
    """
    from safetensors.numpy import save  # noqa: PLC0415 - no device trains with it

    store = DeviceStore(config.folder)
    generation = store.load_generation()
    if generation is None or not generation.own:
        raise StoreError(f"{config.device_id} has no model in {config.folder} yet: let it finish a round first")
    manifest = store.load_manifest(generation.model_id)
    if manifest is None:
        raise StoreError(
            f"the program of {config.device_id} is not whole in {config.folder}: let it join its fleet again"
        )
    folder = store.program_folder(generation.model_id)
    if not (folder / "predict.onnx").exists():
        raise StoreError(f'{config.device_id} has no predict.onnx: give it runtime = "onnx" for a round first')
    own = generation.own_layers()
    params: dict[str, np.ndarray] = {}
    for layer in manifest.layers:
        params |= unflatten_layer(layer, own[layer.name])
    files = ExportedModel(
        output.with_name(f"{output.name}.onnx"),
        output.with_name(f"{output.name}.safetensors"),
        manifest.model,
        generation.round_number,
    )
    data = standalone_onnx(read_program_file(folder, manifest, "predict.onnx"), params)
    x = np.random.default_rng(0).standard_normal((CHECKED_BATCH, *manifest.input_shape)).astype(np.float32)
    expected = load_onnx_program(folder, manifest).predict(params, x)
    found = load_session(files.onnx, data).run([LOGITS], {"x": x})[0]
    if np.abs(found - expected).max() > LARGEST_DIFFERENCE * max(1.0, float(np.abs(expected).max())):
        raise ProgramError(f"the stand-alone model of {manifest.model!r} gives other logits: please report this")
    about = {"model": manifest.model, "model_id": generation.model_id, "device": config.device_id}
    write_durably(files.safetensors, save(params, {**about, "round": str(generation.round_number)}))
    write_durably(files.onnx, data)
    return files
