"""Content addresses: the name of a blob is the sha256 of its bytes."""

from __future__ import annotations

import hashlib

__all__ = ["content_digest"]


def content_digest(data: bytes) -> str:
    """Return the sha256 of the bytes as 64 hexadecimal digits.

    Example:
        >>> content_digest(b"")[:16]
        'e3b0c44298fc1c14'
    """
    return hashlib.sha256(data).hexdigest()
