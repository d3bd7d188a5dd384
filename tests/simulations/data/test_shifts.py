import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.data.client_shifts import group_labels, group_turns, own_labels, own_sensor, own_tiles
from simulations.data.pools import Draw
from simulations.data.shifts import invert, permute_tiles, quarter_turns, scale_channels

seeds = st.integers(0, 2**32 - 1)


def images(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((3, 1, 4, 4), dtype=np.float32)


def draw(client: int, seed: int) -> Draw:
    rng = np.random.default_rng(seed)
    return Draw(client, np.stack([rng.permutation(10) for _ in range(4)]), rng)


@given(seeds, st.integers(0, 3))
def test_four_quarters_are_a_whole_turn(seed: int, turns: int) -> None:
    x = images(seed)
    assert np.array_equal(quarter_turns(quarter_turns(x, turns), 4 - turns), x)
    assert quarter_turns(x, turns).flags.c_contiguous


@given(seeds, st.permutations(range(4)))
def test_shuffled_tiles_can_be_put_in_order(seed: int, order: list[int]) -> None:
    x, permutation = images(seed), np.array(order)
    shuffled = permute_tiles(x, permutation)
    assert np.array_equal(permute_tiles(shuffled, np.argsort(permutation)), x)
    assert sorted(shuffled[0, 0, :2, 2:].ravel()) == sorted(x[0, 0, :2, 2:].ravel())  # no pixel leaves its tile


@given(seeds)
def test_inverting_twice_changes_nothing(seed: int) -> None:
    assert np.allclose(invert(invert(images(seed))), images(seed), atol=1e-6)


def test_a_channel_has_one_gain_in_every_pixel() -> None:
    x = np.ones((2, 6), dtype=np.float32)
    assert scale_channels(x, np.array([2.0, 3.0]), np.array([0.0, 1.0])).tolist() == [[2, 4] * 3] * 2
    assert scale_channels(x, np.ones(2), np.zeros(2)).dtype == np.float32


@given(seeds)
def test_own_labels_rename_every_class_and_leave_inputs(seed: int) -> None:
    x, y = images(seed), np.arange(10)
    changed, names = own_labels(draw(0, seed))(x, y)
    assert changed is x
    assert sorted(names.tolist()) == y.tolist()


@given(seeds)
def test_every_fourth_client_shares_its_labels_and_its_turn(seed: int) -> None:
    x, y = images(seed), np.arange(10)
    for shift in (group_labels, group_turns):
        first, second, fifth = (shift(draw(client, seed))(x, y) for client in (0, 1, 4))
        assert all(np.array_equal(a, b) for a, b in zip(first, fifth, strict=True))
        assert not all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_about_half_of_the_clients_see_the_negative() -> None:
    dark = np.zeros((1, 1, 4, 4), dtype=np.float32)
    inverted = [bool(own_tiles(draw(0, seed))(dark, np.zeros(1))[0].any()) for seed in range(200)]
    assert 70 < sum(inverted) < 130


@pytest.mark.parametrize("seed", range(3))
def test_a_sensor_keeps_its_gains_from_split_to_split(seed: int) -> None:
    change = own_sensor(draw(0, seed))
    x = np.random.default_rng(seed).random((2, 36), dtype=np.float32)
    once, again = change(x, np.zeros(2))[0], change(x, np.zeros(2))[0]
    assert np.array_equal(once, again)
    assert not np.allclose(once, x)
