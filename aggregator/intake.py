"""The way of every message to the fleet: topic, allowance, payload. What does not pass is counted, and spoken of at times."""

from __future__ import annotations

from aggregator.allowance import Allowances, allowance_of
from aggregator.complaints import Complaints
from aggregator.config import AggregatorConfig
from aggregator.effects import Effect
from aggregator.fleet import Fleet
from wire.errors import WireError
from wire.manifest import ModelManifest
from wire.topics import Envelope, decode_payload, parse_topic

__all__ = ["Intake"]


class Intake:
    """What stands between the link and the fleet.

    Args:
        config: The aggregator's configuration.
        manifest: Of the model.
        fleet: Takes what passes.
    """

    def __init__(self, config: AggregatorConfig, manifest: ModelManifest, fleet: Fleet) -> None:
        """Begin with nothing refused."""
        self.complaints = Complaints()
        self._fleet_name = config.fleet
        self._fleet = fleet
        self._allowances = Allowances(allowance_of(manifest, config.rounds.sketch_width, config.training.part_bytes))

    def take(self, topic: str, payload: bytes, now_s: float) -> list[Effect]:
        """Take a message; return what is to be done, nothing if it is refused."""
        who = repr(topic[:100])
        try:
            address = parse_topic(self._fleet_name, topic)
            who = address.device_id
            self._allowances.take(who, len(payload), now_s)
            return self._fleet.handle(address, decode_payload(address, payload), now_s)
        except WireError as error:
            self._fleet.refused[error.reason] += 1
            self.complaints.note(who, error, now_s)
            return []

    def sent(self, envelope: Envelope, now_s: float) -> None:
        """Learn what was sent: who is asked for something may send it."""
        self._allowances.grant(envelope, now_s)
