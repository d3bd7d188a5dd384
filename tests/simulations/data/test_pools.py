from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_client.dataset import Dataset
from simulations.data.partitions import iid
from simulations.data.pools import Draw, Pool, Request, deal, draw_like
from wire.errors import ConfigError, DataError

seeds = st.integers(0, 2**32 - 1)


def pool(num_train: int = 120) -> Pool:
    return Pool(
        np.arange(num_train), np.arange(num_train) % 4, -1 - np.arange(1000), np.arange(1000) % 4, num_classes=4
    )


def floats(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32)


def dealt(request: Request, examples: Pool | None = None, **options: int | None) -> dict[str, Dataset]:
    return deal(
        examples or pool(),
        request,
        iid,
        prepare=floats,
        input_shape=(),
        num_clients=options.get("num_clients") or 4,
        examples_per_client=options.get("examples_per_client"),
    )


@given(st.lists(st.integers(0, 4), min_size=1, max_size=50), st.integers(1, 40), seeds)
def test_test_examples_have_the_clients_mix_and_none_comes_twice(own: list[int], num: int, seed: int) -> None:
    labels = np.arange(250) % 5
    drawn = draw_like(np.array(own), labels, num, 5, np.random.default_rng(seed))
    shares = np.bincount(own, minlength=5) / len(own)
    assert len(set(drawn.tolist())) == len(drawn) == num
    assert (np.abs(np.bincount(labels[drawn], minlength=5) - shares * num) < 1 + 1e-9).all()


def test_where_a_class_is_rare_fewer_are_drawn_and_the_mix_stays() -> None:
    labels = np.array([0] * 100 + [1] * 5)
    drawn = labels[draw_like(np.array([0, 1]), labels, 60, 2, np.random.default_rng(0))]
    assert np.bincount(drawn).tolist() == [5, 5]


def test_a_class_without_test_examples_is_refused() -> None:
    with pytest.raises(DataError, match="no test example is of class 1"):
        draw_like(np.array([0, 1]), np.zeros(9, dtype=np.int64), 4, 2, np.random.default_rng(0))


@given(seeds)
def test_no_example_has_two_owners_and_a_third_is_for_validation(seed: int) -> None:
    clients = list(dealt(Request(seed)).values())
    own = np.concatenate([np.concatenate([c.train.inputs, c.validation.inputs]) for c in clients])
    assert sorted(own.tolist()) == list(range(120))
    assert [(len(c.train.targets), len(c.validation.targets)) for c in clients] == [(20, 10)] * 4
    assert all(c.test is not None and (c.test.inputs < 0).all() and len(c.test.targets) == 200 for c in clients)


@given(seeds, st.integers(1, 20))
def test_fewer_validation_examples_leave_everything_else(seed: int, most: int) -> None:
    for full, cut in zip(dealt(Request(seed)).values(), dealt(Request(seed, None, None, most)).values(), strict=True):
        assert np.array_equal(full.train.inputs, cut.train.inputs)
        assert np.array_equal(full.validation.inputs[:most], cut.validation.inputs)


def test_from_100_clients_on_each_has_60_test_examples() -> None:
    clients = dealt(Request(0, num_clients=100), pool(1500)).values()
    assert {len(c.test.targets) for c in clients if c.test is not None} == {60}


def test_labels_stay_with_their_inputs_and_a_shift_sees_all_splits() -> None:
    def count(draw: Draw) -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        return lambda x, y: (x + 10_000 * draw.client, y)

    clients = deal(
        pool(), Request(3), iid, shift=count, prepare=floats, input_shape=(1,), num_clients=4, examples_per_client=9
    )
    for number, client in enumerate(clients.values()):
        for split in (client.train, client.validation):
            assert np.array_equal((split.inputs[:, 0] - 10_000 * number) % 4, split.targets)
        assert client.test is not None
        assert np.array_equal((-1 - client.test.inputs[:, 0] + 10_000 * number) % 4, client.test.targets)


def test_more_than_the_pool_holds_is_refused_with_what_it_holds() -> None:
    with pytest.raises(ConfigError, match="at most 30 examples per client"):
        dealt(Request(0, examples_per_client=31))


@pytest.mark.parametrize(
    "numbers",
    [
        {"seed": -1},
        {"seed": 0, "num_clients": 0},
        {"seed": 0, "examples_per_client": 1},
        {"seed": 0, "validation_examples": 0},
    ],
)
def test_numbers_that_make_no_sense_are_refused(numbers: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="must be at least"):
        Request(**numbers)
