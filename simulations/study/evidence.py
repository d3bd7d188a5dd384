"""The evidence: the studies behind what the README claims, and what is committed of their results.

A profile is a study that comes with FedLAG Edge. Its results are kept in a file of results like any study's; of those,
the summary and the accuracy of every cell that a learning rate was chosen for are committed, so that anyone can run a cell
again and compare.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any, Literal

import msgspec

from simulations.study.cell import PlannedCell
from simulations.study.choosing import choose_rates
from simulations.study.config import StudyConfig, parse_study, read_tree
from simulations.study.plan import StudyPlan, plan_study
from simulations.study.store import ResultStore
from simulations.study.summary import StudySummary
from simulations.study.summing import summarize
from wire.errors import DataError

__all__ = ["Evidence", "EvidenceCell", "Profile", "gather_evidence", "load_evidence", "plan_profile", "to_json"]

Profile = Literal["cpu", "families", "hard", "recurrent", "deep", "shifts", "masks", "variants", "full"]


class EvidenceCell(msgspec.Struct, frozen=True):
    """What one cell came to.

    Args:
        scenario: Its scenario.
        method: Its method.
        seed: Its seed.
        learning_rate: The one that validation data chose.
        digest: Of all that decides its result.
        test_accuracy: Mean over its clients; None without test examples.
    """

    scenario: str
    method: str
    seed: int
    learning_rate: float
    digest: str
    test_accuracy: float | None


class Evidence(msgspec.Struct, frozen=True):
    """What is committed.

    Args:
        profile: Which study it was.
        summary: Of the study.
        cells: Those that count.
    """

    profile: Profile
    summary: StudySummary
    cells: tuple[EvidenceCell, ...]


def plan_profile(profile: Profile) -> StudyPlan:
    """Return the cells of a profile; its data must be there.

    Raises:
        DataError: If a data set is missing; the line says how to get it.
    """
    return plan_study(_profile_study(profile))


def gather_evidence(profile: Profile, plan: StudyPlan, store: ResultStore) -> Evidence:
    """Return what the store holds of a profile.

    Raises:
        DataError: If it does not hold all of it.
    """
    choices = choose_rates(plan.cells, store.score)
    cells = tuple(_cell(choice.planned, store) for choice in choices)
    summary = summarize(plan, store.score, lambda digest: store.read(digest, with_rounds=False))
    if summary.num_done + summary.num_diverged < summary.num_cells:
        raise DataError(
            f"{store.path} holds {summary.num_done} of {summary.num_cells} cells: run `fedlag simulate evidence` to its end"
        )
    return Evidence(profile, summary, cells)


def load_evidence(path: Path) -> Evidence:
    """Return committed evidence.

    Raises:
        DataError: If the file is missing, or is none.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Evidence)
    except (OSError, msgspec.DecodeError) as error:
        raise DataError(f"{path} is not what `fedlag simulate evidence` writes: {error}") from error


def to_json(evidence: Evidence) -> bytes:
    """Encode for the repository: indented, figures rounded to what they are worth."""
    tree = _rounded(msgspec.to_builtins(evidence))
    return msgspec.json.format(msgspec.json.encode(tree), indent=1) + b"\n"


def _profile_study(profile: Profile) -> StudyConfig:
    name = f"evidence-{profile}.toml"
    with resources.as_file(resources.files("simulations.study").joinpath(name)) as path:
        return parse_study(read_tree(path), path)


def _cell(planned: PlannedCell, store: ResultStore) -> EvidenceCell:
    outcome = store.read(planned.digest, with_rounds=False)
    known = [it.test_accuracy for it in outcome.clients if it.test_accuracy is not None] if outcome else []
    return EvidenceCell(
        planned.scenario,
        planned.method,
        planned.cell.seed,
        planned.cell.learning_rate,
        planned.digest,
        sum(known) / len(known) if known else None,
    )


def _rounded(tree: Any) -> Any:
    match tree:
        case float():
            return round(tree, 5)
        case dict():
            return {key: _rounded(value) for key, value in tree.items()}
        case list() | tuple():
            return [_rounded(value) for value in tree]
    return tree
