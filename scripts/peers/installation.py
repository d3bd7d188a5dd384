"""The environment in which other frameworks run: made once, beside the project's own, from exact pins."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import venv
from pathlib import Path

from scripts import environment

__all__ = ["FOLDER", "python_of_peers"]

FOLDER = environment.ROOT / ".peers_cache"  # git, the checks and the build leave out what ends so
PINS = Path(__file__).with_name("requirements.txt")

ADVICE = """\
Flower, Ray and pfl-research could not be installed. They come from PyPI: see that it can be reached, or name a mirror in
PIP_INDEX_URL, or a folder with their wheels in PIP_FIND_LINKS. `--peers serial,pfllib,ours` needs none of them."""


def python_of_peers() -> Path:
    """Return the environment's Python, after making the environment where it is missing or its pins have changed.

    Raises:
        SystemExit: If something cannot be installed, with what pip said and what to do.
    """
    environment.VENV, environment.PINS = FOLDER, PINS  # the same steps, in another place
    python = FOLDER / "bin/python"
    stamp = FOLDER / "stamp.json"
    made_from = {"home": environment.home(), "pins": hashlib.sha256(PINS.read_bytes()).hexdigest()}
    if stamp.exists() and json.loads(stamp.read_text()) == made_from:
        return python
    shutil.rmtree(FOLDER, ignore_errors=True)
    try:
        with environment.step(f"Making {FOLDER.name} with Python {sys.version.split()[0]}"):
            venv.EnvBuilder(with_pip=True, symlinks=True).create(FOLDER)
        with environment.step(f"Installing torch {environment.pinned('torch')} (CPU, about 200 MB)"):
            environment.install_torch(environment.pinned("torch"))
        with environment.step("Installing Flower, Ray and pfl-research (about 250 MB)"):
            environment.install("--no-deps", "--requirement", str(PINS))
    except SystemExit as error:
        sys.exit(f"{error}\n\n{ADVICE}")
    stamp.write_text(json.dumps(made_from))
    return python
