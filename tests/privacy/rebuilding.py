"""What an attacker can rebuild who has kept every message of a fleet, knows the protocol, and has time.

Two attacks on one device's layer. The direct one looks for the layer's values, or its update, in everything that the
device sent: as float32, float16 or float64, as bfloat16 or int8, in either byte order, at any offset, compressed,
written as numbers, or in pieces of at least eight values, one a round. The linear one takes all sketches of the layer
and solves for the update. The true layer is used only to judge what was found.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import msgspec
import numpy as np
import zstandard

from simulations.loopback.network import Crossing
from wire.sketches import CountSketch

PIECE = 8
SAME_COSINE = 0.9995
SMALLEST, LARGEST = 1e-9, 1e3
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
FIXMAP, MAP16 = 0x80, 0xDE  # how a packed message begins


class Secret(NamedTuple):
    """A layer in one round: what it was after training, and what training changed."""

    values: np.ndarray
    update: np.ndarray


class Sketch(NamedTuple):
    """A sketch that was sent, and the seed that it was drawn with."""

    seed: int
    values: np.ndarray


class Rebuilt(NamedTuple):
    """How much of a layer an attack found.

    Args:
        share: Of the layer's parameters, those found as they are: 0 to 1.
        cosine: Between a round's update and what its sketch says of it, the mean over the rounds.
        residual: Relative error of the same, at best 0; 1 is as good as knowing nothing.
        drift_cosine: Between the sum of all updates and what all sketches together say of it.
    """

    share: float
    cosine: float
    residual: float
    drift_cosine: float

    @property
    def is_rebuilt(self) -> bool:
        """Whether the attack has succeeded: a tenth of the layer itself, or more than linear noise of the rest."""
        return self.share > 0.1 or self.cosine > 0.5 or self.residual < 0.8 or self.drift_cosine > 0.5


def rebuild(
    rounds: Sequence[tuple[Sequence[Crossing], Secret]], sketches: Sequence[Sketch | None], layer: str
) -> Rebuilt:
    """Attack one device's layer with all that the device sent, round by round."""
    share = find_values(rounds)
    found = [(sketch, secret.update) for sketch, (_, secret) in zip(sketches, rounds, strict=True) if sketch]
    if not found:
        return Rebuilt(share, 0.0, 1.0, 0.0)
    maps = [sketch_map(sketch.seed, layer, len(update), len(sketch.values)) for sketch, update in found]
    guesses = [solve([matrix], [sketch.values]) for matrix, (sketch, _) in zip(maps, found, strict=True)]
    updates = [update for _, update in found]
    cosines = [cosine(guess, update) for guess, update in zip(guesses, updates, strict=True)]
    errors = [np.linalg.norm(guess - it) / np.linalg.norm(it) for guess, it in zip(guesses, updates, strict=True)]
    drift = solve(maps, [sketch.values for sketch, _ in found])
    return Rebuilt(
        share, float(np.mean(cosines)), float(np.mean(errors)), cosine(drift, np.sum(np.stack(updates), axis=0))
    )


def find_values(rounds: Iterable[tuple[Sequence[Crossing], Secret]]) -> float:
    """Return the share of a layer's parameters that some message holds, as values or as an update."""
    found: np.ndarray | None = None
    for crossings, secret in rounds:
        if found is None:
            found = np.zeros(secret.values.size, dtype=bool)
        strings = list(unpack(crossings))
        streams = [*(stream for data in strings for stream in readings(data)), numbers(strings)]
        for target in secret:
            mark(found, target, streams)
    return 0.0 if found is None else float(found.mean())


def mark(found: np.ndarray, target: np.ndarray, streams: Iterable[np.ndarray]) -> None:
    """Mark the parameters of which a piece stands somewhere in the streams, up to a common scale."""
    length = min(PIECE, target.size)
    starts = np.unique([*range(0, target.size - length, length), target.size - length])
    pieces = np.stack([target[start : start + length] for start in starts]).astype(np.float32)
    norms = np.linalg.norm(pieces, axis=1)
    pieces, starts = pieces[norms > 0] / norms[norms > 0, None], starts[norms > 0]
    for stream in streams:
        if stream.size < length:
            continue
        windows = np.lib.stride_tricks.sliding_window_view(stream, length)
        sizes = np.linalg.norm(windows, axis=1)
        windows = windows[sizes > 0] / sizes[sizes > 0, None]
        if not windows.size:
            continue
        for start in starts[np.abs(windows @ pieces.T).max(axis=0) > SAME_COSINE]:
            found[start : start + length] = True


