"""Child processes of a demo or a bench: this product's own commands; none of them outlives its parent's block."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from wire.errors import FleetError

__all__ = ["Process", "run_process"]

STOP_PATIENCE_S = 20.0
LAST_WORDS = 2000
PR_SET_PDEATHSIG = 1


class Process:
    """A running ``fedlag <verb>``.

    Args:
        name: How people call it.
        child: The process.
        log: Where its standard error goes.
    """

    def __init__(self, name: str, child: asyncio.subprocess.Process, log: Path) -> None:
        """Wrap a started process."""
        self.name = name
        self._child = child
        self._log = log
        self._is_stopping = False

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._child.pid

    async def lines(self) -> AsyncIterator[bytes]:
        """Yield what it writes to standard output, line by line, until it ends."""
        if self._child.stdout is not None:
            while line := await self._child.stdout.readline():
                yield line

    async def finished(self) -> None:
        """Return when it has ended well.

        Raises:
            FleetError: If it has not; with its last words.
        """
        code = await self._child.wait()
        if code and not self._is_stopping:
            words = self._log.read_text(errors="replace")[-LAST_WORDS:].strip() or "it said nothing"
            raise FleetError(f"{self.name} ended with exit code {code}: {words}")

    async def stop(self) -> None:
        """End it: politely, then by force."""
        self._is_stopping = True
        if self._child.returncode is None:
            self._child.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self._child.wait(), STOP_PATIENCE_S)
            except TimeoutError:
                self._child.kill()
        await self._child.wait()


def _die_with_parent() -> None:
    """Let the kernel end this child when its parent is gone, however that happened; Linux alone can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@asynccontextmanager
async def run_process(name: str, arguments: list[str], folder: Path, module: str = "fedlag") -> AsyncIterator[Process]:
    """Run ``fedlag`` with these arguments, one compute thread each; it is stopped when the block ends.

    Args:
        name: How people call it.
        arguments: Verb and options.
        folder: Where its log goes, ``<name>.log``.
        module: What runs instead of ``fedlag``.
    """
    log = folder / f"{name}.log"
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    with log.open("wb") as errors:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            limit=2**24,
            preexec_fn=_die_with_parent,
            env={**os.environ, **threads},
        )
    process = Process(name, child, log)
    try:
        yield process
    finally:
        await process.stop()
