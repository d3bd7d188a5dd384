"""``fedlag bench step``: a row for every runtime, and the same figures as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from simulations.bench.step_models import STEP_MODELS
from simulations.bench.stepping import RUNTIMES

ROOT = Path(__file__).parents[3]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "fedlag.py", "bench", "step", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300, check=False)


@pytest.mark.slow
def test_a_model_is_timed_on_every_runtime_beside_torch() -> None:
    done = bench("--model", "perceptron", "--steps", "5", "--batch", "4", "--format", "json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["runtime"] for row in rows] == [name for name in RUNTIMES if f"{name} is left out" not in done.stderr]
    for row in rows:
        assert row["model"] == "perceptron"
        assert row["batch"] == 4
        assert row["ms_per_step"] > 0
        assert row["ratio_to_torch"] == pytest.approx(row["ms_per_step"] / rows[0]["ms_per_step"])
    memory = {row["runtime"]: row["resident_mb"] for row in rows}
    assert memory["onnx"] < memory["torch"] / 2, "a device without torch stays light"


def test_a_model_that_is_not_there_is_named() -> None:
    done = bench("--model", "resnet")
    assert done.returncode != 0
    assert f"there is no model 'resnet' to time; take one of {', '.join(STEP_MODELS)}" in " ".join(done.stderr.split())
