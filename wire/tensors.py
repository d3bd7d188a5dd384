"""The values of one layer as bytes: a header and one raw buffer.

::

    uint32 little-endian: length of the header
    header               MessagePack: layer, dtype, codec, shapes, sha256 of the buffer before compression
    buffer               the layer's parameters, flattened in the manifest's order and joined

float32 and bfloat16 are little-endian; ``int8`` is one float32 scale for every block of 1,024 values, then the values.
A decoder MUST compare the header's shapes and sizes with the manifest before it allocates or decompresses, and MUST
refuse values that are not finite.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Literal

import msgspec
import numpy as np
import zstandard

from wire.digest import content_digest
from wire.errors import RefusalReason, WireError
from wire.manifest import LayerSpec

__all__ = [
    "Codec",
    "Dtype",
    "TensorHeader",
    "decode_layer",
    "encode_layer",
    "flatten_layer",
    "max_encoded_bytes",
    "unflatten_layer",
]

Dtype = Literal["float32", "bfloat16", "int8"]
Codec = Literal["raw", "zstd"]

INT8_BLOCK = 1024
INT8_LARGEST = 127
LARGEST_SCALE = np.nextafter(np.finfo(np.float32).max / np.float32(INT8_LARGEST), np.float32(0))  # 127 stay finite
MAX_HEADER_BYTES = 64 * 1024
ZSTD_LEVEL = 1


class TensorHeader(msgspec.Struct, frozen=True):
    """What stands before a layer's buffer."""

    layer: str
    dtype: Dtype
    codec: Codec
    shapes: tuple[tuple[int, ...], ...]
    sha256: str


