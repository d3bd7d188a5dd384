"""What one device has sent in a round: its summary, and what is still missing of its upload."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from wire.messages import InventoryItem, RoundPlan, Summary
from wire.parts import Assembly

__all__ = ["Answer", "go_on_with"]


@dataclass
class Answer:
    """One device's answer.

    Args:
        summary: What it said.
        missing: Digest -> what of the inventory has not come yet, of the layers that the round's plan shares.
        missing_bytes: How much that is.
        logged: The layers that have come.
        granted_s: When its parts were asked for, if they are under way.
        is_silent: It did not use its last grant.
        is_stored: All is durable.
    """

    summary: Summary
    missing: dict[str, tuple[InventoryItem, Assembly]] = field(default_factory=dict)
    missing_bytes: int = field(init=False)
    logged: set[str] = field(default_factory=set)
    granted_s: float | None = None
    is_silent: bool = False
    is_stored: bool = False

    def __post_init__(self) -> None:
        """Sum up once: thousands of devices wait for their turn by what the others are missing."""
        self.missing_bytes = sum(item.size_bytes for item, _ in self.missing.values())

    @classmethod
    def begin(cls, summary: Summary, plan: RoundPlan) -> Answer:
        """Return an answer of which nothing has come in the round of this plan."""
        wanted = [item for item in summary.inventory if item.layer in plan.shared_layers]
        return cls(summary, {item.digest: (item, Assembly(item.digest, item.size_bytes)) for item in wanted})

    def go_on(self, plan: RoundPlan) -> Answer:
        """Return the same answer in the round of a later plan; what has come need not come again."""
        logged = self.logged & plan.shared_layers.keys()
        wanted = Answer.begin(self.summary, plan).missing
        missing = {
            digest: self.missing.get(digest, item) for digest, item in wanted.items() if item[0].layer not in logged
        }
        return Answer(self.summary, missing, logged, self.granted_s, self.is_silent)

    def complete(self, item: InventoryItem) -> None:
        """Note that a layer has come."""
        del self.missing[item.digest]
        self.missing_bytes -= item.size_bytes
        self.logged.add(item.layer)


def go_on_with(
    unfinished: Mapping[str, Answer], plans: Mapping[str, RoundPlan]
) -> tuple[dict[str, Answer], tuple[tuple[str, str], ...]]:
    """Return what devices may go on with in the next round, and the layers of it that must be in that round's log.

    Args:
        unfinished: Device -> its answer in the round that closes, which is not durable.
        plans: Digest -> plan that can be answered in the next round, whose own is the last.
    """
    *_, plan = plans.values()
    answers = {name: answer.go_on(plan) for name, answer in unfinished.items() if answer.summary.plan in plans}
    return answers, tuple((name, layer) for name, answer in answers.items() for layer in sorted(answer.logged))
