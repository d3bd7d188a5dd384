import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulations.data.pools import Request
from simulations.data.scenarios import make_scenario
from wire.errors import ConfigError, DataError


def write(path: Path, people: dict[str, int], **changes: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {
        user: {"x": [[index / size] * 784 for index in range(size)], "y": [index % 62 for index in range(size)]}
        for user, size in people.items()
    }
    content = {"users": list(people), "num_samples": list(people.values()), "user_data": data, **changes}
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture
def leaf(tmp_path: Path) -> Path:
    write(tmp_path / "train" / "all_data_0_train.json", {"f0001_01": 30, "f0002_02": 18})
    write(tmp_path / "train" / "all_data_1_train.json", {"f0003_03": 60, "f0004_04": 5})
    write(tmp_path / "test" / "all_data_0_test.json", {"f0001_01": 4, "f0002_02": 3})
    return tmp_path


def test_every_writer_with_enough_to_learn_from_is_a_client(leaf: Path) -> None:
    federation = make_scenario("femnist-users", 0, folder=leaf)
    sizes = {name: (len(d.train.targets), len(d.validation.targets)) for name, d in federation.clients.items()}
    assert sizes == {"f0001-01": (20, 10), "f0002-02": (12, 6), "f0003-03": (40, 20)}
    assert federation.clients["f0003-03"].test is None
    for name, data in federation.clients.items():
        size = sum(sizes[name])
        assert data.train.inputs.shape == (sizes[name][0], 1, 28, 28)
        assert np.allclose(data.train.inputs[:, 0, 3, 4] * size, data.train.targets)


def test_numbers_asked_for_are_kept(leaf: Path) -> None:
    federation = make_scenario(
        "femnist-users", 0, folder=leaf, num_clients=2, examples_per_client=12, validation_examples=2
    )
    assert len(federation.clients) == 2
    assert {(len(d.train.targets), len(d.validation.targets)) for d in federation.clients.values()} == {(8, 2)}


def test_too_many_clients_no_folder_and_no_files_are_refused(leaf: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has 3 people with 15 or more"):
        make_scenario("femnist-users", 0, folder=leaf, num_clients=4)
    with pytest.raises(ConfigError, match="name LEAF's data folder"):
        make_scenario("femnist-users", 0)
    with pytest.raises(DataError, match=r"expected .*/train/.*json"):
        make_scenario("femnist-users", 0, folder=tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ({"f0001_01": {"x": [[0.0] * 783], "y": [1]}}, "one class for each picture"),
        ({"f0001_01": {"x": [[0.0] * 784], "y": []}}, "one class for each picture"),
        ({}, "one class for each picture"),
        ({"f0001_01": {"x": [["black"]], "y": [1]}}, "not a file of LEAF's FEMNIST"),
        ({"f0001_01": {"x": [[0.0] * 784] * 20, "y": [62] * 20}}, "labels from 62 to 62"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, data: dict[str, Any], why: str) -> None:
    write(tmp_path / "train" / "a.json", {"f0001_01": 1}, user_data=data)
    write(tmp_path / "test" / "a.json", {})
    with pytest.raises(DataError, match=why):
        make_scenario("femnist-users", 0, folder=tmp_path)


def test_a_request_is_frozen() -> None:
    with pytest.raises(AttributeError):
        Request(0).seed = 1  # type: ignore[misc]
