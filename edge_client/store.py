"""The device's disk: its generations, its program and its session number.

A generation is one file with its digest in front, written beside the last good one and renamed into place. The last two are in
slots, so a torn or damaged file falls back to the generation before, and the device says so. Those before are moved aside and
stay for a while, the last ten in at most 256 MiB: a fleet that goes back finds what its devices had then.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path

import msgspec

from edge_client.generation import Generation, Traffic
from wire.digest import content_digest
from wire.durable import storage_error, sync_folder, write_durably
from wire.errors import ManifestError, StoreError
from wire.manifest import ModelManifest, decode_manifest

__all__ = ["DeviceStore"]

MAGIC = b"FEDLAG-GENERATION-1\n"
SLOTS = ("generation-a", "generation-b")
NUM_EARLIER = 10
MAX_EARLIER_BYTES = 256 * 1024 * 1024

log = logging.getLogger(__name__)


class _Slot(msgspec.Struct, frozen=True):
    num_saved: int
    generation: Generation


class _Session(msgspec.Struct):
    session: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    epoch: int = 0
    round_number: int = 0


class DeviceStore:
    """What a device keeps in its folder.

    Args:
        folder: Made if it is missing.

    Raises:
        StoreError: If the disk refuses; so do all its methods.
    """

    def __init__(self, folder: Path) -> None:
        """Make the folder."""
        self._folder = folder
        self._earlier = folder / "earlier"
        self._names: dict[str, str] = {}
        self._spare_slot = SLOTS[0]
        self._num_saved = 0
        self._last: Generation | None = None
        _make_folder(folder)

    def load_generation(self) -> Generation | None:
        """Return the newest generation that is whole, or ``None`` for a new device.

        Raises:
            StoreError: If there are generations, and none is whole; or the disk refuses.
        """
        found = [(content, slot) for slot in SLOTS if (content := self._load_slot(self._folder / slot))]
        self._names = {slot: _name(content.generation) for content, slot in found}
        newest, newest_slot = max(found, key=lambda pair: pair[0].num_saved, default=(None, SLOTS[1]))
        self._spare_slot = next(slot for slot in SLOTS if slot != newest_slot)
        if newest is None and not any((self._folder / slot).exists() for slot in SLOTS):
            return None
        newest = newest or next(self._load_earlier(), None)
        if newest is None:
            raise StoreError(
                f"no generation in {self._folder} is whole: this device's own layers are in {' and '.join(SLOTS)}, or lost;"
                " bring back a copy of them, or move them away to begin as a new device"
            )
        self._num_saved, self._last = newest.num_saved, newest.generation
        return newest.generation

    def kept_generations(self) -> Iterator[Generation]:
        """Yield all that are whole, the newest first, one in memory at a time."""
        slots = sorted(self._names, key=self._names.__getitem__, reverse=True)
        contents = (self._load_slot(self._folder / slot) for slot in slots)
        yield from (content.generation for content in contents if content is not None)
        yield from (content.generation for content in self._load_earlier())

    def save_generation(self, generation: Generation) -> None:
        """Commit a generation: after this returns it survives a power cut; before, the last one does.

        The last one of another model stays in ``archive``, with the layers that this model has no place for.
        """
        if self._last is not None and self._last.model_id != generation.model_id:
            name = f"{self._last.model_id[:12]}-{self._last.epoch}-{self._last.round_number}"
            _make_folder(self._folder / "archive")
            write_durably(self._folder / "archive" / name, _with_digest(_Slot(self._num_saved, self._last)))
        self._set_aside()
        self._last = generation
        self._num_saved += 1
        write_durably(self._folder / self._spare_slot, _with_digest(_Slot(self._num_saved, generation)))
        self._names[self._spare_slot] = _name(generation)
        self._spare_slot = next(slot for slot in SLOTS if slot != self._spare_slot)

    def next_session(self) -> int:
        """Return this start's session number: one more than at the last start."""
        state = self._load_session()
        self._save_session(msgspec.structs.replace(state, session=state.session + 1))
        return state.session + 1

    def load_traffic(self) -> Traffic:
        """Return the bytes that the device had published and received when that was last kept."""
        state = self._load_session()
        return Traffic(state.bytes_up, state.bytes_down)

    def save_traffic(self, traffic: Traffic) -> None:
        """Keep the bytes that the device has published and received."""
        self._save_session(msgspec.structs.replace(self._load_session(), **traffic._asdict()))

    def load_seen(self) -> tuple[int, int]:
        """Return epoch and round of the latest plan that was kept as taken, (0, 0) for none."""
        state = self._load_session()
        return state.epoch, state.round_number

    def save_seen(self, epoch: int, round_number: int) -> None:
        """Keep epoch and round of the latest plan that the device has taken."""
        self._save_session(msgspec.structs.replace(self._load_session(), epoch=epoch, round_number=round_number))

    def program_folder(self, model_id: str) -> Path:
        """Return where the files of this program are, or will be."""
        return self._folder / "programs" / model_id

    def save_program(self, model_id: str, files: dict[str, bytes]) -> None:
        """Keep a program's files; the manifest comes last, so that its presence says the program is whole."""
        folder = self.program_folder(model_id)
        _make_folder(folder)
        for name, data in sorted(files.items(), key=lambda item: item[0] == "manifest.json"):
            write_durably(folder / name, data)

    def load_manifest(self, model_id: str) -> ModelManifest | None:
        """Return the manifest of a program that is whole on this disk, else ``None``."""
        try:
            data = (self.program_folder(model_id) / "manifest.json").read_bytes()
            return decode_manifest(data) if content_digest(data) == model_id else None
        except (FileNotFoundError, ManifestError):
            return None
        except OSError as error:
            raise _reading_error(self.program_folder(model_id), error) from error

    def _set_aside(self) -> None:
        """Move what is in the spare slot to those before it, and drop the oldest of them: nothing is written again."""
        name = self._names.pop(self._spare_slot, None)
        if name is None:
            return
        _make_folder(self._earlier)
        try:
            (self._folder / self._spare_slot).replace(self._earlier / name)
            num_bytes = 0
            for number, path in enumerate(self._earlier_files()):
                num_bytes += path.stat().st_size
                if number >= NUM_EARLIER or num_bytes > MAX_EARLIER_BYTES:
                    path.unlink()
            sync_folder(self._earlier)
        except OSError as error:
            raise storage_error(self._earlier, error) from error

    def _earlier_files(self) -> list[Path]:
        """Return the files of those before the slots, the newest first."""
        return sorted(self._earlier.iterdir(), reverse=True) if self._earlier.exists() else []

    def _load_earlier(self) -> Iterator[_Slot]:
        contents = (self._load_slot(path) for path in self._earlier_files())
        yield from (content for content in contents if content is not None)

    def _load_slot(self, path: Path) -> _Slot | None:
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _reading_error(path, error) from error
        start = len(MAGIC) + hashlib.sha256().digest_size
        digest, body = data[len(MAGIC) : start], data[start:]
        if not data.startswith(MAGIC) or hashlib.sha256(body).digest() != digest:
            log.warning("%s is damaged; going on from the generation before it", path)
            return None
        try:
            return msgspec.msgpack.decode(body, type=_Slot)
        except msgspec.DecodeError:
            log.warning("%s is of an unknown format; going on without it", path)
            return None

    def _load_session(self) -> _Session:
        path = self._folder / "session.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=_Session)
        except FileNotFoundError:
            return _Session()
        except OSError as error:
            raise _reading_error(path, error) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            log.warning("%s is damaged; counting sessions anew", path)
            return _Session()

    def _save_session(self, state: _Session) -> None:
        write_durably(self._folder / "session.json", msgspec.json.encode(state))


def _name(generation: Generation) -> str:
    """Return the name of its file among the earlier ones; a later round has a higher one."""
    return f"{generation.epoch:010d}-{generation.round_number:010d}"


def _with_digest(slot: _Slot) -> bytes:
    body = msgspec.msgpack.encode(slot)
    return MAGIC + hashlib.sha256(body).digest() + body


def _reading_error(path: Path, error: OSError) -> StoreError:
    return StoreError(f"cannot read {path}: {error.strerror}; check its owner and its disk")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(folder, error) from error
