"""Fetching content-addressed blobs: which topics to follow, and when a blob is whole. No I/O."""

from __future__ import annotations

from typing import NamedTuple

from wire.errors import WireError
from wire.manifest import decode_manifest
from wire.messages import Part
from wire.parts import Assembly
from wire.topics import PROGRAM, Address, Route, subscription

__all__ = ["Fetching", "ProgramFiles", "Subscribe", "Unsubscribe"]

PATIENCE_S = 15.0
MAX_MANIFEST_BYTES = 4 * 1024 * 1024
MAX_PROGRAM_BYTES = 256 * 1024 * 1024
MANIFEST = "manifest.json"


class Subscribe(NamedTuple):
    """Effect: receive what matches this topic filter."""

    topic_filter: str


class Unsubscribe(NamedTuple):
    """Effect: receive no more of it."""

    topic_filter: str


class Fetching:
    """The blobs that a device waits for.

    Args:
        fleet: Whose topics they are on.
    """

    def __init__(self, fleet: str) -> None:
        """Wait for nothing."""
        self._fleet = fleet
        self._wanted: dict[str, tuple[Route, Assembly]] = {}
        self._due_s: float | None = None

    def want(self, route: Route, digest: str, max_bytes: int) -> list[Subscribe]:
        """Ask for a blob of at most this size; asking again changes nothing."""
        if digest in self._wanted:
            return []
        self._wanted[digest] = (route, Assembly(digest, max_bytes))
        self._due_s = None
        return [Subscribe(subscription(self._fleet, route, digest=digest))]

    def take(self, address: Address, part: Part, now_s: float) -> tuple[bytes | None, list[Unsubscribe]]:
        """Take a part; return the blob if it is whole now, and the topic that needs no following any more.

        Raises:
            WireError: If the part fits nothing that was asked for.
        """
        route, assembly = self._wanted.get(address.digest, (None, None))
        if assembly is None or route is not address.route:
            raise WireError("unknown-topic", f"nobody asked for {address.route.name} {address.digest[:12]}")
        blob = assembly.add(part)
        self._due_s = now_s + PATIENCE_S
        if blob is None:
            return None, []
        del self._wanted[address.digest]
        return blob, [Unsubscribe(subscription(self._fleet, address.route, digest=address.digest))]

    def forget(self, route: Route) -> list[Unsubscribe]:
        """Wait no more for the blobs of this route."""
        digests = [digest for digest, (wanted_on, _) in self._wanted.items() if wanted_on is route]
        for digest in digests:
            del self._wanted[digest]
        return [Unsubscribe(subscription(self._fleet, route, digest=digest)) for digest in digests]

    def tick(self, now_s: float) -> list[Subscribe | Unsubscribe]:
        """Follow the topics anew if nothing came for a while: the broker then sends again what it retains."""
        if self._due_s is None:
            self._due_s = now_s + PATIENCE_S
        if now_s < self._due_s:
            return []
        self._due_s = now_s + PATIENCE_S
        effects: list[Subscribe | Unsubscribe] = []
        for digest, (route, _) in self._wanted.items():
            topic_filter = subscription(self._fleet, route, digest=digest)
            effects += [Unsubscribe(topic_filter), Subscribe(topic_filter)]
        return effects


class ProgramFiles:
    """The files of a program that is being fetched, the manifest first.

    Args:
        suffix: Of the files that this device's runtime needs.
        fetching: Where they are asked for.
    """

    def __init__(self, suffix: str, fetching: Fetching) -> None:
        """Ask for nothing."""
        self.files: dict[str, bytes] = {}
        self._suffix = suffix
        self._fetching = fetching
        self._expected: dict[str, list[str]] = {}

    @property
    def are_whole(self) -> bool:
        """Whether nothing is missing."""
        return bool(self.files) and not self._expected

    @property
    def are_useless(self) -> bool:
        """Whether the program has none for this device's runtime."""
        return set(self.files) == {MANIFEST}

    def fetch(self, model_id: str) -> list[Subscribe]:
        """Start anew, with the manifest of this model."""
        self.files, self._expected = {}, {model_id: [MANIFEST]}
        return self._fetching.want(PROGRAM, model_id, MAX_MANIFEST_BYTES)

    def take(self, digest: str, blob: bytes) -> list[Subscribe]:
        """Take a file; ask for those that its manifest names.

        Raises:
            ManifestError: If the manifest cannot be used.
        """
        names = self._expected.pop(digest)
        self.files |= dict.fromkeys(names, blob)
        if names != [MANIFEST]:
            return []
        effects = []
        for file_name, file in decode_manifest(blob).files.items():
            if file_name.endswith(self._suffix):
                self._expected.setdefault(file.sha256, []).append(file_name)
                effects += self._fetching.want(PROGRAM, file.sha256, min(file.size_bytes, MAX_PROGRAM_BYTES))
        return effects
