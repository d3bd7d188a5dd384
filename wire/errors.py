"""The errors that a user may meet, and the exit code of each.

::

    FedlagError                 1  anything below
    ├── ConfigError             3  a configuration file or option is wrong
    ├── DataError               4  a data file is missing or broken
    ├── ModelError              5  a model, manifest or program cannot be used
    │   ├── ExportError            the exporter refuses the model
    │   ├── ManifestError          a manifest is broken or does not match its files
    │   └── ProgramError           a runtime cannot load or run the program
    ├── BrokerError             6  the broker cannot be reached or started
    ├── StoreError              7  the disk refuses, or what it holds is damaged
    ├── FleetError              8  a round or a fleet cannot go on
    └── WireError                  a message from elsewhere is refused; never ends a process
"""

from __future__ import annotations

from typing import ClassVar, Literal

__all__ = [
    "BrokerError",
    "ConfigError",
    "DataError",
    "ExportError",
    "FedlagError",
    "FleetError",
    "ManifestError",
    "ModelError",
    "ProgramError",
    "RefusalReason",
    "StoreError",
    "WireError",
]

RefusalReason = Literal[
    "truncated",
    "oversized",
    "malformed",
    "unknown-version",
    "unknown-topic",
    "unknown-device",
    "foreign-fleet",
    "foreign-round",
    "not-invited",
    "wrong-shape",
    "wrong-digest",
    "wrong-signature",
    "wrong-layers",
    "not-finite",
    "late",
    "flooding",
]
"""Why a message was refused; the aggregator and the devices count by these words."""


class FedlagError(Exception):
    """An error with one line for people: what happened, where, and what to do."""

    exit_code: ClassVar[int] = 1


class ConfigError(FedlagError):
    """A configuration file or an option is wrong."""

    exit_code = 3


class DataError(FedlagError):
    """A data file is missing or broken."""

    exit_code = 4


class ModelError(FedlagError):
    """A model, its manifest or its program cannot be used."""

    exit_code = 5


class ExportError(ModelError):
    """The exporter refuses the model."""


class ManifestError(ModelError):
    """A manifest is broken, or does not match its program's files."""


class ProgramError(ModelError):
    """A runtime cannot load or run the program."""


class BrokerError(FedlagError):
    """The broker cannot be reached or started."""

    exit_code = 6


class StoreError(FedlagError):
    """The disk refuses to store, or what it holds is damaged."""

    exit_code = 7


class FleetError(FedlagError):
    """A round or a fleet cannot go on."""

    exit_code = 8


class WireError(FedlagError):
    """A message from elsewhere is refused: it is counted by its reason and dropped.

    Args:
        reason: The word under which the refusal is counted.
        detail: What was expected and what came.
    """

    def __init__(self, reason: RefusalReason, detail: str) -> None:
        """Keep the reason beside the line for people."""
        super().__init__(f"{reason}: {detail}")
        self.reason: RefusalReason = reason
