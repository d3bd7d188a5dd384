"""A device loads what a device needs; the tools of the tests stay outside the product."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import distribution, packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPORT = "print('\\nloaded', *{name.partition('.')[0] for name in sys.modules})"
OPTIONAL = {"typing_extensions"}  # msgspec takes it where it is there
ROLES = {"wire": None, "broker": "aggregator", "edge_client": "edge", "aggregator": "aggregator", "export": "export"}


def loaded_by(code: str, root: Path) -> set[str]:
    """The top-level modules that are loaded once the code has run in a new Python."""
    command = [sys.executable, "-c", f"import sys\n{code}\n{REPORT}"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()[1:])


def command(*arguments: str) -> str:
    return f"import contextlib, fedlag\nsys.argv = {['fedlag', *arguments]}\nwith contextlib.suppress(SystemExit): fedlag.main()"


@pytest.mark.parametrize("verb", ["", "edge", "broker", "aggregator"])
def test_help_loads_no_torch(verb: str, root: Path) -> None:
    loaded = loaded_by(command(*verb.split(), "--help"), root)
    assert "fedlag" in loaded
    assert not loaded & {"torch", "executorch"}


def test_the_list_of_verbs_loads_no_room(root: Path, rooms: list[str]) -> None:
    assert not loaded_by(command("--help"), root) & {*rooms, "numpy", "rich", "typer"} - {"wire"}


def needed(requirements: list[str]) -> set[str]:
    """The distributions that these requirements bring, theirs included."""
    found: set[str] = set()
    waiting = [Requirement(requirement) for requirement in requirements]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in found or not (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        waiting += map(Requirement, distribution(name).requires or [])
    return found


def import_all(room: str, root: Path) -> str:
    """Code that imports every module of a room."""
    files = sorted((root / room).rglob("*.py"))
    names = [".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__") for file in files]
    return f"import {', '.join(names)}"


@pytest.mark.slow
@pytest.mark.parametrize("room", ROLES)
def test_a_room_loads_only_what_its_extra_installs(room: str, root: Path, pyproject: dict[str, Any]) -> None:
    project, role = pyproject["project"], ROLES[room]
    extra = project["optional-dependencies"][role] if role else []
    installed = packages_distributions()
    loaded = loaded_by(import_all(room, root), root) - loaded_by("", root) - OPTIONAL
    owners = {canonicalize_name(installed[name][0]) for name in loaded if name in installed}
    assert owners - needed([*project["dependencies"], *extra]) - {"fedlag-edge"} == set()


@pytest.mark.slow
def test_the_product_runs_without_the_tools_of_its_tests(rooms: list[str], root: Path) -> None:
    absent = "sys.modules.update(dict.fromkeys(['jaxtyping', 'beartype', 'pytest'], None))\n"
    loaded_by(absent + "\n".join(import_all(room, root) for room in rooms if room != "export"), root)
