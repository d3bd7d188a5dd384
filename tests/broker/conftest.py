"""A running mosquitto with the certificates of everybody."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.broker.secured import SecuredBroker


@pytest.fixture(scope="session")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredBroker]:
    place = SecuredBroker(tmp_path_factory.mktemp("secured"))
    place.broker.start()
    yield place
    place.broker.stop()
