"""The round log: what happened in the open round, appended to one file before it is acknowledged.

An aggregator that was killed reads it again and goes on in the middle of the round. Values stay in the file: averaging reads
them as rows, a block of columns at a time::

    magic
    record*    uint32 little-endian: length of the entry, length of the values, CRC-32 of both together
               entry: MessagePack, one of ``CohortAsked``, ``LayerReceived``, ``UploadStored``
               values: float32 little-endian, of a ``LayerReceived`` alone
"""

from __future__ import annotations

import logging
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import numpy as np

from wire.durable import storage_error, sync_folder
from wire.messages import Summary

__all__ = ["CohortAsked", "LayerReceived", "LoggedRow", "RoundLog", "UploadStored"]

MAGIC = b"FEDLAG-ROUND-LOG-1\n"
LENGTHS = struct.Struct("<III")

log = logging.getLogger(__name__)


class CohortAsked(msgspec.Struct, frozen=True, tag="cohort"):
    """These devices take part in the round of this plan; the last such entry holds."""

    plan: str
    cohort: tuple[str, ...]


class LayerReceived(msgspec.Struct, frozen=True, tag="layer"):
    """The values of one layer of a device stand behind this."""

    device_id: str
    layer: str


class UploadStored(msgspec.Struct, frozen=True, tag="stored"):
    """A device's upload is whole."""

    device_id: str
    summary: Summary


Entry = CohortAsked | LayerReceived | UploadStored


class LoggedRow:
    """A device's values of one layer in the log, read where they are asked for; looks like a vector of float32.

    Args:
        descriptor: The open file.
        offset: Where the values begin, in bytes.
        num_params: How many there are.
    """

    __slots__ = ("_descriptor", "_offset", "shape")

    def __init__(self, descriptor: int, offset: int, num_params: int) -> None:
        """Read nothing yet."""
        self._descriptor = descriptor
        self._offset = offset
        self.shape = (num_params,)

    def __getitem__(self, block: slice) -> np.ndarray:
        """Return some of the values, shape ``(block,)``, float32."""
        start, stop, _ = block.indices(self.shape[0])
        data = os.pread(self._descriptor, 4 * (stop - start), self._offset + 4 * start)
        return np.frombuffer(data, dtype="<f4")


class RoundLog:
    """One round on disk.

    Args:
        path: The file. What is in it is read; from what is not whole on it is cut off, and said so: devices still hold
            what was not counted.

    Raises:
        StoreError: If the disk refuses; so do all its methods.
    """

    def __init__(self, path: Path) -> None:
        """Read what is there, or start empty."""
        self._path = path
        self._places: dict[tuple[str, str], tuple[int, int]] = {}
        self.asked: CohortAsked | None = None
        self.stored: dict[str, Summary] = {}
        try:
            is_new = not path.exists()
            self._file = path.open("w+b" if is_new else "r+b")
            if not is_new:
                self._replay()
            if self._file.tell() == 0:
                self._file.write(MAGIC)
                self._sync()
                sync_folder(path.parent)
        except OSError as error:
            raise storage_error(path, error) from error

    def ask(self, plan: str, cohort: tuple[str, ...]) -> None:
        """Make durable who takes part in the round of this plan."""
        self.asked = CohortAsked(plan, cohort)
        self._append(self.asked)
        self._sync()

    def append(self, device_id: str, layer: str, values: np.ndarray) -> None:
        """Append a device's values of one layer, shape ``(num_params,)``, float32."""
        data = values.astype("<f4").tobytes()
        end = self._append(LayerReceived(device_id, layer), data)
        self._places[device_id, layer] = (end - len(data), values.size)

    def take_over(self, before: RoundLog, carried: Iterable[tuple[str, str]]) -> None:
        """Append what devices may go on with of the log before: device and layer each."""
        for device_id, layer in carried:
            self.append(device_id, layer, before.rows(layer, (device_id,))[device_id][:])

    def commit(self, device_id: str, summary: Summary) -> None:
        """Return when all of a device's upload survives a power cut."""
        self.stored[device_id] = summary
        self._append(UploadStored(device_id, summary))
        self._sync()

    def rows(self, layer: str, devices: tuple[str, ...]) -> dict[str, LoggedRow]:
        """Return device -> its values of a layer."""
        descriptor = self._file.fileno()
        return {device_id: LoggedRow(descriptor, *self._places[device_id, layer]) for device_id in devices}

    def close(self) -> None:
        """Close the file; it may be read again."""
        self._file.close()

    def delete(self) -> None:
        """Close and remove the file: the averages are durable, nobody needs it any more."""
        self.close()
        self._path.unlink(missing_ok=True)

    def _append(self, entry: Entry, values: bytes = b"") -> int:
        """Write a record; return where it ends."""
        head = msgspec.msgpack.encode(entry)
        begin = self._file.tell()
        try:
            self._file.write(LENGTHS.pack(len(head), len(values), zlib.crc32(values, zlib.crc32(head))) + head)
            self._file.write(values)
        except OSError as error:
            raise storage_error(self._path, error) from error
        return begin + LENGTHS.size + len(head) + len(values)

    def _sync(self) -> None:
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise storage_error(self._path, error) from error

    def _replay(self) -> None:
        end = len(MAGIC) if self._file.read(len(MAGIC)) == MAGIC else 0
        for entry, place, num_bytes in self._records() if end else ():
            end = place + num_bytes
            match entry:
                case CohortAsked():
                    self.asked = entry
                case LayerReceived():
                    self._places[entry.device_id, entry.layer] = (place, num_bytes // 4)
                case UploadStored():
                    self.stored[entry.device_id] = entry.summary
        lost = self._path.stat().st_size - end
        if lost:
            log.warning(
                "%s: the last %s bytes are not whole; the devices will be asked for them again", self._path, lost
            )
        self._file.seek(end)
        self._file.truncate()

    def _records(self) -> Iterator[tuple[Entry, int, int]]:
        """Yield every whole entry, where its values begin and how many bytes they take."""
        size = self._path.stat().st_size
        while len(lengths := self._file.read(LENGTHS.size)) == LENGTHS.size:
            num_head, num_values, checksum = LENGTHS.unpack(lengths)
            place = self._file.tell() + num_head
            if place + num_values > size:
                return
            head, values = self._file.read(num_head), self._file.read(num_values)
            if zlib.crc32(values, zlib.crc32(head)) != checksum:
                return
            try:
                entry = msgspec.msgpack.decode(head, type=Entry)
            except msgspec.DecodeError:
                return
            yield entry, place, num_values
