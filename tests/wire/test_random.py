"""The generator gives the published words, and the same draws for ever."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.random import (
    key_from_label,
    philox_blocks,
    random_below,
    random_permutation,
    random_words,
    sample_without_replacement,
)

KEYS = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))

KNOWN_ANSWERS = [  # kat_vectors of Random123 1.14: counter, key, words
    (
        (0x00000000, 0x00000000, 0x00000000, 0x00000000),
        (0x00000000, 0x00000000),
        (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
    ),
    (
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_ANSWERS)
def test_philox_agrees_with_random123(counter: tuple[int, ...], key: tuple[int, int], words: tuple[int, ...]) -> None:
    assert tuple(philox_blocks(np.array([counter], dtype=np.uint32), key)[0].tolist()) == words


def test_all_known_answers_come_from_one_vectorized_call_per_key() -> None:
    counter, key, words = KNOWN_ANSWERS[2]
    blocks = philox_blocks(np.array([counter, (0, 0, 0, 0), counter], dtype=np.uint32), key)
    assert tuple(blocks[0].tolist()) == tuple(blocks[2].tolist()) == words
    assert tuple(blocks[1].tolist()) != words


def test_a_key_is_the_first_eight_bytes_of_the_labels_digest() -> None:
    digest = hashlib.sha256("é✓".encode()).digest()
    assert key_from_label("é✓") == tuple(np.frombuffer(digest[:8], dtype="<u4").tolist())


def test_golden_vectors_that_every_language_must_draw() -> None:
    key = key_from_label("fedlag")
    assert key == (3550530112, 857358711)
    assert random_words(key, 9).tolist() == [
        0x801A9988,
        0x74523214,
        0x408832DD,
        0x21B8D1E3,
        0x84720BAE,
        0x9DDD4352,
        0x2A3A7AB9,
        0x6F70EF91,
        0xACC254CC,
    ]
    assert random_permutation(key, 10).tolist() == [3, 6, 2, 7, 1, 0, 4, 5, 9, 8]
    assert random_below(key, 10, 6).tolist() == [3, 2, 1, 0, 3, 3, 0, 2, 4, 3]
    assert sample_without_replacement(key, 100, 5).tolist() == [67, 56, 84, 74, 32]


def test_words_are_blocks_in_the_order_of_their_counters() -> None:
    key = key_from_label("blocks")
    counters = np.array([(0, 0, 0, 0), (1, 0, 0, 0), (2, 0, 0, 0)], dtype=np.uint32)
    assert random_words(key, 12).tolist() == philox_blocks(counters, key).ravel().tolist()


@given(KEYS, st.integers(0, 300), st.integers(0, 300))
def test_a_longer_draw_begins_with_the_shorter_one(key: tuple[int, int], first: int, second: int) -> None:
    short, long = sorted((first, second))
    words = random_words(key, long)
    assert words.shape == (long,)
    assert words.dtype == np.uint32
    assert np.array_equal(words[:short], random_words(key, short))


@given(KEYS, st.integers(0, 300))
def test_a_permutation_holds_every_number_once(key: tuple[int, int], size: int) -> None:
    assert sorted(random_permutation(key, size).tolist()) == list(range(size))


@given(st.lists(st.text(), min_size=2, max_size=2, unique=True))
def test_different_labels_give_different_permutations(labels: list[str]) -> None:
    first, second = (random_permutation(key_from_label(label), 60).tolist() for label in labels)
    assert first != second


@given(KEYS, st.integers(0, 50), st.integers(1, 2**32))
def test_draws_stay_below_their_bound(key: tuple[int, int], count: int, bound: int) -> None:
    drawn = random_below(key, count, bound)
    assert drawn.shape == (count,)
    assert all(0 <= number < bound for number in drawn.tolist())


def test_a_bound_of_two_to_the_32_gives_the_words_themselves() -> None:
    assert random_below((1, 2), 5, 2**32).tolist() == random_words((1, 2), 5).tolist()


def test_draws_are_uniform() -> None:
    counts = np.bincount(random_below(key_from_label("uniform"), 60_000, 6), minlength=6)
    assert np.abs(counts - 10_000).max() < 5 * np.sqrt(10_000)


@given(KEYS, st.integers(0, 100), st.data())
def test_a_sample_is_the_start_of_the_permutation(key: tuple[int, int], size: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, size))
    sample = sample_without_replacement(key, size, count)
    assert np.array_equal(sample, random_permutation(key, size)[:count])


def test_impossible_draws_are_refused() -> None:
    with pytest.raises(ValueError, match="count"):
        random_words((0, 0), -1)
    with pytest.raises(ValueError, match="bound"):
        random_below((0, 0), 1, 0)
    with pytest.raises(ValueError, match="bound"):
        random_below((0, 0), 1, 2**32 + 1)
    with pytest.raises(ValueError, match=r"\[0, 3\]"):
        sample_without_replacement((0, 0), 3, 4)
