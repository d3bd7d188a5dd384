"""A blob comes whole from its parts in any order, and no claim makes an assembly keep more than it allows."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.digest import content_digest
from wire.errors import WireError
from wire.messages import Part
from wire.parts import Assembly, num_parts, split_blob

BLOBS = st.binary(min_size=1, max_size=200)
BLOB = bytes(range(100))
DIGEST = content_digest(BLOB)
PARTS = split_blob(BLOB, 30)


def kept(assembly: Assembly) -> int:
    return sum(map(len, assembly._pieces.values()))


@given(BLOBS, st.integers(1, 250), st.data())
def test_parts_in_any_order_with_repeats_give_the_blob(blob: bytes, part_bytes: int, data: st.DataObject) -> None:
    parts = split_blob(blob, part_bytes)
    assert len(parts) == num_parts(len(blob), part_bytes)
    assert all(len(part.data) <= part_bytes for part in parts)
    order = data.draw(st.permutations(parts))
    repeats = data.draw(st.lists(st.sampled_from(order[:-1]), max_size=5)) if len(order) > 1 else []
    assembly = Assembly(content_digest(blob), len(blob))
    for part in [*order[:-1], *repeats]:
        assert assembly.add(part) is None
        assert assembly.holds(part.index)
    assert assembly.add(order[-1]) == blob
    assert not assembly.holds(0)


def test_a_known_digest_is_used_as_it_is() -> None:
    assert split_blob(BLOB, 30, "d" * 64)[0].digest == "d" * 64


@given(
    st.integers(1, 300),
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9), st.integers(1, 400), st.binary(max_size=150))),
)
def test_never_more_than_the_bound_is_kept(max_bytes: int, claims: list[tuple[int, int, int, bytes]]) -> None:
    assembly = Assembly(DIGEST, max_bytes)
    for index, count, size, data in claims:
        try:
            blob = assembly.add(Part(digest=DIGEST, index=index, num_parts=count, size_bytes=size, data=data))
        except WireError:
            blob = None
        assert blob is None or content_digest(blob) == DIGEST
        assert kept(assembly) <= max_bytes
        assert len(assembly._pieces) <= max_bytes


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        ({"digest": "d" * 64}, "wrong-digest"),
        ({"size_bytes": 101}, "oversized"),
        ({"size_bytes": 99}, "malformed"),
        ({"index": 4}, "malformed"),
        ({"index": 2**53}, "malformed"),
        ({"num_parts": 5}, "malformed"),
        ({"data": b""}, "malformed"),
        ({"data": bytes(80)}, "oversized"),
        ({"data": bytes(10)}, "wrong-digest"),
    ],
    ids=str,
)
def test_a_lie_is_refused_and_the_blob_can_still_come(lie: dict[str, Any], reason: str) -> None:
    assembly = Assembly(DIGEST, len(BLOB))
    for part in PARTS[:3]:
        assembly.add(part)
    with pytest.raises(WireError) as refusal:
        assembly.add(msgspec.structs.replace(PARTS[3], **lie))
    assert refusal.value.reason == reason
    assert [assembly.add(part) for part in PARTS][-1] == BLOB


@pytest.mark.parametrize("lie", [{"digest": "d" * 64}, {"size_bytes": 101}], ids=str)
def test_a_foreign_part_does_not_disturb_what_has_come(lie: dict[str, Any]) -> None:
    assembly = Assembly(DIGEST, len(BLOB))
    for part in PARTS[:3]:
        assembly.add(part)
    with pytest.raises(WireError):
        assembly.add(msgspec.structs.replace(PARTS[3], **lie))
    assert assembly.add(PARTS[3]) == BLOB


def test_a_first_part_that_lies_about_the_shape_is_forgotten_with_it() -> None:
    assembly = Assembly(DIGEST, len(BLOB))
    assembly.add(msgspec.structs.replace(PARTS[0], num_parts=2))
    with pytest.raises(WireError):
        assembly.add(PARTS[0])
    assert [assembly.add(part) for part in PARTS] == [None, None, None, BLOB]
