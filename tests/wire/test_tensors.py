"""A layer's values survive the wire as their dtype promises; whatever else comes is refused, and takes no memory."""

from __future__ import annotations

import math
import struct
import tracemalloc
from typing import Any

import msgspec
import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wire.digest import content_digest
from wire.errors import WireError
from wire.manifest import LayerSpec, ParameterSpec
from wire.tensors import Codec, Dtype, decode_layer, encode_layer, flatten_layer, max_encoded_bytes, unflatten_layer

FLOAT32 = np.finfo(np.float32)
LARGEST, TINY, DENORMAL = float(FLOAT32.max), float(FLOAT32.tiny), float(FLOAT32.smallest_subnormal)
SPECIAL = [0.0, -0.0, DENORMAL, -DENORMAL, TINY, LARGEST, -LARGEST]
CODECS: list[Codec] = ["raw", "zstd"]
DTYPES: list[Dtype] = ["float32", "bfloat16", "int8"]

SHAPES = st.lists(hnp.array_shapes(min_dims=0, max_dims=4, max_side=6), min_size=1, max_size=4)
FLOATS = st.sampled_from(SPECIAL) | st.floats(width=32, allow_nan=False, allow_infinity=False)


def layer_of(*shapes: tuple[int, ...]) -> LayerSpec:
    return LayerSpec("conv1", tuple(ParameterSpec(f"conv1.{i}", shape) for i, shape in enumerate(shapes)))


@st.composite
def layers(draw: st.DrawFn) -> tuple[LayerSpec, np.ndarray]:
    spec = layer_of(*draw(SHAPES))
    return spec, draw(hnp.arrays(np.float32, spec.num_params, elements=FLOATS))


def bits(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32).view(np.uint32)


@given(layers(), st.sampled_from(CODECS))
def test_float32_is_exact_to_the_bit(layer: tuple[LayerSpec, np.ndarray], codec: Codec) -> None:
    spec, values = layer
    assert np.array_equal(bits(decode_layer(encode_layer(spec, values, "float32", codec), spec)), bits(values))


@given(layers(), st.sampled_from(CODECS))
def test_bfloat16_is_the_nearest_that_is_finite(layer: tuple[LayerSpec, np.ndarray], codec: Codec) -> None:
    spec, values = layer
    decoded = decode_layer(encode_layer(spec, values, "bfloat16", codec), spec)
    assert np.isfinite(decoded).all()
    assert np.array_equal(np.signbit(decoded), np.signbit(values))
    normal = np.abs(values) >= TINY
    error = np.abs(decoded.astype(np.float64) - values)
    assert (error[normal] <= np.abs(values[normal].astype(np.float64)) * 2.0**-8).all()
    # Neighbors of a bfloat16 are 2^16 float32 apart in their bits: the nearest is at most half of that away.
    steps = np.abs(bits(decoded).astype(np.int64) - bits(values).astype(np.int64))
    largest_bfloat16 = float(np.array([0x7F7F0000], np.uint32).view(np.float32)[0])
    assert (steps[np.abs(values) <= largest_bfloat16] <= 2**15).all()


@pytest.mark.parametrize(
    ("given_bits", "rounded"),
    [
        (0x3F808000, 0x3F800000),  # halfway: down to the even one
        (0x3F818000, 0x3F820000),  # halfway: up to the even one
        (0x3F808001, 0x3F810000),  # just above halfway
        (0x3F807FFF, 0x3F800000),  # just below
        (0x7F7FFFFF, 0x7F7F0000),  # the largest float32 stays finite
        (0xFF7FFFFF, 0xFF7F0000),
        (0x00008000, 0x00000000),  # a denormal halfway
        (0x00018000, 0x00020000),
        (0x80000000, 0x80000000),  # -0.0
    ],
)
def test_bfloat16_rounds_ties_to_even(given_bits: int, rounded: int) -> None:
    spec = layer_of((1,))
    value = np.array([given_bits], dtype=np.uint32).view(np.float32)
    assert bits(decode_layer(encode_layer(spec, value, "bfloat16"), spec)).tolist() == [rounded]


@given(st.integers(1, 3000), st.integers(0, 2**32 - 1), st.floats(1e-30, 1e30), st.sampled_from(CODECS))
def test_int8_is_within_half_a_step_of_its_block(size: int, seed: int, scale: float, codec: Codec) -> None:
    spec = layer_of((size,))
    values = (np.random.default_rng(seed).standard_normal(size) * scale).astype(np.float32)
    decoded = decode_layer(encode_layer(spec, values, "int8", codec), spec).astype(np.float64)
    for start in range(0, size, 1024):
        block = values[start : start + 1024].astype(np.float64)
        half_a_step = np.abs(block).max() / 127 / 2
        assert (np.abs(decoded[start : start + 1024] - block) <= half_a_step * (1 + 1e-5)).all()


