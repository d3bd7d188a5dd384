"""docs/protocol.md says what the code does."""

from __future__ import annotations

from typing import get_args

import pytest

from scripts.protocol_page import PAGE, renewed
from wire.errors import RefusalReason
from wire.mqtt import CONTENT_TYPE
from wire.tensors import Codec, Dtype
from wire.topics import ROUTES


def test_the_generated_parts_are_up_to_date() -> None:
    assert PAGE.read_text() == renewed(PAGE.read_text()), "run scripts/write-docs"


@pytest.mark.parametrize("word", [CONTENT_TYPE, *get_args(RefusalReason), *get_args(Codec), *get_args(Dtype)])
def test_the_page_knows_every_word_of_the_protocol(word: str) -> None:
    assert f"`{word}`" in PAGE.read_text()


def test_every_route_and_message_stands_on_the_page() -> None:
    page = PAGE.read_text()
    for route in ROUTES:
        assert f"| `{route.pattern.replace('{', '<').replace('}', '>')}` |" in page
        assert f"\n### {route.message.__name__}\n" in page
