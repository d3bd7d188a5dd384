"""Where a result came from: the commit of the code, and the versions of what computes."""

from __future__ import annotations

import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["code_commit", "code_versions"]

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 10


@cache
def code_commit() -> str:
    """Return the commit of this code, with ``+`` behind it if files have changed since; nothing outside a checkout."""
    if not (ROOT / ".git").exists():
        return ""
    commit = _git("rev-parse", "--short=12", "HEAD").strip()
    return commit + "+" if commit and _git("status", "--porcelain", "--untracked-files=no") else commit


@cache
def code_versions() -> dict[str, str]:
    """Return package -> version, of this project and of what computes for it."""
    found = {}
    for name in ("fedlag-edge", "numpy", "torch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _git(*arguments: str) -> str:
    """Return what git prints; nothing if there is none, or it refuses."""
    command = ["git", "-C", str(ROOT), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE_S)  # noqa: S603 - fixed
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout
