"""What is installed is what is pinned; what is built is the product and nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

RAY_PINS = "tests/simulations/rounds/ray_pins.txt"  # its test alone installs it
UNUSED_CODE = {"seglearn"}  # its data file is read; what its code imports is not installed


def pins(root: Path, file: str = "requirements.txt") -> dict[NormalizedName, Requirement]:
    lines = (line.partition("#")[0].strip() for line in (root / file).read_text().splitlines())
    requirements = [Requirement(line) for line in lines if line]
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


def direct(pyproject: dict[str, Any]) -> list[Requirement]:
    project = pyproject["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    return [requirement for requirement in map(Requirement, lines) if requirement.name != project["name"]]


def test_every_dependency_is_pinned_to_a_version_that_it_admits(root: Path, pyproject: dict[str, Any]) -> None:
    pinned = pins(root, RAY_PINS) | pins(root)
    for requirement in direct(pyproject):
        exact = str(pinned[canonicalize_name(requirement.name)].specifier)
        assert exact.startswith("=="), requirement
        assert requirement.specifier.contains(exact.removeprefix("==")), requirement


def test_what_is_installed_is_what_is_pinned(root: Path) -> None:
    here = {name: pin for name, pin in pins(root).items() if pin.marker is None or pin.marker.evaluate()}
    assert {name: version(name) for name, pin in here.items() if not pin.specifier.contains(version(name))} == {}


def test_the_pins_are_all_that_the_installed_need(root: Path) -> None:
    installed = {canonicalize_name(it.name): it for it in distributions()}
    for name in pins(root).keys() & installed.keys() - UNUSED_CODE:
        for need in map(Requirement, installed[name].requires or []):
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                found = installed[canonicalize_name(need.name)].version
                assert need.specifier.contains(found, prereleases=True), f"{name} needs {need}, not {found}"


@pytest.mark.slow
def test_torch_is_the_cpu_build() -> None:
    import torch  # noqa: PLC0415 - seconds, for this test alone

    assert torch.version.cuda is None


def test_no_dependency_owns_a_name_of_ours(rooms: list[str]) -> None:
    ours = {"fedlag", "fedlag.py", *rooms}
    owners = {}
    for installed in distributions():
        if canonicalize_name(installed.name) != "fedlag-edge":
            owners[installed.name] = ours & {file.parts[0] for file in installed.files or []}
    assert {name: owned for name, owned in owners.items() if owned} == {}


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of the files in the wheel, built from a copy of the tree without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    skipped = shutil.ignore_patterns(".git", ".venv", "__pycache__", "*_cache", "*.egg-info", "build", "demo-results")
    shutil.copytree(root, folder / "tree", ignore=skipped)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    done = subprocess.run([*build, str(folder), str(folder / "tree")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        return set(archive.namelist())


@pytest.mark.slow
def test_the_wheel_holds_the_product_and_nothing_else(
    wheel: set[str], root: Path, files: list[Path], rooms: list[str]
) -> None:
    product = {
        str(file.relative_to(root)) for file in files if file.relative_to(root).parts[0] in {*rooms, "fedlag.py"}
    }
    packed = {name for name in wheel if not re.match(r"fedlag_edge-[^/]+\.dist-info/", name)}
    assert packed == product


@pytest.mark.slow
def test_the_wheel_holds_the_license(wheel: set[str]) -> None:
    assert any(name.endswith("licenses/LICENSE") for name in wheel)
