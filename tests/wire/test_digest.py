"""A blob's name is the sha256 of its bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wire.digest import content_digest


def test_it_agrees_with_the_standards_example() -> None:
    assert content_digest(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@given(st.binary(), st.binary())
def test_two_blobs_share_a_name_only_if_they_are_equal(a: bytes, b: bytes) -> None:
    assert (content_digest(a) == content_digest(b)) == (a == b)