def flatten_layer(spec: LayerSpec, params: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the layer's parameters as one vector, shape ``(num_params,)``, float32, in the manifest's order."""
    return np.concatenate([np.ravel(params[parameter.name]) for parameter in spec.parameters], dtype=np.float32)


def unflatten_layer(spec: LayerSpec, vector: np.ndarray) -> dict[str, np.ndarray]:
    """Return the parameters that a vector of shape ``(num_params,)`` holds, as views of it."""
    params, start = {}, 0
    for parameter in spec.parameters:
        end = start + parameter.num_values
        params[parameter.name] = vector[start:end].reshape(parameter.shape)
        start = end
    return params


def encode_layer(spec: LayerSpec, vector: np.ndarray, dtype: Dtype = "float32", codec: Codec = "zstd") -> bytes:
    """Return a layer's values as bytes; the same values give the same bytes.

    Args:
        spec: The layer.
        vector: Its values, shape ``(num_params,)``, float32, finite.
        dtype: ``float32`` is exact; ``bfloat16`` rounds to 8 bits of mantissa; ``int8`` to 1/127 of a block's largest.
        codec: ``zstd`` compresses the buffer; every decoder knows ``raw``.
    """
    values = np.ascontiguousarray(vector, dtype="<f4")
    buffer = _ENCODERS[dtype](values)
    header = msgspec.msgpack.encode(TensorHeader(spec.name, dtype, codec, spec.shapes, content_digest(buffer)))
    if codec == "zstd":
        buffer = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(buffer)
    return struct.pack("<I", len(header)) + header + buffer


def decode_layer(data: bytes, spec: LayerSpec) -> np.ndarray:
    """Return the values that ``encode_layer`` wrote, shape ``(num_params,)``, float32, all finite.

    Raises:
        WireError: If the bytes are truncated, of another layer or shape, altered, too large when decompressed, or hold
            a value that is not finite.
    """
    header, payload = _split_header(data)
    if header.layer != spec.name or header.shapes != spec.shapes:
        raise WireError("wrong-shape", f"expected layer {spec.name} {spec.shapes}, got {header.layer} {header.shapes}")
    buffer = _decompress(payload, header.codec, _buffer_bytes(spec.num_params, header.dtype))
    if content_digest(buffer) != header.sha256:
        raise WireError("wrong-digest", f"the values of layer {spec.name} were altered on the way")
    values = _DECODERS[header.dtype](buffer, spec.num_params)
    if not np.isfinite(values).all():
        raise WireError("not-finite", f"layer {spec.name} holds a value that is not finite")
    return values


def max_encoded_bytes(spec: LayerSpec) -> int:
    """Return the most bytes that a valid encoding of this layer takes, whatever its dtype and codec."""
    largest = _buffer_bytes(spec.num_params, "float32")
    return 4 + MAX_HEADER_BYTES + largest + largest // 128 + 1024


def _split_header(data: bytes) -> tuple[TensorHeader, bytes]:
    if len(data) < struct.calcsize("<I"):
        raise WireError("truncated", f"a layer needs a header, got {len(data)} bytes")
    (length,) = struct.unpack_from("<I", data)
    if length > MAX_HEADER_BYTES:
        raise WireError("oversized", f"a layer's header of {length} bytes, at most {MAX_HEADER_BYTES}")
    if len(data) < 4 + length:
        raise WireError("truncated", f"a layer's header of {length} bytes, got {len(data) - 4}")
    try:
        return msgspec.msgpack.decode(data[4 : 4 + length], type=TensorHeader), data[4 + length :]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError("malformed", f"a layer's header: {error}") from error


def _decompress(payload: bytes, codec: Codec, expected_bytes: int) -> bytes:
    buffer = payload
    if codec == "zstd":
        try:
            if zstandard.frame_content_size(payload) != expected_bytes:
                raise WireError("wrong-shape", f"a compressed layer must say that it holds {expected_bytes} bytes")
            buffer = zstandard.ZstdDecompressor().decompress(payload, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise WireError("malformed", f"a compressed layer: {error}") from error
    if len(buffer) != expected_bytes:
        reason: RefusalReason = "truncated" if len(buffer) < expected_bytes else "oversized"
        raise WireError(reason, f"a layer's buffer of {len(buffer)} bytes, expected {expected_bytes}")
    return buffer


def _buffer_bytes(num_params: int, dtype: Dtype) -> int:
    if dtype == "int8":
        return num_params + 4 * -(-num_params // INT8_BLOCK)
    return num_params * {"float32": 4, "bfloat16": 2}[dtype]


def _to_float32(values: np.ndarray) -> bytes:
    return values.tobytes()


def _from_float32(buffer: bytes, _num_params: int) -> np.ndarray:
    return np.frombuffer(buffer, dtype="<f4").astype(np.float32)


def _to_bfloat16(values: np.ndarray) -> bytes:
    bits = values.view("<u4").astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    # A finite value just below the float32 limit must not round up to infinity.
    largest = (bits & 0x80000000) >> 16 | 0x7F7F
    overflow = (rounded & 0x7FFF) >= 0x7F80  # noqa: PLR2004 - the exponent of infinity
    halves = np.where(overflow, largest, rounded).astype("<u2")
    return bytes(halves.data)


def _from_bfloat16(buffer: bytes, _num_params: int) -> np.ndarray:
    bits = np.left_shift(np.frombuffer(buffer, dtype="<u2").astype(np.uint32), 16)
    return np.frombuffer(bits.data, dtype=np.float32)


def _to_int8(values: np.ndarray) -> bytes:
    num_blocks = -(-values.size // INT8_BLOCK)
    padded = np.zeros(num_blocks * INT8_BLOCK, dtype=np.float32)
    padded[: values.size] = values
    blocks = padded.reshape(num_blocks, INT8_BLOCK)
    scales: np.ndarray = np.minimum(np.abs(blocks).max(axis=1) / np.float32(INT8_LARGEST), LARGEST_SCALE)
    steps = np.divide(blocks, scales[:, None], out=np.zeros_like(blocks), where=scales[:, None] > 0)
    rounded: np.ndarray = np.clip(np.rint(steps), -INT8_LARGEST, INT8_LARGEST).astype(np.int8)
    return scales.astype("<f4").tobytes() + rounded.reshape(-1)[: values.size].tobytes()


def _from_int8(buffer: bytes, num_params: int) -> np.ndarray:
    num_blocks = -(-num_params // INT8_BLOCK)
    scales = np.frombuffer(buffer, dtype="<f4", count=num_blocks)
    steps = np.frombuffer(buffer, dtype=np.int8, offset=4 * num_blocks)
    with np.errstate(over="ignore", invalid="ignore"):  # a forged scale overflows here and is refused as not finite
        values: np.ndarray = steps.astype(np.float32) * np.repeat(scales, INT8_BLOCK)[:num_params]
    return values


_ENCODERS: dict[Dtype, Callable[[np.ndarray], bytes]] = {
    "float32": _to_float32,
    "bfloat16": _to_bfloat16,
    "int8": _to_int8,
}
_DECODERS: dict[Dtype, Callable[[bytes, int], np.ndarray]] = {
    "float32": _from_float32,
    "bfloat16": _from_bfloat16,
    "int8": _from_int8,
}
