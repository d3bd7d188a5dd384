"""Messages to bytes and back, and the digests that name them."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from wire.digest import content_digest
from wire.errors import WireError
from wire.messages import PROTOCOL_VERSION, Message, RoundPlan, Summary

__all__ = ["decode_message", "encode_message", "inventory_digest", "plan_digest"]


MAP_16 = b"\xde\x00"


class _Versioned(msgspec.Struct):
    version: int = 0


M = TypeVar("M", bound=Message)


def encode_message(message: Message) -> bytes:
    """Return the message as MessagePack; map keys of plans and inventories keep their order, so digests are stable."""
    data = msgspec.msgpack.encode(message)
    if data[:2] == MAP_16 and data[2] < 16:  # noqa: PLR2004 - msgspec counts fields that are unset, too: write the short head
        return bytes([0x80 | data[2]]) + data[3:]
    return data


def decode_message(payload: bytes, message_type: type[M], max_bytes: int) -> M:
    """Return the message that the payload holds.

    Args:
        payload: What came.
        message_type: What the topic promises.
        max_bytes: The most that a message of this type may take.

    Raises:
        WireError: ``oversized``, ``malformed`` or ``unknown-version``.
    """
    if len(payload) > max_bytes:
        raise WireError("oversized", f"a {message_type.__name__} of {len(payload)} bytes, at most {max_bytes}")
    try:
        version = msgspec.msgpack.decode(payload, type=_Versioned).version
        if version != PROTOCOL_VERSION:
            raise WireError("unknown-version", f"protocol {version}; this program knows {PROTOCOL_VERSION}")
        return msgspec.msgpack.decode(payload, type=message_type)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError("malformed", f"not a {message_type.__name__}: {error}") from error


def plan_digest(plan: RoundPlan) -> str:
    """Return the plan's digest: of its bytes without the signature."""
    return content_digest(encode_message(msgspec.structs.replace(plan, signature=b"")))


def inventory_digest(summary: Summary) -> str:
    """Return the digest under which an upload is acknowledged: of its plan and its inventory."""
    return content_digest(msgspec.msgpack.encode((summary.plan, summary.inventory)))
