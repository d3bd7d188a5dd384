from pathlib import Path

import numpy as np
import pytest

from simulations.data import natural
from simulations.data.federation import Federation, check_federation
from simulations.data.paper_grid import PAPER_GRID
from simulations.data.scenarios import SCENARIOS, make_scenario
from simulations.data.shakespeare import SYMBOLS
from simulations.models import load_simulation_model
from wire.errors import ConfigError

STUDY = {
    "watch-natural",
    "watch-mounted",
    "fashion-own-labels",
    "fashion-label-groups",
    "fashion-rotations",
    "fashion-tiles",
    "fashion-iid",
    "fashion-dirichlet-0.1",
    "fashion-dirichlet-0.5",
    "fashion-dirichlet-0.5-tiles",
    "fashion-two-classes",
}
NEW = {
    "fashion-own-labels-deep",
    "letter-dirichlet-0.1",
    "letter-two-classes",
    "letter-own-labels",
    "satellite-dirichlet-0.5",
    "satellite-sensors",
    "digits-rotations",
    "digits-iid",
    "shakespeare-roles",
    "fashion28-dirichlet-0.1",
}


@pytest.fixture(scope="session")
def folders(made_fashion: Path, made_mlbench: Path, made_texts: Path) -> dict[str, Path]:
    return {
        "fashion": made_fashion,
        "fashion28": made_fashion,
        "letter": made_mlbench,
        "satellite": made_mlbench,
        "shakespeare": made_texts,
    }


def made(name: str, folders: dict[str, Path], seed: int = 0, **options: int) -> Federation:
    return make_scenario(name, seed, folder=folders.get(name.partition("-")[0]), **options)


def arrays(federation: Federation) -> list[np.ndarray]:
    return [array for data in federation.clients.values() for split in data if split is not None for array in split]


def mixes(federation: Federation) -> np.ndarray:
    return np.stack(
        [
            np.bincount(data.train.targets, minlength=federation.num_classes) / len(data.train.targets)
            for data in federation.clients.values()
        ]
    )


def test_the_registry_has_the_study_the_new_families_and_the_papers_grid() -> None:
    assert set(SCENARIOS) == STUDY | NEW | {scenario.name for scenario in PAPER_GRID}
    assert all(name == scenario.name for name, scenario in SCENARIOS.items())


@pytest.mark.parametrize("name", sorted(STUDY | NEW))
def test_a_scenario_has_twenty_sound_clients_that_fit_its_model(name: str, folders: dict[str, Path]) -> None:
    federation = made(name, folders)
    model = load_simulation_model(federation.model)
    assert len(federation.clients) == 20
    assert (federation.scenario, federation.seed) == (name, 0)
    assert (federation.input_shape, federation.num_classes) == (model.input_shape, model.num_classes)
    assert name == "shakespeare-roles" or check_federation(federation) == ()
    assert all(data.test is not None and len(data.test.targets) >= 25 for data in federation.clients.values())
    assert all(array.flags.c_contiguous for array in arrays(federation))


