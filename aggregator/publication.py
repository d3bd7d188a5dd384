"""What the aggregator keeps retained on the broker: presence, program, layers, plan. No I/O.

The last two versions of the layers stay; older ones are cleared with empty retained messages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from wire.digest import content_digest
from wire.messages import RoundPlan, ServerStatus
from wire.parts import num_parts, split_blob
from wire.topics import MODEL, PLAN, PROGRAM, SERVER, Address, Envelope, Route

__all__ = ["Publication"]

PART_BYTES = 128 * 1024


class Publication:
    """The retained messages of one fleet.

    Args:
        session: Of this start of the aggregator.
        program: Its files, the manifest among them.
        layers: Digest -> encoded values, of the layers that the current plan names.
        sign: Gives a plan the aggregator's signature. Plans are signed here, as they go out, and nowhere else.
    """

    def __init__(
        self,
        session: int,
        program: tuple[bytes, ...],
        layers: Mapping[str, bytes],
        sign: Callable[[RoundPlan], RoundPlan],
    ) -> None:
        """Prepare; nothing is published yet."""
        self._sign = sign
        self._session = session
        self._program = {content_digest(data): data for data in program}
        self._versions: list[dict[str, bytes]] = [dict(layers)]

    def presence(self, state: str) -> Envelope:
        """Return the aggregator's birth (``online``), end (``finished``) or will (``lost``)."""
        return Envelope(Address(SERVER), ServerStatus(state=state, session=self._session))  # type: ignore[arg-type]

    def everything(self, plan: RoundPlan, *, is_finished: bool) -> list[Envelope]:
        """Return all that a broker without memory must be told, what a plan names before the plan."""
        envelopes = [self.presence("finished" if is_finished else "online")]
        for digest, data in self._program.items():
            envelopes += _parts(PROGRAM, digest, data)
        for digest, data in self._versions[-1].items():
            envelopes += _parts(MODEL, digest, data)
        return [*envelopes, Envelope(Address(PLAN), self._sign(plan))]

    def next_version(self, layers: Mapping[str, bytes], plan: RoundPlan) -> list[Envelope]:
        """Return what the next plan needs: its new layers, the plan, and the clearing of what no plan needs now."""
        named = {*plan.shared_layers.values(), *plan.personal_layers.values()}
        kept = {digest: data for digest, data in self._versions[-1].items() if digest in named}
        self._versions.append({**kept, **layers})
        envelopes = [part for digest, data in layers.items() for part in _parts(MODEL, digest, data)]
        envelopes.append(Envelope(Address(PLAN), self._sign(plan)))
        while len(self._versions) > 2:  # noqa: PLR2004 - the last two versions stay
            outdated = self._versions.pop(0)
            current = {digest for version in self._versions for digest in version}
            for digest, data in outdated.items():
                if digest not in current:
                    envelopes += _clear(digest, data)
        return envelopes


def _parts(route: Route, digest: str, data: bytes) -> list[Envelope]:
    parts = split_blob(data, PART_BYTES, digest)
    return [Envelope(Address(route, digest=digest, part=part.index), part) for part in parts]


def _clear(digest: str, data: bytes) -> list[Envelope]:
    return [
        Envelope(Address(MODEL, digest=digest, part=index), None) for index in range(num_parts(len(data), PART_BYTES))
    ]
