"""A device's model leaves as files that need nothing else, and say what the device's own program says."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnxruntime import InferenceSession
from safetensors.numpy import load_file

from edge_client.commands import main
from edge_client.config import EdgeConfig
from edge_client.exporting import export_own_model
from edge_client.generation import Generation, Upload
from edge_client.standalone import standalone_onnx
from edge_client.store import DeviceStore
from tests.export.conftest import Exported
from wire.digest import content_digest
from wire.errors import ManifestError, ProgramError, StoreError
from wire.manifest import encode_manifest
from wire.messages import Measurement, Summary
from wire.tensors import flatten_layer

Exporter = Callable[[str], Exported]


def device(folder: Path, exported: Exported, *, has_trained: bool = True) -> EdgeConfig:
    """A device that holds this model, and has finished a round with it."""
    manifest, store = exported.report.manifest, DeviceStore(folder)
    files = {name: (exported.folder / name).read_bytes() for name in ("train.onnx", "predict.onnx")}
    model_id = content_digest(encode_manifest(manifest))
    store.save_program(model_id, {**files, "manifest.json": encode_manifest(manifest)})
    if has_trained:
        params = {name: values + 0.1 for name, values in exported.params().items()}
        nothing = Measurement(0.0, 0.0, 1)
        summary = Summary(
            plan="0" * 64, epoch=0, round_number=7, num_examples=1, num_steps=1, train_loss=0.0, layers={},
            before=nothing, after=nothing, inventory=(),
        )  # fmt: skip
        own = {layer.name: flatten_layer(layer, params).astype("<f4").tobytes() for layer in manifest.layers}
        store.save_generation(
            Generation(
                epoch=0,
                round_number=7,
                plan="0" * 64,
                model_id=model_id,
                own=own,
                residuals={},
                upload=Upload(summary, {}, 1024),
            )
        )
    return EdgeConfig(fleet="home", device_id="kitchen", data=folder / "kitchen.npz", folder=folder)


@pytest.mark.parametrize("name", ["watch-cnn", "spatial", "attention"])
def test_the_files_hold_what_the_device_has_learned(exported: Exporter, name: str, tmp_path: Path) -> None:
    model = exported(name)
    found = export_own_model(device(tmp_path / "kitchen", model), tmp_path / "mine")
    params = {key: values + 0.1 for key, values in model.params().items()}
    written = load_file(found.safetensors)
    assert written.keys() == params.keys()
    assert all((written[key] == values).all() for key, values in params.items())

    checked = onnx.load(found.onnx)
    onnx.checker.check_model(checked, full_check=True)
    assert [it.name for it in checked.graph.input] == ["x"]
    session = InferenceSession(found.onnx, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(3).standard_normal((5, *model.report.manifest.input_shape)).astype(np.float32)
    np.testing.assert_allclose(
        session.run(["logits"], {"x": x})[0], model.load("onnx").predict(params, x), rtol=1e-4, atol=1e-5
    )


def test_the_command_says_what_it_wrote(exported: Exporter, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = device(tmp_path / "kitchen", exported("watch-cnn"))
    file = tmp_path / "kitchen.toml"
    file.write_text(
        f'fleet = "home"\ndevice_id = "kitchen"\ndata = "k.npz"\nfolder = {json.dumps(str(config.folder))}\n'
    )
    main(["export-model", str(file), "--output", str(tmp_path / "v1.0")])
    assert "watch-cnn as kitchen trained it in round 7" in capsys.readouterr().out
    header = (tmp_path / "v1.0.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", header[:8])
    assert json.loads(header[8 : 8 + size])["__metadata__"]["device"] == "kitchen"
    assert (tmp_path / "v1.0.onnx").is_file()


def test_a_device_without_a_round_and_one_without_its_file_are_told_what_to_do(
    exported: Exporter, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match="let it finish a round first"):
        export_own_model(device(tmp_path / "new", exported("watch-cnn"), has_trained=False), tmp_path / "mine")
    config = device(tmp_path / "kitchen", exported("watch-cnn"))
    (program,) = (config.folder / "programs").iterdir()
    data = (program / "predict.onnx").read_bytes()
    (program / "predict.onnx").write_bytes(data[:-1])
    with pytest.raises(ManifestError, match="is not the file that its manifest names"):
        export_own_model(config, tmp_path / "mine")
    (program / "predict.onnx").unlink()
    with pytest.raises(StoreError, match='give it runtime = "onnx"'):
        export_own_model(config, tmp_path / "mine")
    assert not list(tmp_path.glob("mine*"))


@given(st.binary(max_size=60))
def test_bytes_that_are_no_model_are_refused(data: bytes) -> None:
    with pytest.raises(ProgramError):
        standalone_onnx(data, {"fc1.weight": np.zeros((2, 2), np.float32)})


def test_a_file_that_is_cut_anywhere_is_refused(exported: Exporter) -> None:
    model = exported("watch-cnn")
    data = (model.folder / "predict.onnx").read_bytes()
    for end in range(0, len(data) - 1, 997):
        with pytest.raises(ProgramError):
            standalone_onnx(data[:end], model.params())
