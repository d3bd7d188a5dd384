from dataclasses import replace

import numpy as np
import pytest

from edge_client.dataset import Dataset, Split
from simulations.data.federation import Federation, check_federation, client_names
from wire.errors import ConfigError, DataError


def split(*labels: int) -> Split:
    return Split(np.zeros((len(labels), 2), dtype=np.float32), np.array(labels, dtype=np.int64))


GOOD = Dataset(split(0, 1), split(1), split(0))


def federation(**clients: Dataset) -> Federation:
    return Federation("test", 0, "none", (2,), 3, {"anna": GOOD, **clients})


def test_a_sound_federation_has_no_warnings() -> None:
    assert check_federation(federation(bert=GOOD)) == ()
    assert check_federation(federation(bert=GOOD._replace(test=None))) == ()


def test_a_class_that_nobody_trains_on_is_reported_with_who_is_judged_by_it() -> None:
    warnings = check_federation(federation(bert=Dataset(split(0), split(2), split(0)), carl=GOOD))
    assert warnings == ("class 2 is in no client's training data, but bert is judged by it",)


def test_a_class_that_another_client_trains_on_is_no_surprise() -> None:
    bert, carl = Dataset(split(0), split(2), split(0)), Dataset(split(2), split(2), None)
    assert check_federation(federation(bert=bert, carl=carl)) == ()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (GOOD._replace(train=split()), "bert has no train examples"),
        (GOOD._replace(validation=split()), "bert has no validation examples"),
        (GOOD._replace(train=split(0, 3)), "bert's train data has labels from 0 to 3"),
        (GOOD._replace(test=split(-1)), "bert's test data has labels from -1"),
        (GOOD._replace(train=Split(np.full((1, 2), np.nan, np.float32), split(0).targets)), "not finite"),
        (GOOD._replace(test=Split(np.full((1, 2), np.inf, np.float32), split(0).targets)), "not finite"),
        (GOOD._replace(train=Split(np.zeros((1, 3), np.float32), split(0).targets)), "expected .1, 2."),
        (GOOD._replace(train=Split(np.zeros((2, 2), np.float32), split(0).targets)), "shapes"),
        (GOOD._replace(train=Split(np.zeros((1, 2)), split(0).targets)), "float64 with int64"),
        (GOOD._replace(train=Split(split(0).inputs, np.zeros(1, np.int32))), "float32 with int32"),
    ],
)
def test_data_that_cannot_be_learned_from_is_refused_by_name(data: Dataset, why: str) -> None:
    with pytest.raises(DataError, match=why) as caught:
        check_federation(federation(bert=data))
    assert "bert" in str(caught.value)


def test_no_clients_one_class_and_no_order_are_refused() -> None:
    good = federation(bert=GOOD)
    for broken, why in (
        (replace(good, clients={}), "no clients"),
        (replace(good, num_classes=1), "1 classes"),
        (replace(good, clients=dict(reversed(good.clients.items()))), "sort them"),
    ):
        with pytest.raises(ConfigError, match=why):
            check_federation(broken)


@pytest.mark.parametrize("num_clients", [1, 1000, 1001])
def test_names_sort_as_their_numbers(num_clients: int) -> None:
    names = client_names(num_clients)
    assert len(set(names)) == num_clients
    assert list(names) == sorted(names)
