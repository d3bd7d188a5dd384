"""Every command that the documentation gives is run here, and every option that it explains exists."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest
from onnxruntime import InferenceSession
from safetensors.numpy import load_file

from aggregator.config import AggregatorConfig, AveragingSettings, RoundSettings
from aggregator.keeping.store import FleetStore
from broker.embedded import free_port
from edge_client.config import EdgeConfig
from wire.broker_address import BrokerAddress
from wire.messages import TrainingSettings
from wire.settings import load_settings

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
BY_HAND = ROOT / "examples" / "by-hand"
BIN = Path(sys.executable).parent


def commands(page: Path) -> list[list[str]]:
    """Return the commands in a page's shell blocks, in order."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def test_the_readme_sets_up_with_two_commands_and_names_the_one_behind_its_figures() -> None:
    assert commands(ROOT / "README.md") == [["scripts/demo"], ["scripts/test"], ["scripts/demo", "--seeds", "5"]]


@pytest.mark.parametrize("seeds", [1, 2])
def test_the_demo_prints_what_its_report_shows(tmp_path: Path, seeds: int) -> None:
    number, output = str(seeds), str(tmp_path / "results")
    arguments = ["--rounds", "2", "--seeds", number, "--format", "json", "--output", output]
    result = subprocess.run([BIN / "fedlag", "demo", *arguments], capture_output=True, timeout=280, check=False)
    assert result.returncode == 0, result.stderr.decode()
    printed = json.loads(result.stdout)
    assert printed == json.loads((tmp_path / "results" / "results.json").read_text())
    assert set(printed["arms"]) == {"fedavg", "local", "fedlag-paper", "fedlag-swap"}
    report = (tmp_path / "results" / "report.html").read_text()
    assert "BSD 3-clause" in report
    assert "person-10-right" in report
    if seeds == 1:
        for arm in printed["arms"].values():
            assert 0 <= arm["worst_test_accuracy"] <= arm["mean_test_accuracy"] <= 1
            assert arm["bytes_up_per_device"] > 0
            assert len(arm["devices"]) == 20
            assert sum(device["runtime"] == "executorch" for device in arm["devices"]) == 2
        assert printed["arms"]["local"]["personal_layers"] == ["conv1", "conv2", "conv3", "fc1", "head"]
        assert printed["arms"]["fedavg"]["personal_layers"] == []


def test_the_fleet_by_hand_runs_as_its_page_says(tmp_path: Path) -> None:
    shutil.copytree(BY_HAND, tmp_path / "home")
    home, port = tmp_path / "home", str(free_port())
    for config in home.glob("*.toml"):
        config.write_text(config.read_text().replace("1883", port))
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    running: list[subprocess.Popen[bytes]] = []
    try:
        for words in commands(home / "README.md"):
            arguments = [word.replace("1883", port) for word in words]
            if words[0] == "python" or words[1] in {"export", "aggregator"} or words[2] == "export-model":
                subprocess.run(arguments, cwd=home, env=environment, timeout=200, check=True)
            else:
                running.append(subprocess.Popen(arguments, cwd=home, env=environment, stdout=subprocess.DEVNULL))
    finally:
        for child in reversed(running):
            child.send_signal(signal.SIGINT)
        codes = [child.wait(timeout=30) for child in running]
    assert codes == [0, 0, 0]
    assert load_file(home / "attic-model.safetensors")["head.weight"].shape == (10, 32)
    session = InferenceSession(home / "attic-model.onnx", providers=["CPUExecutionProvider"])
    assert session.run(["logits"], {"x": np.zeros((3, 64), np.float32)})[0].shape == (3, 10)
    with closing(FleetStore(home / "aggregator")) as store:
        reports = store.reports()
    assert len(reports) == 31
    assert min(figures.test.accuracy for figures in reports[-1].counted.values() if figures.test) > 0.5


def test_the_configurations_in_the_documentation_are_whole_and_current(tmp_path: Path) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "configuration.md").read_text(), flags=re.DOTALL)
    device, aggregator = blocks
    (tmp_path / "device.toml").write_text(device)
    (tmp_path / "aggregator.toml").write_text(aggregator)
    load_settings(tmp_path / "device.toml", EdgeConfig)
    load_settings(tmp_path / "aggregator.toml", AggregatorConfig)
    explained = tomllib.loads(aggregator)
    assert set(tomllib.loads(device)) == set(EdgeConfig.__struct_fields__)
    assert set(explained) == set(AggregatorConfig.__struct_fields__)
    for broker in (explained["broker"], tomllib.loads(device)["broker"]):
        assert set(broker) == set(BrokerAddress.__struct_fields__)
    assert set(explained["rounds"]) == set(RoundSettings.__struct_fields__)
    assert set(explained["averaging"]) == set(AveragingSettings.__struct_fields__)
    assert set(explained["training"]) == set(TrainingSettings.__struct_fields__) - {"seed"}
    defaults = {name: value for name, value in msgspec.to_builtins(TrainingSettings()).items() if name != "seed"}
    unset = {"optimizer": "sgd", "nesterov": False, "weight_decay": 0.0, "proximal": 0.0, "trained_layers": []}
    assert explained["training"] == defaults | unset
