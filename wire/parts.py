"""Blobs in parts: what is larger than a message travels in pieces, and is checked as a whole."""

from __future__ import annotations

from wire.digest import content_digest
from wire.errors import WireError
from wire.messages import Part

__all__ = ["Assembly", "num_parts", "split_blob"]


def num_parts(size_bytes: int, part_bytes: int) -> int:
    """Return how many parts a blob of this size makes.

    Example:
        >>> num_parts(257, 128)
        3
    """
    return -(-size_bytes // part_bytes)


def split_blob(data: bytes, part_bytes: int, digest: str = "") -> tuple[Part, ...]:
    """Return the parts of a blob, in order.

    Args:
        data: The blob, at least one byte.
        part_bytes: Size of every part but the last.
        digest: Its content digest, if it is known already.
    """
    name = digest or content_digest(data)
    count = num_parts(len(data), part_bytes)
    return tuple(
        Part(
            digest=name,
            index=index,
            num_parts=count,
            size_bytes=len(data),
            data=data[index * part_bytes : (index + 1) * part_bytes],
        )
        for index in range(count)
    )


class Assembly:
    """Collects the parts of one blob, in any order; repeats do no harm.

    No more than ``max_bytes`` are ever kept, whatever the parts claim.

    Args:
        digest: Of the blob that is wanted.
        max_bytes: The most that the blob may take.
    """

    def __init__(self, digest: str, max_bytes: int) -> None:
        """Start empty."""
        self.digest = digest
        self.max_bytes = max_bytes
        self._shape: tuple[int, int] | None = None
        self._pieces: dict[int, bytes] = {}
        self._num_bytes = 0

    def add(self, part: Part) -> bytes | None:
        """Take a part; return the blob when it is whole and its digest is right.

        Raises:
            WireError: If the part is of another blob or too large a one, which changes nothing; or if it does not fit
                the others, or the whole has another digest: the assembly then starts again from nothing.
        """
        if part.digest != self.digest:
            raise WireError("wrong-digest", f"a part of {part.digest[:12]}, expected {self.digest[:12]}")
        if part.size_bytes > self.max_bytes:
            raise WireError("oversized", f"a blob of {part.size_bytes} bytes, at most {self.max_bytes}")
        shape = (part.num_parts, part.size_bytes)
        if part.index >= part.num_parts or not part.data or self._shape not in (None, shape):
            self._reset()
            raise WireError("malformed", f"part {part.index} of {shape} does not fit blob {self.digest[:12]}")
        num_bytes = self._num_bytes + len(part.data) - len(self._pieces.get(part.index, b""))
        if num_bytes > part.size_bytes:
            self._reset()
            raise WireError("oversized", f"the parts of {self.digest[:12]} are larger than they say")
        self._shape, self._num_bytes = shape, num_bytes
        self._pieces[part.index] = part.data
        if len(self._pieces) < part.num_parts:
            return None
        blob = b"".join(self._pieces[index] for index in range(part.num_parts))
        self._reset()
        if content_digest(blob) != self.digest:
            raise WireError("wrong-digest", f"blob {self.digest[:12]} was altered on the way")
        return blob

    def holds(self, index: int) -> bool:
        """Say whether this part has come already."""
        return index in self._pieces

    def _reset(self) -> None:
        self._shape = None
        self._num_bytes = 0
        self._pieces.clear()
