"""Smaller programs for chosen layers: their gradients are those of the whole program, and a device takes the smallest that serves."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from edge_client.dataset import Dataset, Split
from edge_client.executorch_program import load_executorch_program
from edge_client.onnx_program import load_onnx_program
from edge_client.program import TrainingProgram
from edge_client.training import RoundWork, check_plan, run_round
from export.model_check import check_model
from export.model_folder import export_program
from export.models import load_model
from export.verify import draw_batch
from tests.export.cases import CASES
from wire.errors import ExportError, ManifestError, WireError
from wire.manifest import ModelManifest, decode_manifest, encode_manifest
from wire.messages import RoundPlan, TrainingSettings
from wire.tensors import flatten_layer

PARTIALS = (("head",), ("pointwise", "head"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("partial") / "program"
    export_program(CASES["separable"].build(), "separable", folder, PARTIALS)
    return folder


@pytest.fixture
def manifest(folder: Path) -> ModelManifest:
    return decode_manifest((folder / "manifest.json").read_bytes())


def load(runtime: str, folder: Path, manifest: ModelManifest, *layers: str) -> TrainingProgram:
    if runtime == "onnx":
        return load_onnx_program(folder, manifest, layers)
    return load_executorch_program(folder, manifest, layers=layers)


def plan_for(manifest: ModelManifest, *trained: str) -> RoundPlan:
    return RoundPlan(
        fleet="home",
        epoch=0,
        round_number=1,
        model_id="0" * 64,
        shared_layers=dict.fromkeys(manifest.layer_names, "0" * 64),
        personal_layers={},
        training=TrainingSettings(trained_layers=trained),
        sketch_seed=0,
        sketch_width=16,
        duration_s=60,
    )


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnx", "executorch"])
@pytest.mark.parametrize("layers", PARTIALS)
def test_a_partial_program_gives_the_whole_ones_gradients_and_statistics(
    folder: Path, manifest: ModelManifest, runtime: str, layers: tuple[str, ...]
) -> None:
    torch.manual_seed(1)
    checked = check_model(CASES["separable"].build())
    params = {name: values.numpy() for name, values in checked.initial_values().items()}
    batch = draw_batch(checked, 9, torch.Generator().manual_seed(0))
    whole = load(runtime, folder, manifest).train_step(params, *batch)
    part = load(runtime, folder, manifest, *layers).train_step(params, *batch)
    assert part.gradients.keys() == {it.name for name in layers for it in manifest.layer(name).parameters}
    assert part.statistics.keys() == whole.statistics.keys()
    assert part.loss == pytest.approx(whole.loss, rel=1e-6)
    for name, values in {**part.gradients, **part.statistics}.items():
        np.testing.assert_allclose(values, {**whole.gradients, **whole.statistics}[name], rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_a_smaller_program_is_smaller_and_the_smallest_that_serves_is_taken(
    folder: Path, manifest: ModelManifest
) -> None:
    assert manifest.partials == PARTIALS
    assert [manifest.program_for(layers)[0] for layers in (["head"], ["pointwise"], ["norm1"], [])] == [
        "train-1",
        "train-2",
        "train",
        "train",
    ]
    for suffix in ("onnx", "pte"):
        sizes = [(folder / f"{stem}.{suffix}").stat().st_size for stem in ("train-1", "train-2", "train")]
        assert sizes == sorted(sizes)
        assert sizes[0] < sizes[2]


@pytest.mark.slow
@pytest.mark.parametrize("stem", ["train", "train-1"])
def test_a_round_that_trains_the_head_moves_nothing_else(folder: Path, manifest: ModelManifest, stem: str) -> None:
    torch.manual_seed(1)
    checked = check_model(CASES["separable"].build())
    params = {name: values.numpy() for name, values in checked.initial_values().items()}
    installed = {layer.name: flatten_layer(layer, params) for layer in manifest.layers}
    splits = [Split(*draw_batch(checked, 20, torch.Generator().manual_seed(seed))[:2]) for seed in range(2)]
    program = load("onnx", folder, manifest, *([] if stem == "train" else ["head"]))
    work = RoundWork(plan_for(manifest, "head"), "attic", installed, None)
    outcome = run_round(program, Dataset(splits[0], splits[1], None), work)
    moved = {name for name, values in outcome.own.items() if (values != installed[name]).any()}
    assert moved == {"head", "norm1.statistics", "norm2.statistics"}


def test_a_plan_that_trains_a_layer_that_the_model_lacks_is_refused(manifest: ModelManifest) -> None:
    with pytest.raises(WireError, match=r"would train \['tail'\], which the model lacks"):
        check_plan(plan_for(manifest, "tail"), manifest)


def test_layers_that_are_not_there_are_named() -> None:
    for layers in (["tail"], ["norm1.statistics"]):
        with pytest.raises(ExportError, match=rf"no layer to train is called '{layers[0]}'; the model has conv1, "):
            export_program(load_model("watch-cnn"), "watch-cnn", Path("nowhere"), [layers])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"partials": [["tail"]]}, "a partial program trains 'tail', which is no layer"),
        ({"files": {"train-0.onnx": {"sha256": "0" * 64, "size_bytes": 1}}}, "not a manifest"),
        ({"files": {"../train.onnx": {"sha256": "0" * 64, "size_bytes": 1}}}, "not a manifest"),
    ],
)
def test_a_manifest_with_other_partials_or_files_is_refused(
    manifest: ModelManifest, changes: dict[str, object], reason: str
) -> None:
    fields = {**json.loads(encode_manifest(manifest)), **changes}
    with pytest.raises(ManifestError, match=reason):
        decode_manifest(msgspec.json.encode(fields))
