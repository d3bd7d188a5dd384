"""Under which conditions tests of simulations run."""

from __future__ import annotations

from collections.abc import Iterator

import jaxtyping
import pytest
from torch import fx, nn

from simulations.rounds.workers import one_thread

__all__ = ["_one_thread", "_traced_without_checks"]

trace = fx.symbolic_trace


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """On one thread, as simulations compute: two are slower for products this small."""
    with one_thread():
        yield


@pytest.fixture(autouse=True)
def _traced_without_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What traces a model hands it stand-ins, which the tests' checks of types would refuse."""

    def unchecked(module: nn.Module) -> fx.GraphModule:
        jaxtyping.config.update("jaxtyping_disable", True)
        try:
            return trace(module)
        finally:
            jaxtyping.config.update("jaxtyping_disable", False)

    monkeypatch.setattr(fx, "symbolic_trace", unchecked)
