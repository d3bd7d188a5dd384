from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from edge_client.executorch_program import load_executorch_program
from edge_client.executorch_torch import torch_loader
from edge_client.onnx_program import load_onnx_program
from edge_client.program import TrainingProgram
from export.model_check import CheckedModel, check_model
from export.model_folder import ExportReport, export_program
from export.models import TrainableModel
from tests.edge_client.native.compiled import load_natively
from tests.export.cases import CASES

torch.set_num_threads(1)


@dataclass(frozen=True)
class Exported:
    model: TrainableModel
    checked: CheckedModel
    report: ExportReport
    folder: Path

    def load(self, runtime: str) -> TrainingProgram:
        """Load it in ``onnx``, ``executorch`` (without torch) or ``executorch-torch``."""
        if runtime == "onnx":
            return load_onnx_program(self.folder, self.report.manifest)
        load = torch_loader() if runtime == "executorch-torch" else load_natively()
        return load_executorch_program(self.folder, self.report.manifest, load)

    def params(self) -> dict[str, np.ndarray]:
        return {name: values.numpy().copy() for name, values in self.checked.initial_values().items()}


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """Exports each model once."""

    @cache
    def export(name: str) -> Exported:
        torch.manual_seed(1)
        model = CASES[name].build()
        folder = tmp_path_factory.mktemp("exported") / "program"
        return Exported(model, check_model(model), export_program(model, name, folder), folder)

    return export
