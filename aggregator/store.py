"""The aggregator's disk: a checkpoint per round, the layers by their digests, and the round reports.

``checkpoints/<epoch>-<round>`` holds the state with its digest in front, written beside and renamed into place;
``layers/<digest>`` the encoded averages; ``reports/<epoch>-<round>.json`` what happened. The last ten checkpoints and
the layers that they name stay, reports all.
"""

from __future__ import annotations

import hashlib
import logging
import re
from pathlib import Path

import msgspec

from aggregator.planning import FleetState
from aggregator.round_log import RoundLog
from aggregator.round_report import RoundReport
from wire.digest import content_digest
from wire.durable import storage_error, write_durably
from wire.errors import StoreError

__all__ = ["FleetStore"]

MAGIC = b"FEDLAG-CHECKPOINT-1\n"
NUM_CHECKPOINTS = 10
CHECKPOINT = re.compile(r"(\d+)-(\d+)(-finished)?")

log = logging.getLogger(__name__)


class FleetStore:
    """What the aggregator keeps in its folder.

    Args:
        folder: Made if it is missing.

    Raises:
        StoreError: If the disk refuses, or what it holds is damaged; so do all its methods.
    """

    def __init__(self, folder: Path) -> None:
        """Make the folder."""
        self._folder = folder
        try:
            for name in ("checkpoints", "layers", "reports", "rounds"):
                (folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(folder, error) from error

    def next_session(self) -> int:
        """Return this start's session number: one more than at the last start."""
        path = self._folder / "session"
        try:
            session = int(path.read_text())
        except (FileNotFoundError, ValueError):
            session = 0
        except OSError as error:
            raise storage_error(path, error) from error
        write_durably(path, str(session + 1).encode())
        return session + 1

    def load_state(self) -> FleetState | None:
        """Return the newest checkpoint that is whole, with all its layers; ``None`` for a new fleet."""
        paths = self._checkpoints()
        for path in reversed(paths):
            state = self._load_checkpoint(path)
            if state is not None:
                return state
            log.warning("%s is damaged; going on from the checkpoint before it", path)
        if paths:
            raise StoreError(f"every checkpoint in {self._folder / 'checkpoints'} is damaged; restore a backup of it")
        return None

    def load_layer(self, digest: str) -> bytes:
        """Return the encoded values of this digest."""
        path = self._folder / "layers" / digest
        try:
            data = path.read_bytes()
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error.strerror}; restore a backup of it") from error
        if content_digest(data) != digest:
            raise StoreError(f"{path} was altered: its content does not match its name; restore a backup of it")
        return data

    def save(self, state: FleetState, layers: dict[str, bytes], report: RoundReport | None = None) -> None:
        """Commit a state with its new layers (digest -> encoded values) and the report of the round before it."""
        for digest, data in layers.items():
            write_durably(self._folder / "layers" / digest, data)
        if report is not None:
            path = self._folder / "reports" / f"{_name(report.epoch, report.round_number)}.json"
            write_durably(path, msgspec.json.format(msgspec.json.encode(report), indent=1))
        body = msgspec.msgpack.encode(state)
        path = self._folder / "checkpoints" / _name(state.plan.epoch, state.plan.round_number)
        if state.is_finished:
            path = path.with_name(path.name + "-finished")
        write_durably(path, MAGIC + hashlib.sha256(body).digest() + body)
        self._prune()

    def open_round_log(self, epoch: int, round_number: int) -> RoundLog:
        """Return the log of a round, empty."""
        return RoundLog(self._folder / "rounds" / _name(epoch, round_number))

    def _checkpoints(self) -> list[Path]:
        found = [
            (match, path) for path in self._folder.glob("checkpoints/*") if (match := CHECKPOINT.fullmatch(path.name))
        ]
        return [
            path for _, path in sorted(found, key=lambda pair: (int(pair[0][1]), int(pair[0][2]), pair[0][3] or ""))
        ]

    def _load_checkpoint(self, path: Path) -> FleetState | None:
        try:
            data = path.read_bytes()
        except OSError as error:
            log.warning("cannot read %s: %s", path, error.strerror)
            return None
        start = len(MAGIC) + hashlib.sha256().digest_size
        if not data.startswith(MAGIC) or hashlib.sha256(data[start:]).digest() != data[len(MAGIC) : start]:
            return None
        try:
            return msgspec.msgpack.decode(data[start:], type=FleetState)
        except msgspec.DecodeError:
            return None

    def _prune(self) -> None:
        paths = self._checkpoints()
        for path in paths[:-NUM_CHECKPOINTS]:
            path.unlink()
        kept = [state for path in paths[-NUM_CHECKPOINTS:] if (state := self._load_checkpoint(path))]
        named = {digest for state in kept for digest in state.layers.values()}
        for path in (self._folder / "layers").iterdir():
            if path.name not in named:
                path.unlink()


def _name(epoch: int, round_number: int) -> str:
    return f"{epoch:06d}-{round_number:08d}"
