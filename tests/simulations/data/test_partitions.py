from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.data.partitions import (
    classes_per_device,
    dirichlet,
    iid,
    label_permutation,
    random_rotation,
    rotate_sensor,
    top_up,
)
from wire.errors import ConfigError

Partition = Callable[[np.ndarray, np.random.Generator], tuple[np.ndarray, ...]]

seeds = st.integers(0, 2**32 - 1)
labels = st.lists(st.integers(0, 4), min_size=60, max_size=200).map(np.array)
partitions = st.sampled_from(
    [
        lambda y, rng: iid(y, 7, rng),
        lambda y, rng: dirichlet(y, 4, 0.5, rng, min_size=3),
        lambda y, rng: classes_per_device(y, 5, min(2, len(np.unique(y))), rng),
    ]
)


def balanced(num_classes: int, each: int) -> np.ndarray:
    return np.repeat(np.arange(num_classes), each)


@given(labels, partitions, seeds)
def test_every_example_lands_exactly_once(y: np.ndarray, partition: Partition, seed: int) -> None:
    try:
        parts = partition(y, np.random.default_rng(seed))
    except ConfigError:  # a class that is too rare to share out
        assert np.unique(y, return_counts=True)[1].min() < 5
        return
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(y)))


@given(partitions, seeds)
def test_the_seed_decides_the_split(partition: Partition, seed: int) -> None:
    y = balanced(5, 30)
    once, again, other = (partition(y, np.random.default_rng(s)) for s in (seed, seed, seed + 1))
    assert all(np.array_equal(a, b) for a, b in zip(once, again, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(once, other, strict=True))


@given(st.integers(1, 40), seeds)
def test_iid_sizes_differ_by_at_most_one(num_devices: int, seed: int) -> None:
    sizes = [len(part) for part in iid(np.zeros(40), num_devices, np.random.default_rng(seed))]
    assert max(sizes) - min(sizes) <= 1


@given(st.floats(0.05, 10), st.integers(1, 12), seeds)
def test_dirichlet_leaves_no_device_below_the_minimum(alpha: float, min_size: int, seed: int) -> None:
    try:
        parts = dirichlet(balanced(10, 30), 6, alpha, np.random.default_rng(seed), min_size=min_size)
    except ConfigError as error:
        assert "raise alpha" in str(error)  # noqa: PT017 - a draw may truly fail
        return
    assert min(map(len, parts)) >= min_size


@given(st.lists(st.integers(0, 30), min_size=1, max_size=8), st.integers(0, 10))
def test_topping_up_leaves_every_example_one_owner_and_nobody_too_few(sizes: list[int], min_size: int) -> None:
    parts = tuple(np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1]))
    try:
        topped = top_up(parts, min_size)
    except ConfigError:
        assert sum(sizes) < min_size * len(sizes)
        return
    assert np.array_equal(np.sort(np.concatenate(topped)), np.arange(sum(sizes)))
    assert min(map(len, topped)) >= min_size


def test_a_smaller_alpha_concentrates_the_classes() -> None:
    y = balanced(10, 100)

    def largest_share(alpha: float) -> float:
        parts = dirichlet(y, 10, alpha, np.random.default_rng(3), min_size=1)
        return float(np.mean([np.bincount(y[part]).max() / len(part) for part in parts]))

    assert largest_share(0.1) > largest_share(1) > largest_share(100)


@given(st.integers(1, 10), st.integers(10, 25), seeds)
def test_every_device_sees_its_number_of_classes_and_every_class_as_many_devices(
    num_classes: int, num_devices: int, seed: int
) -> None:
    y = balanced(10, 30)
    parts = classes_per_device(y, num_devices, num_classes, np.random.default_rng(seed))
    seen = [set(y[part].tolist()) for part in parts]
    holders = [sum(label in classes for classes in seen) for label in range(10)]
    assert {len(classes) for classes in seen} == {num_classes}
    assert max(holders) - min(holders) <= 1


@given(st.integers(1, 50), seeds)
def test_a_label_permutation_renames_every_class_once(num_classes: int, seed: int) -> None:
    permutation = label_permutation(num_classes, np.random.default_rng(seed))
    assert sorted(permutation.tolist()) == list(range(num_classes))


@given(seeds)
def test_a_mounting_is_a_rotation_and_no_mirror(seed: int) -> None:
    rotation = random_rotation(np.random.default_rng(seed))
    assert np.allclose(rotation @ rotation.T, np.eye(3))
    assert np.isclose(np.linalg.det(rotation), 1)


def test_mountings_favor_no_direction() -> None:
    rng = np.random.default_rng(0)
    mean = np.mean([random_rotation(rng) for _ in range(4000)], axis=0)
    assert np.abs(mean).max() < 5 / np.sqrt(3 * 4000)


@given(seeds)
def test_a_rotated_sensor_keeps_lengths_and_turns_both_sensors_alike(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rotation = random_rotation(rng)
    x = rng.normal(size=(2, 6, 5)).astype(np.float32)
    turned = rotate_sensor(x, rotation)
    assert turned.dtype == np.float32
    assert np.allclose(turned[:, :3], np.einsum("ij,njt->nit", rotation, x[:, :3]), atol=1e-5)
    assert np.allclose(np.linalg.norm(turned[:, 3:], axis=1), np.linalg.norm(x[:, 3:], axis=1), atol=1e-5)


@pytest.mark.parametrize(
    "impossible",
    [
        lambda y, rng: iid(y, len(y) + 1, rng),
        lambda y, rng: iid(y, 0, rng),
        lambda y, rng: dirichlet(y, 4, 0.0, rng, min_size=1),
        lambda y, rng: dirichlet(y, 10, 1.0, rng, min_size=20),
        lambda y, rng: dirichlet(y, 20, 0.001, rng, min_size=5),
        lambda y, rng: classes_per_device(y, 4, 6, rng),
        lambda y, rng: classes_per_device(y, 2, 2, rng),
        lambda y, rng: classes_per_device(y, 100, 5, rng),
    ],
)
def test_a_split_that_cannot_be_is_refused(impossible: Partition) -> None:
    with pytest.raises(ConfigError):
        impossible(balanced(5, 30), np.random.default_rng(0))
