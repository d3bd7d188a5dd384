"""Rows are cut in their order: nothing is lost, nothing is in two splits, and the future never trains."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_client.dataset import Split
from simulations.advise.splitting import complete_splits, cut_in_order, fewest_examples, join_splits
from wire.errors import DataError


def rows(numbers: range) -> Split:
    return Split(np.array(numbers, dtype=np.float32)[:, None], np.array(numbers, dtype=np.int64))


@given(st.integers(0, 200), st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_pieces_joined_are_the_rows_in_their_order(num_rows: int, shares: list[int]) -> None:
    pieces = cut_in_order(rows(range(num_rows)), shares)
    assert join_splits(pieces).targets.tolist() == list(range(num_rows))
    if num_rows >= sum(shares):
        assert all(len(piece.targets) for piece in pieces)


@given(st.integers(5, 200))
def test_what_nobody_has_split_trains_on_the_oldest_and_is_judged_by_the_newest(num_rows: int) -> None:
    data = complete_splits({"whole": rows(range(num_rows))})
    assert data.test is not None
    parts = [data.train.targets, data.validation.targets, data.test.targets]
    assert np.concatenate(parts).tolist() == list(range(num_rows))
    assert len(data.train.targets) >= 0.6 * num_rows
    assert min(len(part) for part in parts) >= 1


@given(st.integers(4, 50), st.integers(1, 50))
def test_given_test_examples_stay_what_they_are(num_train: int, num_test: int) -> None:
    test = rows(range(1000, 1000 + num_test))
    data = complete_splits({"train": rows(range(num_train)), "test": test})
    assert data.test is test
    assert np.concatenate([data.train.targets, data.validation.targets]).tolist() == list(range(num_train))


@given(st.integers(1, 50), st.integers(2, 50))
def test_given_training_examples_stay_where_only_a_test_split_is_missing(num_train: int, num_validation: int) -> None:
    train = rows(range(num_train))
    data = complete_splits({"train": train, "validation": rows(range(100, 100 + num_validation))})
    assert data.train is train
    assert data.test is not None
    assert np.concatenate([data.validation.targets, data.test.targets]).tolist() == list(
        range(100, 100 + num_validation)
    )


def test_three_given_splits_stay_as_they_are() -> None:
    parts = {"train": rows(range(1)), "validation": rows(range(1)), "test": rows(range(1))}
    assert complete_splits(parts) == (parts["train"], parts["validation"], parts["test"])


@pytest.mark.parametrize("names", [("whole",), ("train",), ("train", "test"), ("train", "validation")])
def test_one_example_fewer_than_needed_is_refused_with_the_number(names: tuple[str, ...]) -> None:
    enough = {name: rows(range(10)) for name in names}
    for name, fewest in fewest_examples(enough).items():
        complete_splits({**enough, name: rows(range(fewest))})
        with pytest.raises(DataError, match=rf"it has {fewest - 1} .*needs {fewest} or more"):
            complete_splits({**enough, name: rows(range(fewest - 1))})


def test_data_without_training_examples_is_refused() -> None:
    with pytest.raises(DataError, match="no training examples"):
        complete_splits({"validation": rows(range(9)), "test": rows(range(9))})
