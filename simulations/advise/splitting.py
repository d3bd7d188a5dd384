"""A device's examples, cut into what it trains on, what it chooses on and what it is judged by: in order, never shuffled.

Rows that follow each other in time are alike. Cut in one piece each, a test example has its likeness at one border of
the training data; shuffled, it would have it everywhere, and every method would seem better than it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edge_client.dataset import Dataset, Split
from wire.errors import DataError

__all__ = ["WHOLE", "complete_splits", "cut_in_order", "fewest_examples", "join_splits"]

WHOLE = "whole"
"""Examples that nobody has split yet."""

TRAIN, VALIDATION, TEST = "train", "validation", "test"

RECIPES: dict[frozenset[str], tuple[str, tuple[int, ...]]] = {
    frozenset({WHOLE}): (WHOLE, (3, 1, 1)),
    frozenset({TRAIN}): (TRAIN, (3, 1, 1)),
    frozenset({TRAIN, TEST}): (TRAIN, (3, 1)),
    frozenset({TRAIN, VALIDATION}): (VALIDATION, (1, 1)),
}
"""What is there -> what of it is cut, and into which shares."""


def cut_in_order(split: Split, shares: Sequence[int]) -> list[Split]:
    """Return the examples in pieces, each one stretch of the rows, in their order.

    Args:
        split: Examples, the oldest first.
        shares: Of the pieces; each at least 1.

    Returns:
        One piece a share; every piece but the first has its share rounded down, but at least one example if there are
        as many examples as the shares add up to.

    Example:
        >>> rows = Split(np.zeros((11, 2), dtype=np.float32), np.arange(11))
        >>> [piece.targets.tolist() for piece in cut_in_order(rows, (3, 1, 1))]
        [[0, 1, 2, 3, 4, 5, 6], [7, 8], [9, 10]]
    """
    num_rows = len(split.targets)
    sizes = [num_rows * share // sum(shares) for share in shares[1:]]
    borders = np.cumsum([num_rows - sum(sizes), *sizes])[:-1]
    pieces = zip(np.split(split.inputs, borders), np.split(split.targets, borders), strict=True)
    return [Split(inputs, targets) for inputs, targets in pieces]


def join_splits(parts: Sequence[Split]) -> Split:
    """Return several pieces as one, in their order.

    Args:
        parts: At least one, of the same input shape.
    """
    return Split(np.concatenate([part.inputs for part in parts]), np.concatenate([part.targets for part in parts]))


def fewest_examples(parts: Mapping[str, Split]) -> dict[str, int]:
    """Return part -> the fewest examples with which each split gets one.

    Example:
        >>> rows = Split(np.zeros((11, 2), dtype=np.float32), np.arange(11))
        >>> fewest_examples({"train": rows, "test": rows})
        {'train': 4, 'test': 1}
    """
    recipe = RECIPES.get(frozenset(parts))
    return {name: sum(recipe[1]) if recipe and recipe[0] == name else 1 for name in parts}


def complete_splits(parts: Mapping[str, Split]) -> Dataset:
    """Return a device's data with all three splits.

    ::

        nothing split, or train alone    60 % train, 20 % validation, 20 % test
        train and test                   the last quarter of train becomes validation
        train and validation             the last half of validation becomes test
        all three                        as they are

    Args:
        parts: ``whole``, or ``train`` with ``validation``, ``test`` or both.

    Raises:
        DataError: If there is another set of parts, or one of them has too few examples.
    """
    recipe = RECIPES.get(frozenset(parts))
    if recipe is None and set(parts) != {TRAIN, VALIDATION, TEST}:
        raise DataError(f"it has {', '.join(sorted(parts)) or 'no examples'}, but no training examples")
    for name, fewest in fewest_examples(parts).items():
        if (found := len(parts[name].targets)) < fewest:
            what = "examples" if name == WHOLE else f"{name} examples"
            raise DataError(f"it has {found} {what}, and needs {fewest} or more")
    if recipe is None:
        return Dataset(parts[TRAIN], parts[VALIDATION], parts[TEST])
    name, shares = recipe
    pieces = cut_in_order(parts[name], shares)
    if name == VALIDATION:
        return Dataset(parts[TRAIN], pieces[0], pieces[1])
    return Dataset(pieces[0], pieces[1], parts[TEST] if TEST in parts else pieces[2])
