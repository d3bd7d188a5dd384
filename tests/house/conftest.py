"""The tree as the tests of the house see it."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOT_OURS = {".git", ".venv", ".hypothesis", "__pycache__", "build", "demo-results", "dist", "node_modules"}


def walk(folder: Path) -> list[Path]:
    """All files of the project, in order, without what is built or installed."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if name not in NOT_OURS and not name.endswith(("_cache", ".egg-info"))
        )
        found += [Path(place, name) for name in sorted(names)]
    return found


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def files() -> list[Path]:
    return walk(ROOT)


@pytest.fixture(scope="session")
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="session")
def rooms() -> list[str]:
    """The product's packages: every folder of the root that can be imported."""
    return sorted(folder.parent.name for folder in ROOT.glob("*/__init__.py"))


@pytest.fixture(scope="session")
def product(files: list[Path], rooms: list[str]) -> list[Path]:
    """The product's modules."""
    ours = {*rooms, "fedlag.py"}
    return [file for file in files if file.suffix == ".py" and file.relative_to(ROOT).parts[0] in ours]
