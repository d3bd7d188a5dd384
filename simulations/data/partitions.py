"""Ways to divide one data set among devices, and ways in which devices differ that no label shows.

Every partition is a tuple with the indices of each device's examples, in random order: each example lands on exactly
one device. All functions are pure but for the generator that is passed in: its state decides the result.

Sources: Dirichlet labels, Hsu, Qi and Brown, arXiv:1909.06335; few classes per device, McMahan et al.,
arXiv:1602.05629; random rotations, Mezzadri, arXiv:math-ph/0609050.

Differs from the papers: Hsu et al. draw each device's mixture of classes, with equal sizes; here, as has become usual,
the shares of each class over the devices are drawn, so sizes differ too. McMahan et al. cut sorted examples into
shards, which may hold two classes; here a shard is one class.
"""

from __future__ import annotations

import numpy as np

from wire.errors import ConfigError

__all__ = ["classes_per_device", "dirichlet", "iid", "label_permutation", "random_rotation", "rotate_sensor", "top_up"]

MAX_DRAWS = 1000
SENSOR_AXES = 3


def iid(labels: np.ndarray, num_devices: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Deal the examples out at random: the control, in which no layer should be personal.

    Args:
        labels: Class of each example, shape ``(examples,)``.
        num_devices: Number of devices.
        rng: Decides the split.

    Returns:
        Indices per device, int64; sizes differ by at most one.

    Raises:
        ConfigError: If there are fewer examples than devices.

    Example:
        >>> [len(part) for part in iid(np.zeros(7), 3, np.random.default_rng(0))]
        [3, 2, 2]
    """
    _check_sizes(len(labels), num_devices, min_size=1)
    return tuple(np.array_split(rng.permutation(len(labels)), num_devices))


def dirichlet(
    labels: np.ndarray, num_devices: int, alpha: float, rng: np.random.Generator, *, min_size: int = 20
) -> tuple[np.ndarray, ...]:
    """Divide each class by its own draw from a symmetric Dirichlet distribution.

    Small ``alpha``: a device sees few classes (0.1 is strong); large: all devices see all alike (5 is weak).

    Args:
        labels: Class of each example, shape ``(examples,)``.
        num_devices: Number of devices.
        alpha: Concentration, above 0.
        rng: Decides the split.
        min_size: The fewest examples of a device; draws that leave one with fewer are made again.

    Returns:
        Indices per device, int64.

    Raises:
        ConfigError: If ``alpha`` is not above 0, the examples do not suffice, or 1,000 draws do not.
    """
    _check_sizes(len(labels), num_devices, min_size)
    if alpha <= 0:
        raise ConfigError(f"alpha must be above 0, not {alpha}")
    for _ in range(MAX_DRAWS):
        parts: list[list[np.ndarray]] = [[] for _ in range(num_devices)]
        for label in np.unique(labels):
            examples = rng.permutation(np.flatnonzero(labels == label))
            cuts = np.cumsum(rng.dirichlet(np.full(num_devices, alpha)))[:-1] * len(examples)
            for part, piece in zip(parts, np.split(examples, cuts.astype(np.int64)), strict=True):
                part.append(piece)
        if min(sum(map(len, part)) for part in parts) >= min_size:
            return tuple(rng.permutation(np.concatenate(part)) for part in parts)
    raise ConfigError(
        f"no draw of {MAX_DRAWS} gave each of {num_devices} devices {min_size} examples at alpha = {alpha}: "
        "raise alpha, or lower min_size"
    )


def classes_per_device(
    labels: np.ndarray, num_devices: int, num_classes: int, rng: np.random.Generator
) -> tuple[np.ndarray, ...]:
    """Give every device the same small number of classes, and each class to as many devices as any other.

    Args:
        labels: Class of each example, shape ``(examples,)``.
        num_devices: Number of devices.
        num_classes: Number of classes that a device sees.
        rng: Decides the split.

    Returns:
        Indices per device, int64; a class's examples are divided evenly over the devices that see it.

    Raises:
        ConfigError: If there are fewer classes than ``num_classes``, fewer places than classes, or a class with fewer
            examples than devices that see it.
    """
    classes, counts = np.unique(labels, return_counts=True)
    num_places = num_devices * num_classes
    if not 1 <= num_classes <= len(classes) <= num_places:
        raise ConfigError(
            f"{num_devices} devices of {num_classes} classes each cannot share out {len(classes)} classes: "
            f"a device needs 1 to {len(classes)}, and together at least {len(classes)}"
        )
    held = np.zeros((num_devices, len(classes)), dtype=np.bool_)
    for row in held:  # the classes that the fewest devices hold so far, ties at random
        row[np.lexsort((rng.random(len(classes)), held.sum(axis=0)))[:num_classes]] = True
    if (counts < held.sum(axis=0)).any():
        raise ConfigError("a class has fewer examples than the devices that are to see it: ask for fewer devices")
    parts: list[list[np.ndarray]] = [[] for _ in range(num_devices)]
    for label, column in zip(classes, held.T, strict=True):
        holders = rng.permutation(np.flatnonzero(column))
        examples = rng.permutation(np.flatnonzero(labels == label))
        for device, piece in zip(holders, np.array_split(examples, len(holders)), strict=True):
            parts[device].append(piece)
    return tuple(rng.permutation(np.concatenate(part)) for part in parts)


def top_up(parts: tuple[np.ndarray, ...], min_size: int) -> tuple[np.ndarray, ...]:
    """Move single examples from whichever device has most to those that have too few.

    For many devices, where no draw leaves each of them enough.

    Args:
        parts: Indices per device, in random order.
        min_size: The fewest examples of a device afterwards.

    Returns:
        Indices per device, int64; devices that had enough and are not the largest are as they were.

    Raises:
        ConfigError: If there are too few examples for this.

    Example:
        >>> [part.tolist() for part in top_up((np.array([0]), np.array([1, 2, 3])), 2)]
        [[0, 3], [1, 2]]
    """
    _check_sizes(sum(map(len, parts)), len(parts), min_size)
    lists = [part.tolist() for part in parts]
    for part in lists:
        while len(part) < min_size:
            part.append(max(lists, key=len).pop())
    return tuple(np.array(part, dtype=np.int64) for part in lists)


def label_permutation(num_classes: int, rng: np.random.Generator) -> np.ndarray:
    """Return a device's own names for the classes: ``permutation[labels]`` are its labels.

    Args:
        num_classes: Number of classes.
        rng: Decides the permutation.

    Returns:
        Every class once, shape ``(num_classes,)``, int64.
    """
    return rng.permutation(num_classes)


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    """Return one rotation in space, each as likely as any other: how a device happens to be mounted.

    Args:
        rng: Decides the rotation.

    Returns:
        Shape ``(3, 3)``, float64, orthogonal, determinant 1.
    """
    q, r = np.linalg.qr(rng.normal(size=(SENSOR_AXES, SENSOR_AXES)))
    rotation: np.ndarray = q * np.sign(np.diag(r))
    rotation[:, 0] *= np.sign(np.linalg.det(rotation))
    return rotation


def rotate_sensor(inputs: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Turn what a sensor with three axes has measured; six channels are two such sensors in one case.

    Args:
        inputs: Shape ``(windows, 3 * sensors, samples)``, float32.
        rotation: Shape ``(3, 3)``, orthogonal.

    Returns:
        The shape and dtype of ``inputs``; every vector has kept its length.
    """
    windows, channels, samples = inputs.shape
    vectors = inputs.reshape(windows, channels // SENSOR_AXES, SENSOR_AXES, samples)
    turned: np.ndarray = np.einsum("ij,wsjt->wsit", rotation.astype(inputs.dtype), vectors)
    return turned.reshape(inputs.shape)


def _check_sizes(num_examples: int, num_devices: int, min_size: int) -> None:
    """Refuse what no split can satisfy."""
    if num_devices < 1 or num_devices * min_size > num_examples:
        raise ConfigError(f"{num_examples} examples are too few for {num_devices} devices of at least {min_size} each")
