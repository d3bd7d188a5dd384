"""R's ``.rda`` files, as far as data frames go: columns of numbers, whole numbers, strings and factors.

The format is "XDR, version 2 or 3" of R's manual "R Internals", section "Serialization Formats", mostly compressed with
xz. Closures, environments and everything else that could hold code are refused, so reading a file runs nothing of it;
all sizes are bounded by what the file truly holds.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

import numpy as np

from wire.errors import DataError

__all__ = ["Factor", "Item", "Kind", "read_data_frame"]

MAX_BYTES = 64 << 20
MAX_DEPTH = 8
MAGIC = {b"RDX2\nX\n": 2, b"RDX3\nX\n": 3}


class Kind(IntEnum):
    """The kinds of values that are data; all others are refused."""

    SYMBOL = 1
    PAIRLIST = 2
    CHARS = 9
    LOGICALS = 10
    INTEGERS = 13
    REALS = 14
    STRINGS = 16
    LIST = 19
    NIL = 254
    REFERENCE = 255


VECTORS = (Kind.LOGICALS, Kind.INTEGERS, Kind.REALS, Kind.STRINGS, Kind.LIST)
HAS_ATTRIBUTES, HAS_TAG = 1 << 9, 1 << 10
MISSING_STRING = -1


@dataclass(frozen=True, slots=True, eq=False)
class Factor:
    """A column of categories.

    Args:
        codes: Index into ``levels`` of each row, int64, from 0; -1 is a missing value.
        levels: The categories' names, in R's order.
    """

    codes: np.ndarray
    levels: tuple[str, ...]


@dataclass(slots=True)
class Item:
    """One value of the file: an array, a list or nothing, with its attributes."""

    value: object = None
    attributes: dict[str, Item] = field(default_factory=dict)


def read_data_frame(path: Path, name: str) -> dict[str, np.ndarray | Factor]:
    """Return one data frame of a file, column by column.

    Args:
        path: The ``.rda`` file, plain or compressed with gzip, bzip2 or xz.
        name: The data frame's name in it.

    Returns:
        Column -> numbers (float64), whole numbers (int64; R's NA is the least 32-bit number) or a ``Factor``; all of
        one length.

    Raises:
        DataError: If the file cannot be read, holds anything but data, or no such data frame.
    """
    try:
        reader = _Reader(_unpack(path.read_bytes()))
        items = reader.file()
        return _columns(items[name])
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror or error}); install it again") from error
    except KeyError as error:
        raise DataError(f"{path} holds no data frame {name!r}") from error
    except (ValueError, EOFError, struct.error, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{path} is not an .rda file with data frames alone ({error}); install it again") from error


def _unpack(raw: bytes) -> bytes:
    """Return the content, at most ``MAX_BYTES``."""
    if raw[:6] == b"\xfd7zXZ\0":
        raw = lzma.LZMADecompressor(memlimit=MAX_BYTES * 4).decompress(raw, MAX_BYTES + 1)
    elif raw[:3] == b"BZh":
        raw = bz2.BZ2Decompressor().decompress(raw, MAX_BYTES + 1)
    elif raw[:2] == gzip.compress(b"")[:2]:
        raw = zlib.decompressobj(31).decompress(raw, MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES} bytes")
    return raw


class _Reader:
    """Walks through one file's bytes."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.at = 0
        self.symbols: list[str] = []

    def file(self) -> dict[str, Item]:
        """Return the named values that the file holds."""
        version = MAGIC.get(self.take(7))
        if version is None or self.integer() != version:
            raise ValueError("no XDR format of version 2 or 3")
        self.take(8)  # who wrote it, and who can read it
        if version > 2:  # noqa: PLR2004 - version 3 names the strings' encoding
            self.take(self.integer())
        item = self.item(0)
        return item.value if isinstance(item.value, dict) else {}

    def take(self, num_bytes: int) -> bytes:
        """Return the next bytes."""
        if not 0 <= num_bytes <= len(self.raw) - self.at:
            raise ValueError(f"ends early, at byte {self.at}")
        self.at += num_bytes
        return self.raw[self.at - num_bytes : self.at]

    def integer(self) -> int:
        """Return the next 32-bit number."""
        return int.from_bytes(self.take(4), "big", signed=True)

    def item(self, depth: int) -> Item:
        """Return the next value."""
        if depth > MAX_DEPTH:
            raise ValueError(f"lies more than {MAX_DEPTH} levels deep")
        flags = self.integer()
        kind = flags & 0xFF
        if kind == Kind.PAIRLIST:
            return Item(dict(self.pairs(flags, depth)))
        item = Item(self.value(kind, flags, depth))
        if kind in VECTORS and flags & HAS_ATTRIBUTES:
            attributes = self.item(depth + 1).value
            item.attributes = attributes if isinstance(attributes, dict) else {}
        return item

    def value(self, kind: int, flags: int, depth: int) -> object:
        """Return what an item of this kind holds, or refuse the kind."""
        if kind in VECTORS:
            return self.vector(kind, self.integer(), depth)
        match kind:
            case Kind.NIL:
                return None
            case Kind.CHARS:
                size = self.integer()
                return None if size == MISSING_STRING else self.take(size).decode()
            case Kind.SYMBOL:
                self.symbols.append(str(self.item(depth + 1).value))
                return self.symbols[-1]
            case Kind.REFERENCE:
                index = flags >> 8 or self.integer()
                if not 1 <= index <= len(self.symbols):
                    raise ValueError(f"refers to symbol {index} of {len(self.symbols)}")
                return self.symbols[index - 1]
        raise ValueError(f"holds a value of kind {kind}, which is no data")

    def vector(self, kind: int, size: int, depth: int) -> object:
        """Return numbers as an array, strings and items as a list."""
        if kind == Kind.REALS:
            return np.frombuffer(self.take(8 * size), dtype=">f8").astype(np.float64)
        if kind in {Kind.LOGICALS, Kind.INTEGERS}:
            return np.frombuffer(self.take(4 * size), dtype=">i4").astype(np.int64)
        if not 0 <= size <= (len(self.raw) - self.at) // 4:
            raise ValueError(f"claims a list of {size}")
        items = [self.item(depth + 1) for _ in range(size)]
        return [item.value for item in items] if kind == Kind.STRINGS else items

    def pairs(self, flags: int, depth: int) -> Iterator[tuple[str, Item]]:
        """Yield the named values of a pairlist, whose first node's flags have been read."""
        while flags & 0xFF == Kind.PAIRLIST:
            if flags & HAS_ATTRIBUTES:
                self.item(depth + 1)
            tag = str(self.item(depth + 1).value) if flags & HAS_TAG else ""
            yield tag, self.item(depth + 1)
            flags = self.integer()
        if flags & 0xFF != Kind.NIL:
            raise ValueError("holds a pairlist without an end")


def _columns(frame: Item) -> dict[str, np.ndarray | Factor]:
    """Return a data frame's columns by name."""
    names = frame.attributes.get("names", Item()).value
    if not isinstance(frame.value, list) or not isinstance(names, list) or len(names) != len(frame.value):
        raise ValueError("its value of that name is no data frame")
    columns: dict[str, np.ndarray | Factor] = {}
    for name, item in zip(names, frame.value, strict=True):
        if not isinstance(item, Item) or not isinstance(item.value, np.ndarray):
            raise ValueError(f"column {name} holds no numbers")  # noqa: TRY004 - the file is broken, not the call
        columns[str(name)] = _factor(item) if "levels" in item.attributes else item.value
    if len({len(column.codes if isinstance(column, Factor) else column) for column in columns.values()}) != 1:
        raise ValueError("its columns differ in length")
    return columns


def _factor(item: Item) -> Factor:
    """Return a column of categories; R counts them from 1."""
    levels = item.attributes["levels"].value
    codes = item.value
    if not isinstance(levels, list) or not isinstance(codes, np.ndarray) or codes.dtype != np.int64:
        raise ValueError("a factor has no levels")
    codes = np.where(codes == np.iinfo(np.int32).min, 0, codes)
    if len(codes) and not 0 <= codes.min() <= codes.max() <= len(levels):
        raise ValueError("a factor has codes without a level")
    return Factor(codes - 1, tuple(map(str, levels)))
