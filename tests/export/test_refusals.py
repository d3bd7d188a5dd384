"""Models that cannot be trained on devices, each refused by name and before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from export import rewrites
from export.model_check import check_model
from export.model_folder import export_program
from export.models import TrainableModel, load_model
from wire.errors import ExportError

aten = torch.ops.aten


class Applied(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


class Scaled(nn.Module):
    x: nn.Parameter

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.x


def frozen() -> nn.Module:
    module = nn.Sequential(nn.Linear(4, 4))
    module[0].bias.requires_grad = False
    return module


def with_unused_layer() -> nn.Module:
    module = Applied(nn.Linear(4, 4))
    module.add_module("unused", nn.Linear(2, 2))
    return module


def with_parameter_x() -> nn.Module:
    module = Scaled()
    module.register_parameter("x", nn.Parameter(torch.ones(1)))
    return module


CHECKED: dict[str, Callable[[], nn.Module]] = {
    "the model has no parameters": nn.Flatten,
    "parameter '0.weight' is torch.float16; only float32": lambda: nn.Sequential(nn.Linear(4, 4).half()),
    "parameter '0.weight' is torch.float64; only float32": lambda: nn.Sequential(nn.Linear(4, 4).double()),
    "parameter '1' is torch.int64; only float32": lambda: nn.ParameterList(
        [nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4, dtype=torch.int64), requires_grad=False)]
    ),
    "parameter '0.bias' does not require a gradient": frozen,
    "parameter 'unused.weight' takes no part in the loss": with_unused_layer,
    "parameter 'x' has the name of an input": with_parameter_x,
    r"the model gives \(2, 5\) for a batch of 2; it must give logits \(2, 4\)": lambda: nn.Linear(4, 5),
    r"the model cannot run on inputs of shape \(batch, 4\)": lambda: nn.Linear(5, 4),
    "buffer '1.running_mean' of InstanceNorm1d changes in training.*use GroupNorm": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 2)), nn.InstanceNorm1d(2, affine=True, track_running_stats=True), nn.Flatten()
    ),
    "batch norm '1' has no running statistics.*give it track_running_stats=True": lambda: nn.Sequential(
        nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False)
    ),
    "batch norm '1' counts its batches.*give it a momentum": lambda: nn.Sequential(
        nn.Linear(4, 4), nn.BatchNorm1d(4, momentum=None)
    ),
    r"a dropout is given a tensor of shape \(4, 2\).*whose first dimension is not the batch": lambda: nn.Sequential(
        nn.Linear(4, 4), Applied(lambda x: x.T), nn.Dropout(), Applied(lambda x: x.T)
    ),
    "a dropout drops values with probability 1; take one above 0 and below 1": lambda: nn.Sequential(
        nn.Linear(4, 4), nn.Dropout(1.0)
    ),
}


@pytest.mark.parametrize("reason", CHECKED)
def test_a_model_that_cannot_be_trained_on_devices_is_refused(reason: str) -> None:
    with pytest.raises(ExportError, match=reason):
        check_model(TrainableModel(CHECKED[reason](), input_shape=(4,), num_classes=4))


def test_a_check_leaves_buffers_as_they_were() -> None:
    norm = nn.BatchNorm1d(4)
    module = nn.Sequential(nn.Linear(4, 4), norm)
    checked = check_model(TrainableModel(module, input_shape=(4,), num_classes=4))
    assert checked.statistics == ["1.running_mean", "1.running_var"]
    assert norm.running_mean is not None
    assert torch.equal(norm.running_mean, torch.zeros(4))
    assert norm.num_batches_tracked == 0


def test_tied_parameters_belong_to_the_first_module_that_has_them() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    module[1].weight = module[0].weight
    checked = check_model(TrainableModel(module, input_shape=(4,), num_classes=4))
    assert [(layer.name, [p.name for p in layer.parameters]) for layer in checked.layers] == [
        ("0", ["0.weight", "0.bias"]),
        ("1", ["1.bias"]),
    ]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"loss": "hinge"}, "no loss is called 'hinge'; take one of cross-entropy, binary-cross-entropy, mse, huber"),
        ({"num_classes": 1}, "cross-entropy needs num_classes of at least 2, not 1"),
        ({"positions": (3,)}, r"the model gives \(2, 4\) for a batch of 2; it must give logits \(2, 3, 4\)"),
    ],
)
def test_a_loss_that_does_not_fit_is_refused(changes: dict[str, Any], reason: str) -> None:
    given = {"module": nn.Linear(4, 4), "input_shape": (4,), "num_classes": 4, **changes}
    with pytest.raises(ExportError, match=reason):
        check_model(TrainableModel(**given))


UNSUPPORTED = {
    r"operator aten::native_dropout of module '1' .* draws random numbers": lambda: nn.Sequential(
        nn.Flatten(), Applied(lambda x: torch.native_dropout(x, 0.5, True)[0]), nn.Linear(8, 4)
    ),
    r"operator aten::adaptive_max_pool2d of module '1' \(AdaptiveMaxPool1d\) cannot run": lambda: nn.Sequential(
        nn.Conv1d(2, 2, 1), nn.AdaptiveMaxPool1d(3), nn.Flatten(), nn.Linear(6, 4)
    ),
    "torch cannot trace the model with a batch of any size": lambda: nn.Sequential(
        nn.Flatten(), Applied(lambda x: x * 2 if x.shape[0] > 3 else x), nn.Linear(8, 4)
    ),
    r"branches on values, or its shapes depend on them, at .*test_refusals.py:\d+; .*torch.where": lambda: (
        nn.Sequential(nn.Flatten(), Applied(lambda x: x * 2 if x.sum() > 3 else x), nn.Linear(8, 4))
    ),
    r"operator aten::\w+ .*gives a result whose shape depends on values; take torch.where": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(8, 4), Applied(lambda x: x + x[x > 0].sum())
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("reason", UNSUPPORTED)
def test_an_operator_that_cannot_be_exported_is_named_with_its_module(reason: str, tmp_path: Path) -> None:
    model = TrainableModel(UNSUPPORTED[reason](), input_shape=(2, 4), num_classes=4)
    with pytest.raises(ExportError, match=reason):
        export_program(model, "unsupported", tmp_path / "program")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runtime", "table"), [("onnx", rewrites.ONNX), ("executorch", rewrites.EXECUTORCH)], ids=["onnx", "executorch"]
)
def test_a_gradient_that_is_one_percent_off_is_not_published(
    runtime: str, table: rewrites.Rewrites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = table[aten.convolution_backward.default]

    def wrong(*arguments: object) -> tuple[torch.Tensor | None, ...]:
        x_gradient, weight_gradient, bias_gradient = right(*arguments)
        return x_gradient, weight_gradient * 1.01, bias_gradient

    monkeypatch.setitem(table, aten.convolution_backward.default, wrong)
    module = nn.Sequential()
    module.add_module("conv", nn.Conv1d(2, 3, 2))
    module.add_module("flatten", nn.Flatten())
    module.add_module("head", nn.Linear(9, 4))
    folder = tmp_path / "program"
    folder.mkdir()
    (folder / "manifest.json").write_text("an earlier export")
    with pytest.raises(
        ExportError, match=rf"{runtime} gives the gradient of layer 'conv' of model 'planted' wrong: .*0\.0"
    ):
        export_program(TrainableModel(module, input_shape=(2, 4), num_classes=4), "planted", folder)
    assert [path.name for path in tmp_path.iterdir()] == ["program"]
    assert [path.read_text() for path in folder.iterdir()] == ["an earlier export"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("watch-cmn", "no model is named 'watch-cmn'; take one of digits-mlp, image-cnn, watch-cnn, or your own"),
        ("nowhere.models:small", "cannot import 'nowhere.models': No module named 'nowhere'; install it"),
        ("torch.nn:small", "'torch.nn' has no function 'small'; define it to return a TrainableModel"),
        ("builtins:dict", "builtins:dict returned a dict; return an export.models.TrainableModel"),
    ],
)
def test_a_model_that_is_not_there_is_named(name: str, reason: str) -> None:
    with pytest.raises(ExportError, match=reason):
        load_model(name)
