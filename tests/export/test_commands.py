from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from export.commands import main
from export.model_folder import write_initial_values
from export.models import built_in_models, load_model
from wire.manifest import decode_manifest, encode_manifest

FACTORY = """
from torch import nn
from export.models import TrainableModel

def small():
    return TrainableModel(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), input_shape=(4,), num_classes=2)
"""


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    code = ended.value.code
    assert isinstance(code, int)
    return code


@pytest.mark.slow
def test_a_model_of_ones_own_is_exported_twice_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_models.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", sys.path.copy())
    assert run("my_models:small", "-o", "program", "--seed", "3", "--format", "json") == 0
    report = json.loads(capsys.readouterr().out)
    folder = tmp_path / "program"
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(first) == {
        "manifest.json",
        "train.onnx",
        "predict.onnx",
        "train.pte",
        "predict.pte",
        "initial.safetensors",
    }
    manifest = decode_manifest(first["manifest.json"])
    assert encode_manifest(manifest) == first["manifest.json"]
    assert manifest.model == report["manifest"]["model"] == "my_models:small"
    assert manifest.layer_names == ("0", "2")
    assert [verification["runtime"] for verification in report["verifications"]] == ["onnx", "executorch"]
    assert str(tmp_path).encode() not in b"".join(first.values())

    assert run("my_models:small", "-o", "program", "--seed", "3") == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
    text = capsys.readouterr().out
    for expected in ("relative error against autograd", "executorch", "train.pte", "initial.safetensors"):
        assert expected in text


def test_a_seed_gives_the_same_initial_values_and_leaves_torchs_generator_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    paths = [tmp_path / f"{name}.safetensors" for name in ("a", "b", "c")]
    for path, seed in zip(paths, (1, 1, 2), strict=True):
        write_initial_values("watch-cnn", seed, path)
    assert torch.rand(1) == expected
    a, b, c = (path.read_bytes() for path in paths)
    assert a == b != c
    values = safetensors.numpy.load_file(paths[0])
    assert list(values) == sorted(name for name, _ in load_model("watch-cnn").module.named_parameters())
    assert not values["conv1.bias"].any()
    bound = np.sqrt(3 / 30)
    assert 0.9 * bound < np.abs(values["conv1.weight"]).max() <= bound


@pytest.mark.parametrize("name", built_in_models())
def test_a_built_in_model_gives_logits(name: str) -> None:
    model = load_model(name)
    assert model.module(torch.zeros(2, *model.input_shape)).shape == (2, model.num_classes)
