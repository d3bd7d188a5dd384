"""Simulations compute on one thread, in tests as in the product: two are slower for products this small."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from simulations.rounds.workers import one_thread


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield
