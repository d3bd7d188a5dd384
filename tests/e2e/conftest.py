"""One exported program for all, and a home for each."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.home import Home


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("program") / "digits-mlp"
    subprocess.run([sys.executable, "-m", "fedlag", "export", "digits-mlp", "-o", str(folder)], check=True)
    return folder


@pytest.fixture
def home(tmp_path: Path, program: Path) -> Iterator[Home]:
    place = Home(tmp_path, program)
    place.broker.start()
    yield place
    place.close()
