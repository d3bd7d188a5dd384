"""docs/protocol.md and docs/manifest.md say what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import pytest

from scripts.reference_pages import EXPORT, MANIFEST, PROTOCOL, SCHEMA, renewed, schema
from wire.errors import RefusalReason
from wire.manifest import LayerSpec, MaskSpec, ModelManifest, ParameterSpec, ProgramFile, StepMemory, decode_manifest
from wire.mqtt import CONTENT_TYPE
from wire.tensors import Codec, Dtype
from wire.topics import ROUTES


@pytest.mark.parametrize("page", [PROTOCOL, MANIFEST, EXPORT], ids=lambda page: page.name)
def test_the_generated_parts_are_up_to_date(page: Path) -> None:
    assert page.read_text() == renewed(page.read_text()), "run scripts/write-docs"


def test_the_manifests_schema_is_up_to_date_and_forbids_what_the_code_forbids() -> None:
    assert SCHEMA.read_bytes() == schema(), "run scripts/write-docs"
    kinds = json.loads(schema())["$defs"]
    for kind in (ModelManifest, LayerSpec, MaskSpec, ParameterSpec, ProgramFile, StepMemory):
        described = kinds[kind.__name__]
        assert set(described["properties"]) == set(kind.__struct_fields__)
        assert described["additionalProperties"] is False
    digest = kinds["ProgramFile"]["properties"]["sha256"]["pattern"]
    assert re.fullmatch(digest, "0" * 64)
    assert not re.fullmatch(digest, "0" * 63)


def test_the_manifest_on_the_page_is_one() -> None:
    (example,) = re.findall(r"```json\n(.*?)```", MANIFEST.read_text(), flags=re.DOTALL)
    assert decode_manifest(example.encode()).layer_names == ("conv1", "head")


@pytest.mark.parametrize("word", [CONTENT_TYPE, *get_args(RefusalReason), *get_args(Codec), *get_args(Dtype)])
def test_the_page_knows_every_word_of_the_protocol(word: str) -> None:
    assert f"`{word}`" in PROTOCOL.read_text()


def test_every_route_and_message_stands_on_the_page() -> None:
    page = PROTOCOL.read_text()
    for route in ROUTES:
        assert f"| `{route.pattern.replace('{', '<').replace('}', '>')}` |" in page
        assert f"\n### {route.message.__name__}\n" in page
