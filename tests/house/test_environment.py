"""The environment is made once, renewed when its pins change, and never half trusted."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

Runs = list[tuple[str, ...]]


@pytest.fixture
def environment(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """``scripts/environment.py``, at work in an empty project with two pins."""
    spec = importlib.util.spec_from_file_location("environment", root / "scripts/environment.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "requirements.txt").write_text("pip==26.3\ntorch==2.13.0 ; python_version > '3'\n")
    (tmp_path / "pyproject.toml").write_text("")
    here = {"ROOT": tmp_path, "VENV": tmp_path / ".venv", "STAMP": tmp_path / ".venv/stamp"}
    for name, value in {**here, "PINS": tmp_path / "requirements.txt"}.items():
        monkeypatch.setattr(module, name, value)
    return module


@pytest.fixture
def installed(environment: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """What is installed, and "venv" where an environment is made, instead of doing it."""
    runs: Runs = []

    class Builder:
        def __init__(self, **_: bool) -> None: ...

        def create(self, folder: Path) -> None:
            assert folder == environment.VENV
            runs.append(("venv",))

    monkeypatch.setattr(environment.venv, "EnvBuilder", Builder)
    monkeypatch.setattr(environment, "install", lambda *arguments: runs.append(arguments))
    monkeypatch.setattr(environment, "would_install", lambda *_: {"torch": "2.13.0+cpu"})
    return runs


def test_a_first_run_makes_everything_and_a_second_one_nothing(environment: ModuleType, installed: Runs) -> None:
    environment.make_environment()
    assert installed[0] == ("venv",)
    assert [run[-1] for run in installed[1:4]] == ["pip==26.3", "torch==2.13.0", str(environment.PINS)]
    assert "--editable" in installed[4]
    installed.clear()
    environment.make_environment()
    assert installed == []


def test_a_changed_pin_is_installed_over_the_environment(environment: ModuleType, installed: Runs) -> None:
    environment.make_environment()
    installed.clear()
    environment.PINS.write_text("pip==26.3\ntorch==2.14.0\n")
    environment.make_environment()
    assert [run[-1] for run in installed] == ["torch==2.14.0", str(environment.PINS), str(environment.ROOT)]


def test_another_python_makes_it_anew(
    environment: ModuleType, installed: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment.make_environment()
    installed.clear()
    monkeypatch.setattr(environment, "home", lambda: "another")
    environment.make_environment()
    assert installed[0] == ("venv",)


@pytest.mark.parametrize("failing", [1, 2, 3, 4])
def test_an_interrupted_install_is_made_anew(
    environment: ModuleType, installed: Runs, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    def interrupted(*_: str) -> None:
        installed.append(())
        if len(installed) == failing + 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(environment, "install", interrupted)
        with pytest.raises(KeyboardInterrupt):
            environment.make_environment()
    (environment.VENV / "half.py").write_text("")
    installed.clear()
    environment.make_environment()
    assert installed[0] == ("venv",)
    assert not (environment.VENV / "half.py").exists()


def test_an_environment_of_somebody_else_is_left_alone(environment: ModuleType, installed: Runs) -> None:
    environment.VENV.mkdir()
    (environment.VENV / "pyvenv.cfg").write_text("theirs")
    with pytest.raises(SystemExit, match="was not made by scripts/"):
        environment.make_environment()
    assert installed == []
    assert (environment.VENV / "pyvenv.cfg").read_text() == "theirs"


def offers(index: dict[str, str], own: dict[str, str]) -> Callable[..., dict[str, str]]:
    """What pip would take from PyTorch's own index, and from its own."""
    return lambda _, *arguments: index if "--index-url" in arguments else own


CPU, CUDA = {"torch": "2.13.0+cpu"}, {"torch": "2.13.0", "nvidia-cudnn-cu13": "9.2", "triton": "3.7"}
PLAIN = {"torch": "2.13.0", "sympy": "1.14"}


def test_torch_comes_from_pytorch_where_that_can_be_reached(
    environment: ModuleType, installed: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "would_install", offers(CPU, CUDA))
    environment.install_torch("2.13.0")
    assert installed == [("--no-deps", "--index-url", environment.CPU_INDEX, "torch==2.13.0")]


@pytest.mark.parametrize("index", [{}, {"torch": "2.13.0"}])
@pytest.mark.parametrize("own", [CPU, PLAIN])
def test_torch_comes_from_pips_index_where_that_brings_no_cuda(
    environment: ModuleType, installed: Runs, monkeypatch: pytest.MonkeyPatch, index: Any, own: Any
) -> None:
    monkeypatch.setattr(environment, "would_install", offers(index, own))
    environment.install_torch("2.13.0")
    assert installed == [("--no-deps", "torch==2.13.0")]


def test_cuda_is_taken_only_by_those_who_ask(
    environment: ModuleType, installed: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "would_install", offers({}, CUDA))
    monkeypatch.delenv("FEDLAG_ALLOW_CUDA", raising=False)
    with pytest.raises(SystemExit, match="FEDLAG_ALLOW_CUDA=1"):
        environment.install_torch("2.13.0")
    assert installed == []
    monkeypatch.setenv("FEDLAG_ALLOW_CUDA", "1")
    environment.install_torch("2.13.0")
    assert installed == [("torch==2.13.0",)]


@pytest.mark.parametrize("version", [(3, 10, 13), (3, 15, 0)])
def test_a_python_that_cannot_run_the_pins_is_told_so(
    environment: ModuleType, monkeypatch: pytest.MonkeyPatch, version: tuple[int, ...]
) -> None:
    monkeypatch.setattr(sys, "version_info", version)
    assert "name another one, as in PYTHON=python3.12" in environment.refuse_python()


def test_a_python_without_ensurepip_is_told_what_to_install(
    environment: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert environment.refuse_python() is None
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    assert "apt install python3." in environment.refuse_python()


@pytest.mark.parametrize(
    "script",
    [
        "scripts/check",
        "scripts/cross-check-aarch64",
        "scripts/demo",
        "scripts/lock",
        "scripts/test",
        ".ci/run",
    ],
)
def test_a_script_can_be_run_and_parsed(root: Path, script: str) -> None:
    assert os.access(root / script, os.X_OK)
    shell = "bash" if script == ".ci/run" else "sh"
    assert subprocess.run([shell, "-n", str(root / script)], check=False).returncode == 0
