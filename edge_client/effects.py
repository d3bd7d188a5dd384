"""What the session, which does no I/O, asks its shell to do. Effects are carried out in order."""

from __future__ import annotations

from typing import NamedTuple

from edge_client.fetching import Subscribe, Unsubscribe
from edge_client.generation import Generation
from edge_client.training import RoundWork
from edge_client.trust import Remember
from wire.messages import RoundPlan
from wire.topics import Envelope

__all__ = ["Effect", "LoadProgram", "Recall", "Train"]


class LoadProgram(NamedTuple):
    """Effect: load a program, of these files or of those on disk (``None``).

    The shell reports ``program_ready``, ``failed``, or ``program_missing`` if the disk has none.
    """

    model_id: str
    files: dict[str, bytes] | None


class Recall(NamedTuple):
    """Effect: find what this plan of a later epoch goes on from among all that the disk keeps, and report ``recalled``."""

    plan: RoundPlan


class Train(NamedTuple):
    """Effect: run this round, commit its generation, and report ``trained``, or ``failed``."""

    work: RoundWork
    previous: Generation | None


Effect = Envelope | Subscribe | Unsubscribe | LoadProgram | Recall | Remember | Train
