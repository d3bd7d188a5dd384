"""A device trains on the runtime that it was told to use, or says why not."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edge_client.agent import Agent, Workshop
from edge_client.config import EdgeConfig
from edge_client.runtimes import choose_runtime
from wire.messages import DeviceStatus


@pytest.fixture
def without_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)


@pytest.fixture
def without_executorch(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = {name for name in sys.modules if name.partition(".")[0] == "executorch"}
    for name in {"executorch", *loaded}:
        monkeypatch.setitem(sys.modules, name, None)


def test_onnx_runtime_is_taken_as_it_is_wanted(caplog: pytest.LogCaptureFixture) -> None:
    assert choose_runtime("onnx") == "onnx"
    assert caplog.records == []


@pytest.mark.usefixtures("without_executorch")
def test_without_executorch_onnx_runtime_is_taken_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert choose_runtime("executorch") == "onnx"
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    said = record.getMessage()
    assert said.startswith("ONNX Runtime is used instead of ExecuTorch: ")
    assert "pip install --no-deps executorch==" in said
    assert "docs/install.md" in said


@pytest.mark.usefixtures("without_compiler", "without_executorch")
def test_a_device_without_executorch_asks_its_fleet_for_the_onnx_program(tmp_path: Path) -> None:
    (tmp_path / "data.npz").touch()
    config = EdgeConfig(
        fleet="home", device_id="pi", data=tmp_path / "data.npz", folder=tmp_path / "state", runtime="executorch"
    )
    with ThreadPoolExecutor() as executor:
        agent = Agent(config, Workshop(executor))
    last_words = agent._lost().message
    assert isinstance(last_words, DeviceStatus)
    assert last_words.runtime == "onnx"


@pytest.mark.slow
@pytest.mark.usefixtures("without_compiler")
def test_without_a_compiler_executorch_runs_through_torch(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert choose_runtime("executorch") == "executorch"
    assert "ExecuTorch runs through torch, in more memory: there is no C++ compiler" in caplog.text
