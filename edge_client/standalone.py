"""A device's model for other programs: an ``.onnx`` file that needs nothing but ``x``, and its values as safetensors.

``predict.onnx`` takes its parameters as inputs. Here they become initializers, values inside the file, and leave the list of
inputs. That is done on the file's own bytes: ONNX is protobuf, where a message is a row of numbered fields (ONNX's
``onnx.proto3`` numbers them, https://github.com/onnx/onnx), so a device needs no package for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from wire.errors import ProgramError

__all__ = ["standalone_onnx"]

MODEL_GRAPH, GRAPH_INITIALIZER, GRAPH_INPUT, VALUE_NAME = 7, 5, 11, 1
TENSOR_DIMS, TENSOR_TYPE, TENSOR_NAME, TENSOR_BYTES = 1, 2, 8, 9
FLOAT = 1
VARINT, FIXED_64, BYTES, FIXED_32 = 0, 1, 2, 5
SIZES = {FIXED_64: 8, FIXED_32: 4}


class _Field(NamedTuple):
    """A field of a message: its number, its value if that is bytes, and all its bytes as they stand."""

    number: int
    value: bytes
    whole: bytes


def standalone_onnx(predict: bytes, params: Mapping[str, np.ndarray]) -> bytes:
    """Return the file with these parameters inside.

    Args:
        predict: The bytes of ``predict.onnx``.
        params: Name -> values, float32, for each parameter that it takes.

    Raises:
        ProgramError: If the bytes are no ONNX file that takes these parameters.
    """
    fields = list(_fields(predict))
    graphs = [field for field in fields if field.number == MODEL_GRAPH]
    if len(graphs) != 1:
        raise ProgramError(f"predict.onnx is no ONNX model: it has {len(graphs)} graphs; download the program again")
    inside = list(_fields(graphs[0].value))
    inputs = {field.whole: _value_name(field.value) for field in inside if field.number == GRAPH_INPUT}
    missing = sorted(set(params) - set(inputs.values()))
    if missing:
        raise ProgramError(f"predict.onnx does not take {missing[0]!r}; download the program again")
    kept = [field.whole for field in inside if inputs.get(field.whole) not in params]
    graph = b"".join([*kept, *(_initializer(name, values) for name, values in params.items())])
    return b"".join(_bytes(MODEL_GRAPH, graph) if field.number == MODEL_GRAPH else field.whole for field in fields)


def _initializer(name: str, values: np.ndarray) -> bytes:
    """Return the field of a graph that gives a tensor its values."""
    dims = b"".join(_varint(TENSOR_DIMS << 3 | VARINT) + _varint(size) for size in values.shape)
    kind = _varint(TENSOR_TYPE << 3 | VARINT) + _varint(FLOAT)
    content = _bytes(TENSOR_BYTES, np.ascontiguousarray(values, dtype="<f4").tobytes())
    return _bytes(GRAPH_INITIALIZER, dims + kind + _bytes(TENSOR_NAME, name.encode()) + content)


def _value_name(value: bytes) -> str:
    return next((field.value.decode(errors="replace") for field in _fields(value) if field.number == VALUE_NAME), "")


def _fields(message: bytes) -> Iterator[_Field]:
    """Yield a message's fields, in order.

    Raises:
        ProgramError: If the bytes are no message.
    """
    at = 0
    while at < len(message):
        begin = at
        key, at = _read_varint(message, at)
        kind, value = key & 7, b""
        if kind == VARINT:
            _, at = _read_varint(message, at)
        elif kind == BYTES:
            size, at = _read_varint(message, at)
            value, at = message[at : at + size], at + size
        elif kind in SIZES:
            at += SIZES[kind]
        else:
            raise ProgramError(f"predict.onnx is no ONNX model: a field of kind {kind} at byte {begin}")
        if at > len(message):
            raise ProgramError("predict.onnx is no ONNX model: it ends in the middle of a field")
        yield _Field(key >> 3, value, message[begin:at])


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the number that begins here, seven bits a byte, and where it ends."""
    number = 0
    for place, byte in enumerate(data[at : at + 10]):
        number |= (byte & 127) << 7 * place
        if byte < 128:  # noqa: PLR2004 - the bit that says more follows
            return number, at + place + 1
    raise ProgramError("predict.onnx is no ONNX model: a number without an end")


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:  # noqa: PLR2004 - see above
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def _bytes(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | BYTES) + _varint(len(content)) + content
