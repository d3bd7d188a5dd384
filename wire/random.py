"""Random integers that Python, a browser and any other language draw alike.

One generator, Philox4x32-10, counter-based and made of 32-bit integer arithmetic alone: J. Salmon et al., "Parallel
Random Numbers: As Easy as 1, 2, 3", SC 2011. It turns a key of two words and a counter of four words into four random
words; there is no other state. Whatever two parties must draw alike comes from here and never from NumPy's stream:
the buckets of a sketch, the order of batches, a round's cohort.

The whole definition, all numbers unsigned::

    key(label)            bytes 0..7 of sha256(label in UTF-8), read as two little-endian 32-bit words (k0, k1)
    block(key, b)         philox4x32-10 with counter (b mod 2^32, b div 2^32, 0, 0) and key (k0, k1): four words
    words(key)            block(key, 0), block(key, 1), ... one behind the other, each block's words in their order
    permutation(key, n)   0..n-1 sorted by the first n words; equal words keep the smaller index first
    below(key, bound)     for each word: (word * bound) div 2^32, in 64 bits

Each purpose has a label, hence a key, of its own, for example ``sketch/7/conv1``: two purposes never share words.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "WORDS_PER_BLOCK",
    "Key",
    "key_from_label",
    "philox_blocks",
    "random_below",
    "random_permutation",
    "random_words",
    "sample_without_replacement",
]

Key = tuple[int, int]
"""Two 32-bit words, ``(k0, k1)``, each in ``[0, 2**32)``."""

NUM_ROUNDS = 10
WORD_BITS = np.uint64(32)
WORD_MASK = np.uint64(0xFFFFFFFF)
MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
KEY_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
MAX_BOUND = 2**32
WORDS_PER_BLOCK = 4


def key_from_label(label: str) -> Key:
    """Return the key of a purpose: the first 8 bytes of the label's sha256, as two little-endian words.

    Args:
        label: Names the purpose and whatever it depends on, for example ``"cohort/kitchen/12"``; any text.

    Returns:
        ``(k0, k1)``, each in ``[0, 2**32)``.

    Example:
        >>> key_from_label("fedlag")
        (3550530112, 857358711)
    """
    digest = hashlib.sha256(label.encode()).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:8], "little")


def philox_blocks(
    counters: NDArray[np.uint32], key: Key | tuple[NDArray[np.uint64], NDArray[np.uint64]]
) -> NDArray[np.uint32]:
    """Return Philox4x32-10 of every counter: the generator itself, agreeing with Random123's known answers.

    Args:
        counters: One counter per row, shape ``(blocks, 4)``, uint32, low word first.
        key: The two words of the key; or two arrays, shape ``(blocks,)``, uint64, where every counter has its own.

    Returns:
        Four random words per counter, shape ``(blocks, 4)``, uint32.

    Example:
        >>> [hex(word) for word in philox_blocks(np.zeros((1, 4), dtype=np.uint32), (0, 0))[0].tolist()]
        ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    c0, c1, c2, c3 = np.ascontiguousarray(counters.T).astype(np.uint64)
    for number in range(NUM_ROUNDS):
        k0, k1 = (
            (np.uint64(number * step) + np.asarray(k, dtype=np.uint64)) & WORD_MASK
            for k, step in zip(key, KEY_INCREMENTS, strict=True)
        )
        low = c0 * MULTIPLIERS[0]
        high = c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (high >> WORD_BITS) ^ c1 ^ k0,
            high & WORD_MASK,
            (low >> WORD_BITS) ^ c3 ^ k1,
            low & WORD_MASK,
        )
    return np.stack((c0, c1, c2, c3), axis=1).astype(np.uint32)


def random_words(key: Key, count: int) -> NDArray[np.uint32]:
    """Return the first words of a key's stream.

    A longer draw begins with the shorter one: ``random_words(key, 100)[:10]`` equals ``random_words(key, 10)``.

    Args:
        key: From ``key_from_label``.
        count: Number of words, at least 0.

    Returns:
        Uniform words, shape ``(count,)``, uint32.

    Raises:
        ValueError: If ``count`` is negative.
    """
    if count < 0:
        raise ValueError(f"count must be at least 0, not {count}")
    num_blocks = -(-count // WORDS_PER_BLOCK)
    block = np.arange(num_blocks, dtype=np.uint64)
    counters = np.zeros((num_blocks, WORDS_PER_BLOCK), dtype=np.uint32)
    counters[:, 0] = block & WORD_MASK
    counters[:, 1] = block >> WORD_BITS
    return philox_blocks(counters, key).reshape(-1)[:count]


def random_permutation(key: Key, size: int) -> NDArray[np.int64]:
    """Return the numbers ``0 .. size-1`` in random order: sorted by their words, ties by the number itself.

    Two words are equal with a probability of about ``size**2 / 2**33``; such a pair stays in ascending order.

    Args:
        key: From ``key_from_label``.
        size: How many numbers, at least 0.

    Returns:
        A permutation, shape ``(size,)``, int64.

    Raises:
        ValueError: If ``size`` is negative.

    Example:
        >>> random_permutation(key_from_label("batches/kitchen/1"), 6)
        array([5, 3, 1, 4, 0, 2])
    """
    return np.argsort(random_words(key, size), kind="stable").astype(np.int64)


def random_below(key: Key, count: int, bound: int) -> NDArray[np.int64]:
    """Return random integers in ``[0, bound)``, drawn with replacement, one word each.

    A word is multiplied by ``bound`` and shifted right by 32 bits. No word is ever rejected, so the draw is as long in
    every language; the price is a bias: probabilities differ from ``1 / bound`` by less than ``2**-32``.

    Args:
        key: From ``key_from_label``.
        count: Number of integers, at least 0.
        bound: Exclusive upper end, in ``[1, 2**32]``.

    Returns:
        Integers in ``[0, bound)``, shape ``(count,)``, int64.

    Raises:
        ValueError: If ``count`` is negative or ``bound`` outside its range.
    """
    if not 1 <= bound <= MAX_BOUND:
        raise ValueError(f"bound must be in [1, 2**32], not {bound}")
    return ((random_words(key, count).astype(np.uint64) * np.uint64(bound)) >> WORD_BITS).astype(np.int64)


def sample_without_replacement(key: Key, size: int, count: int) -> NDArray[np.int64]:
    """Return ``count`` different numbers out of ``0 .. size-1``: the start of ``random_permutation(key, size)``.

    Args:
        key: From ``key_from_label``.
        size: How many numbers there are to choose from, at least 0.
        count: How many are chosen, in ``[0, size]``.

    Returns:
        Different numbers in random order, shape ``(count,)``, int64.

    Raises:
        ValueError: If ``count`` is not in ``[0, size]``.
    """
    if not 0 <= count <= size:
        raise ValueError(f"count must be in [0, {size}], not {count}")
    return random_permutation(key, size)[:count]
