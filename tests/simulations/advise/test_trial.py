"""The short simulation: every rule on the same devices, under the names that their user gave."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulations.advise.reading import DeviceData
from simulations.advise.result import TrialResult
from simulations.advise.trial import TrialSettings, run_trial
from simulations.data.federation import Federation
from simulations.data.scenarios import make_scenario
from simulations.engines.model import SimulatedModel
from simulations.study.config import DataChoice
from simulations.study.material import make_model
from simulations.study.store import ResultStore
from wire.errors import FleetError

NAMES = ("../attic", "cellar/north", "kitchen", "zoo é")


@pytest.fixture(scope="module")
def model() -> SimulatedModel:
    return make_model(DataChoice(name="trial", model="digits-mlp"), 0)


@pytest.fixture(scope="module")
def data() -> DeviceData:
    made = make_scenario("digits-rotations", 0, num_clients=4, examples_per_client=40)
    clients = dict(zip(NAMES, made.clients.values(), strict=True))
    federation = Federation("digits", 0, "digits-mlp", made.input_shape, made.num_classes, clients)
    return DeviceData(federation, 9, ("they are turned",))


@pytest.fixture(scope="module")
def result(data: DeviceData, model: SimulatedModel, tmp_path_factory: pytest.TempPathFactory) -> TrialResult:
    settings = TrialSettings(num_rounds=4, num_seeds=2, learning_rates=(0.05, 1e3), engine="stacked")
    folder = tmp_path_factory.mktemp("trial")
    with ResultStore(folder / "trial.sqlite") as store:
        return run_trial(data, model, settings, store, folder)


def test_every_rule_is_tried_with_every_seed_on_every_device(result: TrialResult) -> None:
    assert [it.method for it in result.methods] == ["fedavg", "local", "fedper", "fedlag-swap", "fedlag-paper"]
    for method in result.methods:
        assert list(method.accuracy) == list(method.personal_layers) == [0, 1]
        assert all(tuple(by) == NAMES for by in method.accuracy.values())
        assert len(method.validation) == 4
    assert tuple(result.num_train) == NAMES
    assert result.num_found == 9
    assert result.notes == ("they are turned",)


def test_one_learning_rate_serves_all_seeds_and_one_that_leaves_the_numbers_is_not_chosen(result: TrialResult) -> None:
    assert {it.learning_rate for it in result.methods} == {0.05}


def test_bytes_are_those_of_shared_layers_in_a_round(result: TrialResult) -> None:
    by_method = {it.method: it for it in result.methods}
    assert by_method["fedavg"].bytes_up == by_method["fedavg"].bytes_down == 4 * sum(result.layers.values())
    assert by_method["local"].bytes_up == by_method["local"].bytes_down == 0
    assert by_method["fedper"].bytes_down == 4 * result.layers["fc1"]


def test_conflict_is_measured_for_every_layer_while_all_is_shared(result: TrialResult) -> None:
    assert set(result.conflict) == set(result.layers)
    assert all(0 <= share <= 1 for share in result.conflict.values())


def test_a_trial_in_which_all_training_leaves_the_numbers_says_so(
    data: DeviceData, model: SimulatedModel, tmp_path: Path
) -> None:
    one = DeviceData(data.federation, 4, ())
    settings = TrialSettings(num_rounds=1, num_seeds=1, learning_rates=(1e38,), engine="stacked")
    with ResultStore(tmp_path / "trial.sqlite") as store, pytest.raises(FleetError, match="no method came to a result"):
        run_trial(one, model, settings, store, tmp_path)
