"""Grids: one study, run with every combination of some options' values."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from simulations.study.config import StudyConfig, parse_study
from wire.errors import ConfigError

__all__ = ["Grid", "parse_grid", "sweep_studies"]

SECTIONS = ("rounds", "training", "scenarios")
METHODS = "methods"


class Grid(NamedTuple):
    """The values of one option.

    Args:
        key: As TOML would name it, for example ``("rounds", "cohort_size")`` or
            ``("methods", "fedlag-paper", "num_personal")``.
        values: Each to be tried.
    """

    key: tuple[str, ...]
    values: tuple[Any, ...]


def parse_grid(text: str) -> Grid:
    """Return the grid in ``key=v1,v2``; a value is TOML, or else a word.

    Raises:
        ConfigError: If the text is none, or there is no such key.

    Example:
        >>> parse_grid("rounds.cohort_size=5,10")
        Grid(key=('rounds', 'cohort_size'), values=(5, 10))
        >>> parse_grid("methods.fedlag-paper.schedule=frozen,every_round").values
        ('frozen', 'every_round')
    """
    name, is_there, listed = text.partition("=")
    key = tuple(name.strip().split("."))
    fits = (len(key) == 2 and key[0] in SECTIONS) or (len(key) == 3 and key[0] == METHODS)  # noqa: PLR2004 - see below
    if not is_there or not listed.strip() or not all(key) or not fits:
        raise ConfigError(
            f"--set {text!r} is not KEY=VALUE,VALUE with a KEY like rounds.cohort_size, training.num_epochs, "
            "scenarios.num_clients or methods.fedlag-paper.num_personal"
        )
    return Grid(key, tuple(_values(listed)))


def sweep_studies(tree: dict[str, Any], path: Path, grids: Sequence[Grid]) -> list[tuple[str, StudyConfig]]:
    """Return every combination's study, with what tells its scenarios apart.

    Options of methods become methods side by side, and ``training.learning_rates`` the rates to choose from; whatever
    else changes makes scenarios of its own, because only what was run alike can be compared.

    Args:
        tree: The configuration, as TOML has it.
        path: Where it came from.
        grids: What varies.

    Raises:
        ConfigError: If a combination is no study, or a method is not there.
    """
    tree = copy.deepcopy(tree)
    tree.setdefault(METHODS, [])
    for name in dict.fromkeys(grid.key[1] for grid in grids if grid.key[0] == METHODS):
        _expand_method(tree, name, [grid for grid in grids if grid.key[:2] == (METHODS, name)])
    settings = [grid for grid in grids if grid.key[0] != METHODS]
    for grid in [grid for grid in settings if grid.key == ("training", "learning_rates")]:
        _section(tree, "training")["learning_rates"] = list(grid.values)
        settings.remove(grid)
    studies = []
    for combination in product(*(grid.values for grid in settings)):
        varied = copy.deepcopy(tree)
        for grid, value in zip(settings, combination, strict=True):
            _set(varied, grid.key, value)
        told = ", ".join(f"{grid.key[1]}={value}" for grid, value in zip(settings, combination, strict=True))
        studies.append((f" {told}".rstrip(), parse_study(varied, path)))
    return studies


def _values(listed: str) -> Iterable[Any]:
    try:
        return tomllib.loads(f"values = [{listed}]")["values"]
    except tomllib.TOMLDecodeError:
        return [_value(word.strip()) for word in listed.split(",")]


def _value(word: str) -> Any:
    try:
        return tomllib.loads(f"value = {word}")["value"]
    except tomllib.TOMLDecodeError:
        return word


def _expand_method(tree: dict[str, Any], name: str, grids: Sequence[Grid]) -> None:
    """Put one method for each combination in the place of every method of this name."""
    expanded: list[Any] = []
    for method in tree[METHODS]:
        entry = _table(method)
        if entry.get("name") != name:
            expanded.append(method)
            continue
        for combination in product(*(grid.values for grid in grids)):
            own = {grid.key[2]: value for grid, value in zip(grids, combination, strict=True)}
            expanded.append({"name": name, "options": {**entry.get("options", {}), **own}})
    if len(expanded) == len(tree[METHODS]) and expanded == tree[METHODS]:
        raise ConfigError(f"--set methods.{name}: the study has no method {name!r}")
    tree[METHODS] = expanded


def _set(tree: dict[str, Any], key: tuple[str, ...], value: Any) -> None:
    if key[0] != "scenarios":
        _section(tree, key[0])[key[1]] = value
        return
    scenarios: list[Any] = tree.get("scenarios", [])
    tree["scenarios"] = [{**_table(it), key[1]: value} for it in scenarios]


def _table(entry: Any) -> dict[str, Any]:
    """Return what stands for a scenario or method, given by name alone or as a table."""
    return {"name": entry} if isinstance(entry, str) else dict(entry)


def _section(tree: dict[str, Any], name: str) -> dict[str, Any]:
    section: dict[str, Any] = tree.setdefault(name, {})
    return section
