"""What the deployed runtimes refuse before they run anything."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest

from edge_client.executorch_program import load_executorch_program
from edge_client.executorch_torch import torch_loader
from edge_client.onnx_program import load_onnx_program
from edge_client.program import TrainingProgram
from tests.edge_client.native.compiled import load_natively
from wire.errors import ManifestError, ProgramError
from wire.manifest import ModelManifest, ParameterSpec, ProgramFile

if TYPE_CHECKING:
    from tests.export.conftest import Exported

Exporter = Callable[[str], "Exported"]

RUNTIMES = ["onnx", "executorch", "executorch-torch"]


def load_without_torch(folder: Path, manifest: ModelManifest) -> TrainingProgram:
    return load_executorch_program(folder, manifest, load_natively())


def load_through_torch(folder: Path, manifest: ModelManifest) -> TrainingProgram:
    return load_executorch_program(folder, manifest, torch_loader())


LOADERS = [
    pytest.param(load_onnx_program, ".onnx", id="onnx"),
    pytest.param(load_without_torch, ".pte", id="executorch"),
    pytest.param(load_through_torch, ".pte", id="executorch-torch"),
]

pytestmark = pytest.mark.slow

Load = Callable[[Path, ModelManifest], TrainingProgram]


@pytest.fixture
def folder(exported: Exporter, tmp_path: Path) -> Path:
    return shutil.copytree(exported("watch-cnn").folder, tmp_path / "program")


@pytest.fixture
def manifest(exported: Exporter) -> ModelManifest:
    manifest: ModelManifest = exported("watch-cnn").report.manifest
    return manifest


def with_file(manifest: ModelManifest, name: str, data: bytes) -> ModelManifest:
    file = ProgramFile(hashlib.sha256(data).hexdigest(), len(data))
    return msgspec.structs.replace(manifest, files={**manifest.files, name: file})


@pytest.mark.parametrize(("load", "suffix"), LOADERS)
@pytest.mark.parametrize("stem", ["train", "predict"])
def test_a_file_with_one_other_byte_is_not_loaded(
    folder: Path, manifest: ModelManifest, load: Load, suffix: str, stem: str
) -> None:
    path = folder / f"{stem}{suffix}"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ManifestError, match=rf"{stem}\{suffix} is not the file that its manifest names"):
        load(folder, manifest)


@pytest.mark.parametrize(("load", "suffix"), LOADERS)
def test_a_truncated_file_is_refused_even_if_the_manifest_vouches_for_it(
    folder: Path, manifest: ModelManifest, load: Load, suffix: str
) -> None:
    path = folder / f"train{suffix}"
    data = path.read_bytes()[: path.stat().st_size // 2]
    path.write_bytes(data)
    with pytest.raises(ProgramError, match="cannot load"):
        load(folder, with_file(manifest, path.name, data))


@pytest.mark.parametrize(("load", "suffix"), LOADERS)
def test_a_missing_file_and_one_that_was_not_exported_are_named(
    folder: Path, manifest: ModelManifest, load: Load, suffix: str
) -> None:
    name = f"train{suffix}"
    (folder / name).unlink()
    with pytest.raises(ProgramError, match=f"cannot read .*{name}: No such file"):
        load(folder, manifest)
    others = {file: spec for file, spec in manifest.files.items() if file != name}
    with pytest.raises(ManifestError, match=f"has no {name}, it has"):
        load(folder, msgspec.structs.replace(manifest, files=others))


def lie_about_a_weight(manifest: ModelManifest) -> ModelManifest:
    layer, *others = manifest.layers
    wrong = ParameterSpec("conv1.weight", (16, 6, 7))
    lying = msgspec.structs.replace(layer, parameters=(wrong, *layer.parameters[1:]))
    return msgspec.structs.replace(manifest, layers=(lying, *others))


def forget_a_layer(manifest: ModelManifest) -> ModelManifest:
    return msgspec.structs.replace(manifest, layers=manifest.layers[:-1])


def lie_about_the_classes(manifest: ModelManifest) -> ModelManifest:
    return msgspec.structs.replace(manifest, num_classes=8)


def lie_about_the_inputs(manifest: ModelManifest) -> ModelManifest:
    return msgspec.structs.replace(manifest, input_shape=(6, 101))


@pytest.mark.parametrize(("load", "suffix"), LOADERS)
@pytest.mark.parametrize("lie", [lie_about_a_weight, forget_a_layer, lie_about_the_classes, lie_about_the_inputs])
def test_a_manifest_that_lies_about_shapes_is_refused(
    folder: Path, manifest: ModelManifest, load: Load, suffix: str, lie: Callable[[ModelManifest], ModelManifest]
) -> None:
    with pytest.raises(ManifestError, match=rf"(train|predict)\{suffix} (takes|gives) .*manifest of model 'watch-cnn'"):
        load(folder, lie(manifest))


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    ("inputs", "targets", "reason"),
    [
        (zeros(0, 6, 100), np.zeros(0, np.int64), "the batch is empty"),
        (zeros(2, 6, 99), np.zeros(2, np.int64), r"the inputs are float32 \(2, 6, 99\)"),
        (zeros(6, 100), np.zeros(6, np.int64), r"expects float32 \(batch, 6, 100\)"),
        (zeros(2, 6, 100).astype(np.float64), np.zeros(2, np.int64), "the inputs are float64"),
        (zeros(2, 6, 100), np.zeros(3, np.int64), r"the targets are int64 \(3\)"),
        (zeros(2, 6, 100), np.zeros(2, np.int32), "the targets are int32"),
        (zeros(2, 6, 100), np.array([0, 7]), "target 7 is no class of model 'watch-cnn', which knows 0 to 6"),
        (zeros(2, 6, 100), np.array([-1, 0]), "target -1 is no class"),
    ],
)
def test_a_wrong_batch_is_refused_in_one_line(
    exported: Exporter, runtime: str, inputs: np.ndarray, targets: np.ndarray, reason: str
) -> None:
    model = exported("watch-cnn")
    with pytest.raises(ProgramError, match=reason):
        model.load(runtime).train_step(model.params(), inputs, targets)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_params_of_another_model_are_refused(exported: Exporter, runtime: str) -> None:
    model = exported("watch-cnn")
    program, params = model.load(runtime), model.params()
    with pytest.raises(ProgramError, match=r"parameter 'fc1.bias' is float32 \(63\).*expects float32 \(64\)"):
        program.predict({**params, "fc1.bias": zeros(63)}, zeros(1, 6, 100))
    del params["head.weight"]
    with pytest.raises(ProgramError, match=r"lack 'head.weight'"):
        program.predict(params, zeros(1, 6, 100))


TRAIN_WITHOUT_TORCH = """
import sys
from pathlib import Path
import numpy as np
from edge_client.runtimes import choose_runtime, load_program
from wire.manifest import decode_manifest
folder, runtime = Path(sys.argv[1]), sys.argv[2]
manifest = decode_manifest((folder / "manifest.json").read_bytes())
params = {spec.name: np.full(spec.shape, 0.01, np.float32) for spec in manifest.parameters}
batch = np.ones((3, *manifest.input_shape), np.float32), np.array([0, 1, 2])
assert choose_runtime(runtime) == runtime
assert np.isfinite(load_program(runtime, folder, manifest).train_step(params, *batch).loss)
print(*sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "onnx", "executorch", "onnxscript"}))
"""


@pytest.mark.parametrize("runtime", ["onnx", "executorch"])
def test_a_device_trains_without_torch_and_without_a_word_on_standard_error(exported: Exporter, runtime: str) -> None:
    if runtime == "executorch":
        load_natively()
    command = [sys.executable, "-W", "error", "-c", TRAIN_WITHOUT_TORCH, str(exported("watch-cnn").folder), runtime]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert ran.stdout.strip() == ""
    assert ran.stderr == ""