@given(layers())
def test_int8_stays_finite_and_keeps_zero(layer: tuple[LayerSpec, np.ndarray]) -> None:
    spec, values = layer
    decoded = decode_layer(encode_layer(spec, values, "int8"), spec)
    assert np.isfinite(decoded).all()
    assert (decoded[values == 0] == 0).all()
    assert np.abs(decoded).max() <= np.abs(values).max() * np.float64(1 + 1e-6) + 127 * DENORMAL


@given(layers(), st.sampled_from(DTYPES), st.sampled_from(CODECS))
def test_the_same_values_give_the_same_bytes_within_the_bound(
    layer: tuple[LayerSpec, np.ndarray], dtype: Dtype, codec: Codec
) -> None:
    spec, values = layer
    data = encode_layer(spec, values, dtype, codec)
    assert data == encode_layer(spec, values.astype(">f4").astype(np.float32)[::1].copy(), dtype, codec)
    assert len(data) <= max_encoded_bytes(spec)


@given(layers())
def test_unflatten_is_the_inverse_of_flatten(layer: tuple[LayerSpec, np.ndarray]) -> None:
    spec, values = layer
    params = unflatten_layer(spec, values)
    assert [params[parameter.name].shape for parameter in spec.parameters] == [p.shape for p in spec.parameters]
    assert np.array_equal(bits(flatten_layer(spec, params)), bits(values))


# What attackers and broken disks send, numbered.

SPEC = layer_of((2, 3), (3,))
VALUES = np.arange(9, dtype=np.float32)


def forge(
    buffer: bytes, *, codec: str = "raw", dtype: str = "float32", payload: bytes | None = None, **more: Any
) -> bytes:
    """A file whose header is what the attacker likes."""
    header = {
        "layer": "conv1",
        "dtype": dtype,
        "codec": codec,
        "shapes": [[2, 3], [3]],
        "sha256": content_digest(buffer),
    }
    encoded = msgspec.msgpack.encode(header | more)
    return struct.pack("<I", len(encoded)) + encoded + (buffer if payload is None else payload)


def zstd(buffer: bytes, *, says_its_size: bool = True) -> bytes:
    return zstandard.ZstdCompressor(level=1, write_content_size=says_its_size).compress(buffer)


def floats(*values: float) -> bytes:
    return np.array([*values, *[0.0] * (9 - len(values))], dtype="<f4").tobytes()


def int8s(scale: float) -> bytes:
    return struct.pack("<f", scale) + bytes([100] * 9)


GOOD = floats(1, 2, 3)
HEADER = msgspec.msgpack.encode({"layer": "conv1"})
NESTED = b"\x81\xa1x" + b"\x91" * 60_000 + b"\xc0"

