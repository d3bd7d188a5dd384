"""While a plan names a layer personal, nothing from which it could be rebuilt leaves the device."""

from __future__ import annotations

from typing import Any

import pytest

from tests.privacy.witness import make_witness

NUM_ROUNDS = 30
SELECTORS: list[tuple[str, dict[str, Any], set[str]]] = [
    ("local", {}, {"hidden", "middle", "middle2", "head"}),
    ("fedper", {"num_personal": 3}, {"middle", "middle2", "head"}),
    ("fedavg", {"pinned": ["hidden", "middle2"]}, {"hidden", "middle2"}),
    ("fedlag-paper", {"num_personal": 2, "num_warmup_rounds": 3}, set()),
    ("fedlag-paper", {"num_personal": 2, "schedule": "every_round", "pinned": ["hidden"]}, {"hidden"}),
    ("fedlag-swap", {"pinned": ["middle"]}, {"middle"}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("selector", "options", "expected"), SELECTORS)
def test_30_rounds_of_messages_do_not_give_a_personal_layer_away(
    selector: str, options: dict[str, Any], expected: set[str]
) -> None:
    witness = make_witness(selector, options)
    witness.watch(NUM_ROUNDS)
    attacked = witness.personal_layers()
    assert attacked >= expected
    assert attacked
    for layer in sorted(attacked):
        rebuilt = witness.attack("pi-0", layer)
        assert not rebuilt.is_rebuilt, f"{layer}: {rebuilt}"


@pytest.mark.parametrize(
    ("dtype", "codec"), [("float32", "raw"), ("float32", "zstd"), ("bfloat16", "zstd"), ("int8", "zstd")]
)
def test_the_same_attack_rebuilds_every_shared_layer(dtype: str, codec: str) -> None:
    witness = make_witness("fedavg", upload_dtype=dtype, upload_codec=codec, part_bytes=1024)
    witness.watch(1)
    for layer in ("hidden", "middle", "middle2", "head"):
        assert witness.attack("pi-0", layer, personal=False).share > 0.9


def test_the_sketches_alone_rebuild_a_shared_layers_update() -> None:
    witness = make_witness("fedavg")
    witness.watch(3)
    rebuilt = witness.attack("pi-0", "hidden", personal=False)
    assert rebuilt.cosine > 0.5
    assert rebuilt.residual < 0.8
    assert rebuilt.drift_cosine > 0.5
