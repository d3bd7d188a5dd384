from pathlib import Path

import numpy as np
import pytest

from simulations.data.benchmarks import BENCHMARKS, load_benchmark, load_npz_pool
from simulations.data.paper_grid import PAPER_GRID
from simulations.data.scenarios import make_scenario
from simulations.models import load_simulation_model
from wire.errors import ConfigError, DataError

ARRAYS = {
    "x_train": np.zeros((4, 3), dtype=np.float32),
    "y_train": np.array([0, 1, 2, 0]),
    "x_test": np.zeros((2, 3), dtype=np.float32),
    "y_test": np.array([1, 0]),
}


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CIFAR-10's layout with 3,000 and 2,000 random images."""
    folder = tmp_path_factory.mktemp("cifar")
    rng = np.random.default_rng(0)
    for name, size in [*((f"data_batch_{number}", 600) for number in range(1, 6)), ("test_batch", 2000)]:
        rows = rng.integers(0, 256, (size, 3073), dtype=np.uint8)
        rows[:, 0] = np.arange(size) % 10
        (folder / f"{name}.bin").write_bytes(rows.tobytes())
    return folder


def test_the_grid_has_three_divisions_of_every_benchmark() -> None:
    kinds = ("dirichlet-0.1", "dirichlet-0.5", "pathological")
    names = {f"{benchmark}-{kind}" for benchmark in BENCHMARKS for kind in kinds}
    assert {scenario.name for scenario in PAPER_GRID} == names | {"femnist-users"}


@pytest.mark.parametrize("scenario", PAPER_GRID, ids=lambda scenario: scenario.name)
def test_the_grids_models_fit(scenario: object) -> None:
    found = next(known for known in PAPER_GRID if known is scenario)
    model = load_simulation_model(found.model)
    assert (found.input_shape, found.num_classes) == (model.input_shape, model.num_classes)


@pytest.mark.parametrize("num_clients", [20, 50])
@pytest.mark.parametrize("kind", ["dirichlet-0.5", "pathological"])
def test_all_training_data_is_dealt_out(cifar: Path, kind: str, num_clients: int) -> None:
    federation = make_scenario(f"cifar10-{kind}", 0, folder=cifar, num_clients=num_clients)
    sizes = [len(d.train.targets) + len(d.validation.targets) for d in federation.clients.values()]
    assert (len(sizes), sum(sizes)) == (num_clients, 3000)
    if kind == "pathological":
        assert {len(np.unique(data.train.targets)) for data in federation.clients.values()} == {2}


def test_a_grid_without_a_folder_says_that_it_needs_one() -> None:
    with pytest.raises(ConfigError, match=r"cifar10 comes in no package.*name the folder"):
        make_scenario("cifar10-dirichlet-0.1", 0)
    with pytest.raises(ConfigError, match=r"no benchmark is named 'imagenet'"):
        load_benchmark("imagenet", None)


def test_arrays_of_the_users_own_become_a_pool(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", allow_pickle=False, **ARRAYS)
    pool = load_npz_pool(tmp_path / "own.npz")
    assert pool.num_classes == 3
    assert pool.x_test.shape == (2, 3)


@pytest.mark.parametrize(
    "change",
    [
        {"y_train": np.array([0, 1, 2])},
        {"y_train": np.array([0.5, 1, 2, 3])},
        {"y_test": np.array([-1, 0])},
        {"x_test": np.zeros((2, 4))},
        {"x_train": np.array(["a", "b", "c", "d"])},
        {"x_train": np.array([None] * 4)},
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, change: dict[str, np.ndarray]) -> None:
    arrays = {**ARRAYS, **change}
    np.savez(tmp_path / "own.npz", allow_pickle=True, **arrays)
    with pytest.raises(DataError, match=r"own.npz"):
        load_npz_pool(tmp_path / "own.npz")


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x93NUMPY"])
def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "own.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"write it with numpy.savez"):
        load_npz_pool(path)
    with pytest.raises(DataError, match="No such file"):
        load_npz_pool(tmp_path / "other.npz")