@pytest.mark.parametrize("name", sorted(STUDY | NEW))
def test_the_seed_decides_everything(name: str, folders: dict[str, Path]) -> None:
    once, again, other = (arrays(made(name, folders, seed, num_clients=13)) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(once, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(once, other, strict=True))


@pytest.mark.parametrize("name", sorted(STUDY | NEW))
def test_fewer_validation_examples_leave_training_and_tests(name: str, folders: dict[str, Path]) -> None:
    full, cut = made(name, folders, num_clients=13), made(name, folders, num_clients=13, validation_examples=10)
    for whole, less in zip(full.clients.values(), cut.clients.values(), strict=True):
        assert len(less.validation.targets) == min(10, len(whole.validation.targets))
        assert len(less.train.targets) == len(whole.train.targets)
        if name != "shakespeare-roles":  # where fewer draws move the later ones
            assert np.array_equal(whole.train.inputs, less.train.inputs)


def test_the_studys_clients_have_100_50_and_200_examples(folders: dict[str, Path]) -> None:
    for name in ("fashion-iid", "fashion-rotations", "fashion-own-labels", "fashion-tiles"):
        for data in made(name, folders).clients.values():
            assert data.test is not None
            assert [len(split.targets) for split in (data.train, data.validation, data.test)] == [100, 50, 200]
            assert data.train.inputs.min() >= 0
            assert data.train.inputs.max() <= 1


def test_mixes_of_labels_are_what_the_names_say(folders: dict[str, Path]) -> None:
    two, alike = mixes(made("fashion-two-classes", folders)), mixes(made("fashion-iid", folders))
    strong, weak = mixes(made("fashion-dirichlet-0.1", folders)), mixes(made("fashion-dirichlet-0.5", folders))
    assert ((two > 0).sum(axis=1) == 2).all()
    assert alike.max() < 0.3
    assert strong.max(axis=1).mean() > weak.max(axis=1).mean() > alike.max(axis=1).mean()


def test_two_scenarios_of_one_seed_and_partition_have_the_same_examples(folders: dict[str, Path]) -> None:
    plain, turned, renamed = (made(f"fashion-{kind}", folders) for kind in ("iid", "rotations", "own-labels"))
    for index, name in enumerate(plain.clients):
        x = plain.clients[name].train.inputs
        assert np.array_equal(np.rot90(x, index % 4, (2, 3)), turned.clients[name].train.inputs)
    first = next(iter(plain.clients))
    assert np.array_equal(plain.clients[first].train.inputs, renamed.clients[first].train.inputs)


def test_100_clients_share_what_is_there(folders: dict[str, Path]) -> None:
    federation = made("fashion-iid", folders, num_clients=100, examples_per_client=30)
    assert len(federation.clients) == 100
    assert {len(data.test.targets) for data in federation.clients.values() if data.test is not None} == {60}
    with pytest.raises(ConfigError, match="100 clients of 150 examples need 15000, the data has 4000"):
        made("fashion-iid", folders, num_clients=100)


@pytest.mark.parametrize("name", ["fashion-dirichlet-0.1", "fashion28-dirichlet-0.1", "letter-dirichlet-0.1"])
def test_100_clients_of_very_unequal_shares_have_enough_each(name: str, folders: dict[str, Path]) -> None:
    federation = made(name, folders, num_clients=100, examples_per_client=40)
    sizes = [len(data.train.targets) + len(data.validation.targets) for data in federation.clients.values()]
    assert (len(sizes), sum(sizes)) == (100, 4000)
    assert min(sizes) >= 20
    assert mixes(federation).max(axis=1).mean() > 0.3  # letters alike would give about 0.1


def test_a_mounted_watch_has_turned_vectors_of_the_same_length() -> None:
    natural, mounted = make_scenario("watch-natural", 0), make_scenario("watch-mounted", 0)
    for name, data in natural.clients.items():
        x, turned = data.train.inputs, mounted.clients[name].train.inputs
        assert not np.allclose(x, turned, atol=0.01)
        assert np.allclose(np.linalg.norm(x[:, :3], axis=1), np.linalg.norm(turned[:, :3], axis=1), atol=1e-4)


def test_a_watch_keeps_what_is_asked_for() -> None:
    federation = make_scenario("watch-natural", 0, num_clients=3, examples_per_client=30, validation_examples=5)
    assert list(federation.clients) == ["person-01-left", "person-01-right", "person-02-left"]
    assert {len(d.train.targets) for d in federation.clients.values()} == {20}
    assert {len(d.validation.targets) for d in federation.clients.values()} == {5}


def test_a_role_never_shares_a_character_between_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "".join(np.random.default_rng(0).choice(list(SYMBOLS), 2000).tolist())
    monkeypatch.setattr(natural, "load_roles", lambda *_, **__: {"hamlet": said})
    (data,) = make_scenario("shakespeare-roles", 0, num_clients=1).clients.values()
    seen: list[set[int]] = []
    for split in data:
        assert split is not None
        windows = ["".join(SYMBOLS[int(place)] for place in window) for window in split.inputs]
        assert all(said.count(window) == 1 for window in windows)
        seen.append({place for window in windows for place in range(said.find(window), said.find(window) + 21)})
    assert not seen[0] & seen[1] | seen[0] & seen[2] | seen[1] & seen[2]
    assert [len(split.targets) for split in data if split is not None] == [400, 200, 200]


@pytest.mark.parametrize(
    ("name", "options", "why"),
    [
        ("fashion-idd", {}, "no scenario is named 'fashion-idd'; take one of .*fashion-iid"),
        ("watch-natural", {"num_clients": 21}, "there are 20 smartwatches, not 21"),
        ("shakespeare-roles", {"num_clients": 25}, "there are 24 roles, not 25"),
        ("letter-two-classes", {"num_clients": 12}, "cannot share out 26 classes"),
        ("digits-iid", {"num_clients": 100}, "the data has 1200"),
    ],
)
def test_what_cannot_be_made_is_refused_with_the_reason(
    name: str, options: dict[str, int], why: str, folders: dict[str, Path]
) -> None:
    with pytest.raises(ConfigError, match=why):
        made(name, folders, **options)


def test_the_watch_takes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name no folder"):
        make_scenario("watch-natural", 0, folder=tmp_path)
