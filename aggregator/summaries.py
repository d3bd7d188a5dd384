"""Summaries come in parts: they are put together here, one of each device at a time."""

from __future__ import annotations

from aggregator.admission import max_summary_bytes
from wire.codec import decode_message
from wire.manifest import ModelManifest
from wire.messages import Part, Summary
from wire.parts import Assembly

__all__ = ["Summaries"]

MAX_BYTES = 256 * 1024 * 1024
FEWEST = 16


class Summaries:
    """Those of which a part has come.

    No more are kept than fit into 256 MiB, whatever names are made up; the oldest is dropped, and its device says it again.

    Args:
        manifest: Of the model.
        sketch_width: Most values of one layer's sketch; with the manifest it bounds a summary's size.
    """

    def __init__(self, manifest: ModelManifest, sketch_width: int) -> None:
        """Begin without any."""
        self._limit = max_summary_bytes(manifest, sketch_width)
        self._begun: dict[str, Assembly] = {}

    def add(self, device_id: str, part: Part) -> Summary | None:
        """Take a part; return the summary if it is whole now. A part of another summary drops the one that was begun.

        Raises:
            WireError: If the part does not fit, or the summary is not valid.
        """
        assembly = self._begun.get(device_id)
        if assembly is None or assembly.digest != part.digest:
            assembly = Assembly(part.digest, self._limit)
        data = assembly.add(part)
        self._begun.pop(device_id, None)
        if data is None:
            self._begun[device_id] = assembly
            while len(self._begun) > max(MAX_BYTES // self._limit, FEWEST):
                del self._begun[next(iter(self._begun))]
            return None
        return decode_message(data, Summary, self._limit)
