"""Run a command in the project's own environment, which is made first where it is missing.

Usage: ``python3 scripts/environment.py COMMAND [ARGUMENT ...]``

The environment is ``.venv`` beside ``pyproject.toml``: the pins of ``requirements.txt``, torch's CPU build, and the
project itself, editable. Its stamp says what it was made from: a stamp that fits is used at once, changed pins are
installed over it, and one that was interrupted, or made by another Python or in another folder, is made anew.
Needs Python >= 3.11 with venv, and nothing else.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "fedlag-stamp.json"
PINS = ROOT / "requirements.txt"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
CUDA_PACKAGES = ("nvidia-", "cuda-", "triton")
OLDEST, TOO_NEW = (3, 11), (3, 15)


def refuse_python() -> str | None:
    """Return what is wrong with this Python, and what to do, or None."""
    version = ".".join(map(str, sys.version_info[:3]))
    if not OLDEST <= sys.version_info[:2] < TOO_NEW:
        return (
            f"Python 3.11 to 3.14 is needed, {sys.executable} is {version}: name another one, as in PYTHON=python3.12"
        )
    try:
        import ensurepip  # noqa: F401, PLC0415 - Debian ships venv without it
    except ImportError:
        package = "python{}.{}-venv".format(*sys.version_info[:2])
        return f"{sys.executable} cannot make environments: install its venv module, as in apt install {package}"
    return None


def home() -> str:
    """Return what an environment cannot outlive: the Python that made it and the folder that it lies in."""
    return f"{sys.version} {ROOT}"


def pins_digest() -> str:
    """Return the digest of all that says what is installed."""
    files = (PINS, ROOT / "pyproject.toml", Path(__file__).resolve())
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def read_stamp() -> dict[str, str] | None:
    """Return what the environment was made from: empty where it was not finished, None where it is not ours."""
    try:
        stamp = json.loads(STAMP.read_text())
    except FileNotFoundError:
        return {} if not VENV.exists() or not any(VENV.iterdir()) else None
    except ValueError:
        return {}
    return stamp if isinstance(stamp, dict) else {}


def pip(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the environment's pip; its output is kept for when it fails."""
    command = [str(VENV / "bin/python"), "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    return subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, cwd=ROOT)


@contextmanager
def step(what: str) -> Iterator[None]:
    """Say what is being done, and how long it took."""
    started_s = time.monotonic()
    print(f"{what} ...", end=" ", flush=True, file=sys.stderr)
    yield
    print(f"{time.monotonic() - started_s:.0f} s", file=sys.stderr)


def install(*arguments: str) -> None:
    """Install, or end with all that pip said."""
    done = pip("install", *arguments)
    if done.returncode:
        said = "\n".join(line for line in done.stdout.splitlines() if not line.startswith("Requirement already"))
        sys.exit(f"failed\n{said}\npip install {' '.join(arguments)} failed; its reasons stand above")


def pinned(name: str) -> str:
    """Return the pinned version of one distribution."""
    found = re.search(rf"^{re.escape(name)}==([^\s;]+)", PINS.read_text(), re.MULTILINE)
    if found is None:
        sys.exit(f"{PINS} does not pin {name}; make it again with scripts/lock")
    return found[1]


def would_install(requirement: str, *arguments: str) -> dict[str, str]:
    """Return the names and versions that pip would take, empty where it finds none."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        pip("install", "--dry-run", "--ignore-installed", "--report", str(report), *arguments, requirement)
        if not report.exists():
            return {}
        metadata = [item["metadata"] for item in json.loads(report.read_text())["install"]]
        return {item["name"]: item["version"] for item in metadata}


def install_torch(version: str) -> None:
    """Install torch's CPU build: from PyTorch's own index, or from pip's where that brings no CUDA."""
    requirement = f"torch=={version}"
    quick = ("--no-deps", "--index-url", CPU_INDEX, "--timeout", "10", "--retries", "0")
    if would_install(requirement, *quick).get("torch", "").endswith("+cpu"):
        install("--no-deps", "--index-url", CPU_INDEX, requirement)
    elif not any(name.startswith(CUDA_PACKAGES) for name in would_install(requirement)):
        install("--no-deps", requirement)
    elif os.environ.get("FEDLAG_ALLOW_CUDA") == "1":
        install(requirement)
    else:
        sys.exit(
            f"refused\npip would bring torch's CUDA build (3 GB to download, 6 GB on disk): let {CPU_INDEX} be reached,"
            f" name a folder with the CPU wheel in PIP_FIND_LINKS, or set FEDLAG_ALLOW_CUDA=1 to take it"
        )


def make_environment() -> None:
    """Bring the environment to what the pins say."""
    stamp, made_from = read_stamp(), {"home": home(), "pins": pins_digest()}
    if stamp == made_from:
        return
    if stamp is None:
        sys.exit(f"{VENV} was not made by scripts/: move it away, or run fedlag and pytest in it yourself")
    if stamp.get("home") != made_from["home"]:
        shutil.rmtree(VENV, ignore_errors=True)
        VENV.mkdir()
        STAMP.write_text("{}")
        with step(f"Making {VENV.name} with Python {sys.version.split()[0]}"):
            venv.EnvBuilder(with_pip=True, symlinks=True).create(VENV)
            install(f"pip=={pinned('pip')}")
    STAMP.write_text("{}")
    with step(f"Installing torch {pinned('torch')} (CPU, about 200 MB)"):
        install_torch(pinned("torch"))
    with step("Installing the pinned dependencies (about 220 MB)"):
        install("--no-deps", "--requirement", str(PINS))
    with step("Installing fedlag-edge itself"):
        install("--no-deps", "--no-build-isolation", "--editable", str(ROOT))
    STAMP.write_text(json.dumps(made_from))


def main() -> None:
    """Make the environment, one at a time, and become the command."""
    refusal = refuse_python()
    if refusal:
        sys.exit(refusal)
    folder = os.open(ROOT, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    try:
        make_environment()
    except KeyboardInterrupt:
        sys.exit("interrupted; the next run makes it anew")
    os.close(folder)
    environ = {**os.environ, "VIRTUAL_ENV": str(VENV), "PATH": f"{VENV / 'bin'}:{os.environ['PATH']}"}
    environ.pop("PYTHONHOME", None)
    os.execvpe(sys.argv[1], sys.argv[1:], environ)


if __name__ == "__main__":
    main()