ATTACKS = {
    "01 nothing": (b"", "truncated"),
    "02 a header longer than allowed": (struct.pack("<I", 2**32 - 1) + b"x" * 100, "oversized"),
    "03 a header longer than the file": (struct.pack("<I", 60_000) + b"x" * 100, "truncated"),
    "04 no MessagePack in the header": (struct.pack("<I", 3) + b"\xc1\xc1\xc1", "malformed"),
    "05 a header without its fields": (struct.pack("<I", len(HEADER)) + HEADER, "malformed"),
    "06 a header of 60,000 levels": (struct.pack("<I", len(NESTED)) + NESTED, "malformed"),
    "07 a header that is not UTF-8": (struct.pack("<I", 9) + b"\x81\xa5layer\xa1\xff", "malformed"),
    "08 another layer": (forge(GOOD, layer="conv2"), "wrong-shape"),
    "09 another shape": (forge(GOOD, shapes=[[3, 2], [3]]), "wrong-shape"),
    "10 one shape more": (forge(GOOD, shapes=[[2, 3], [3], [0]]), "wrong-shape"),
    "11 a negative shape": (forge(GOOD, shapes=[[-2, -3], [3]]), "wrong-shape"),
    "12 a shape of 2^62": (forge(GOOD, shapes=[[2**62, 3], [3]]), "wrong-shape"),
    "13 an unknown dtype": (forge(GOOD, dtype="float64"), "malformed"),
    "14 an unknown codec": (forge(GOOD, codec="pickle"), "malformed"),
    "15 a buffer too short": (forge(GOOD[:-1]), "truncated"),
    "16 a buffer too long": (forge(GOOD + b"\0"), "oversized"),
    "17 an altered buffer": (forge(GOOD, payload=floats(1, 2, 4)), "wrong-digest"),
    "18 no digest": (forge(GOOD, sha256=""), "wrong-digest"),
    "19 no frame": (forge(GOOD, codec="zstd"), "malformed"),
    "20 an empty frame": (forge(GOOD, codec="zstd", payload=b""), "malformed"),
    "21 a frame without its size": (forge(GOOD, codec="zstd", payload=zstd(GOOD, says_its_size=False)), "wrong-shape"),
    "22 a bomb that says so": (forge(GOOD, codec="zstd", payload=zstd(bytes(2**28))), "wrong-shape"),
    "23 a truncated frame": (forge(GOOD, codec="zstd", payload=zstd(GOOD)[:-1]), "malformed"),
    "24 bytes behind the frame": (forge(GOOD, codec="zstd", payload=zstd(GOOD) + b"x"), "malformed"),
    "25 a frame behind the frame": (forge(GOOD, codec="zstd", payload=zstd(GOOD) + zstd(bytes(2**20))), "malformed"),
    "26 a skippable frame first": (
        forge(GOOD, codec="zstd", payload=b"\x50\x2a\x4d\x18\x00\x00\x00\x00" + zstd(GOOD)),
        "wrong-shape",
    ),
    "27 not a number": (forge(floats(math.nan)), "not-finite"),
    "28 infinity": (forge(floats(0, -math.inf)), "not-finite"),
    "29 bfloat16 that is not a number": (forge(b"\xc0\x7f" + bytes(16), dtype="bfloat16"), "not-finite"),
    "30 bfloat16 infinity": (forge(b"\x80\xff" + bytes(16), dtype="bfloat16"), "not-finite"),
    "31 an int8 scale that is not a number": (forge(int8s(math.nan), dtype="int8"), "not-finite"),
    "32 an infinite int8 scale": (forge(int8s(math.inf), dtype="int8"), "not-finite"),
    "33 an int8 scale that overflows": (forge(int8s(LARGEST), dtype="int8"), "not-finite"),
    "34 an int8 buffer without its scale": (forge(bytes(9), dtype="int8"), "truncated"),
}


def bomb_that_lies() -> bytes:
    """A frame of 256 MiB of zeros whose header says 36 bytes."""
    frame = bytearray(zstd(bytes(2**28)))
    size_field = frame.index(struct.pack("<I", 2**28))
    frame[size_field : size_field + 4] = struct.pack("<I", len(GOOD))
    return bytes(frame)


ATTACKS["35 a bomb that lies"] = (forge(GOOD, codec="zstd", payload=bomb_that_lies()), "malformed")


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused_by_its_reason_and_takes_no_memory(name: str) -> None:
    data, reason = ATTACKS[name]
    tracemalloc.start()
    try:
        with pytest.raises(WireError) as refusal:
            decode_layer(data, SPEC)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert refusal.value.reason == reason
    assert peak < 2**20


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("codec", CODECS)
def test_a_file_truncated_anywhere_is_refused(dtype: Dtype, codec: Codec) -> None:
    data = encode_layer(SPEC, VALUES, dtype, codec)
    for length in range(len(data)):
        with pytest.raises(WireError):
            decode_layer(data[:length], SPEC)


@given(st.sampled_from(DTYPES), st.sampled_from(CODECS), st.data())
def test_a_file_with_any_bit_flipped_is_refused_or_means_the_same(
    dtype: Dtype, codec: Codec, data: st.DataObject
) -> None:
    good = encode_layer(SPEC, VALUES, dtype, codec)
    bit = data.draw(st.integers(0, 8 * len(good) - 1))
    flipped = bytearray(good)
    flipped[bit // 8] ^= 1 << bit % 8
    try:
        decoded = decode_layer(bytes(flipped), SPEC)
    except WireError:
        return
    assert np.array_equal(decoded, decode_layer(good, SPEC))


@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda tail: struct.pack("<I", len(tail) // 2) + tail))
def test_arbitrary_bytes_raise_nothing_but_a_refusal(data: bytes) -> None:
    with pytest.raises(WireError):
        decode_layer(data, SPEC)


@given(st.binary(max_size=100), st.sampled_from(DTYPES), st.sampled_from(CODECS))
def test_arbitrary_buffers_raise_nothing_but_a_refusal(buffer: bytes, dtype: Dtype, codec: Codec) -> None:
    try:
        decoded = decode_layer(forge(buffer, dtype=dtype, codec=codec), SPEC)
    except WireError:
        return
    assert np.isfinite(decoded).all()