def unpack(crossings: Iterable[Crossing]) -> Iterator[bytes]:
    """Give every payload, the blobs that parts make together, and what is compressed in them."""
    blobs: dict[str, dict[int, bytes]] = defaultdict(dict)
    whole = [crossing.payload for crossing in crossings if crossing.payload]
    for message in map(msgspec.msgpack.decode, list(whole)):
        if "data" in message:
            blobs[message["digest"]][message["index"]] = message["data"]
    whole += [b"".join(parts[index] for index in sorted(parts)) for parts in blobs.values() if len(parts) > 1]
    for data in dict.fromkeys(whole):
        yield data
        start = data.find(ZSTD_MAGIC)
        while start >= 0:
            with contextlib.suppress(zstandard.ZstdError):
                yield zstandard.ZstdDecompressor().decompressobj().decompress(data[start:])
            start = data.find(ZSTD_MAGIC, start + 1)


def readings(data: bytes) -> Iterator[np.ndarray]:
    """Give the bytes as numbers, in every way in which values could be written."""
    for dtype in ("<f4", ">f4", "<f2", ">f2", "<f8", ">f8", "i1"):
        size = np.dtype(dtype).itemsize
        for offset in range(min(size, len(data))):
            count = (len(data) - offset) // size
            yield plausible(np.frombuffer(data, dtype=dtype, offset=offset, count=count))
    for dtype in ("<u2", ">u2"):
        for offset in range(min(2, len(data))):
            halves = np.frombuffer(data, dtype=dtype, offset=offset, count=(len(data) - offset) // 2)
            yield plausible((halves.astype(np.uint32) << 16).view(np.float32))


def plausible(stream: np.ndarray) -> np.ndarray:
    """Return the numbers with zeros for those that no layer holds."""
    with np.errstate(all="ignore"):
        values = stream.astype(np.float64)
        sizes = np.abs(values)
        return np.where((sizes > SMALLEST) & (sizes < LARGEST), values, 0.0).astype(np.float32)


def numbers(strings: Iterable[bytes]) -> np.ndarray:
    """Return all numbers that the messages write out, in order."""
    found: list[float] = []
    for data in strings:
        try:
            collect(msgspec.msgpack.decode(data), found)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
    return plausible(np.array(found, dtype=np.float64))


def collect(node: Any, found: list[float]) -> None:
    """Append the numbers below a node of a decoded message; what is packed in its bytes, too."""
    match node:
        case float():
            found.append(node)
        case dict():
            for value in node.values():
                collect(value, found)
        case list():
            for value in node:
                collect(value, found)
        case bytes() if node and (node[0] & 0xF0 == FIXMAP or node[0] == MAP16):
            with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
                collect(msgspec.msgpack.decode(node), found)


@cache
def sketch_map(seed: int, layer: str, num_params: int, width: int) -> np.ndarray:
    """Return the matrix that a sketch is, shape ``(width, params)``: every device can compute it."""
    sketch = CountSketch(seed, layer, num_params, width)
    return np.stack([sketch.summarize(row) for row in np.eye(num_params, dtype=np.float32)], axis=1).astype(np.float64)


def solve(maps: Sequence[np.ndarray], sketches: Sequence[np.ndarray]) -> np.ndarray:
    """Return the smallest update that explains all sketches best: least squares."""
    return np.asarray(np.linalg.lstsq(np.vstack(maps), np.concatenate(sketches).astype(np.float64), rcond=None)[0])


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    """Return the cosine of two vectors; 0 if one has no direction."""
    norms = np.linalg.norm(first) * np.linalg.norm(second)
    return float(first @ second / norms) if norms > 0 else 0.0
