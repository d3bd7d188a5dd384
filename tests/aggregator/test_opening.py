"""Where a fleet goes on when its aggregator starts again with another configuration."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from safetensors.numpy import save_file

from aggregator.config import AggregatorConfig, RoundSettings, SelectorSettings
from aggregator.keeping.store import FleetStore
from aggregator.opening import open_state
from aggregator.planning import FleetState
from aggregator.program_folder import ProgramFolder
from aggregator.selection import make_selector
from wire.digest import content_digest
from wire.errors import ConfigError, ManifestError, ModelError
from wire.manifest import LayerSpec, ModelManifest, ParameterSpec, ProgramFile, encode_manifest
from wire.tensors import encode_layer

LAYERS = {"body": 6, "head": 3}


@pytest.fixture
def config(tmp_path: Path) -> AggregatorConfig:
    write_program(tmp_path / "program", "first")
    rounds = RoundSettings(num_rounds=3)
    return AggregatorConfig(
        fleet="home",
        program=tmp_path / "program",
        folder=tmp_path / "store",
        selector=SelectorSettings(name="fedavg"),
        rounds=rounds,
    )


def write_program(folder: Path, model: str, sizes: dict[str, int] = LAYERS) -> None:
    folder.mkdir(exist_ok=True)
    layers = tuple(LayerSpec(name, (ParameterSpec(f"{name}.weight", (size,)),)) for name, size in sizes.items())
    program = model.encode()
    (folder / "train.onnx").write_bytes(program)
    file = ProgramFile(content_digest(program), len(program))
    manifest = ModelManifest(model, layers, input_shape=(2,), num_classes=2, files={"train.onnx": file})
    (folder / "manifest.json").write_bytes(encode_manifest(manifest))
    values = {f"{name}.weight": np.full(size, 0.5, dtype=np.float32) for name, size in sizes.items()}
    save_file(values, folder / "initial.safetensors")


def start(config: AggregatorConfig) -> FleetState:
    selector = make_selector(config.selector.name, config.selector.options, config.rounds.num_rounds)
    return open_state(config, ProgramFolder(config.program), selector, FleetStore(config.folder))


def go_on(config: AggregatorConfig, state: FleetState, round_number: int, *, is_finished: bool = False) -> FleetState:
    """Save what the fleet would have come to."""
    plan = msgspec.structs.replace(state.plan, round_number=round_number)
    state = msgspec.structs.replace(state, plan=plan, is_finished=is_finished)
    FleetStore(config.folder).save(state, {}, ProgramFolder(config.program).manifest)
    return state


def test_a_new_fleet_starts_at_round_1_with_the_initial_values(config: AggregatorConfig) -> None:
    state = start(config)
    assert (state.plan.epoch, state.plan.round_number, state.plan.previous) == (0, 1, "")
    assert list(state.plan.shared_layers) == ["body", "head"]
    assert FleetStore(config.folder).load_state() == state


def test_a_restart_changes_nothing(config: AggregatorConfig) -> None:
    state = go_on(config, start(config), 2)
    assert start(config) == state


def test_another_model_starts_anew_in_a_later_epoch(config: AggregatorConfig) -> None:
    before = go_on(config, start(config), 2)
    write_program(config.program, "second")
    state = start(config)
    assert state.plan.model_id != before.plan.model_id
    assert (state.plan.epoch, state.plan.round_number) == (1, 1)


def test_another_model_goes_on_with_the_averages_of_the_layers_that_it_has_too(config: AggregatorConfig) -> None:
    first = start(config)
    program = ProgramFolder(config.program)
    averages = {
        name: encode_layer(program.manifest.layer(name), np.full(size, 7, np.float32), codec="raw")
        for name, size in LAYERS.items()
    }
    digests = {name: content_digest(data) for name, data in averages.items()}
    trained = msgspec.structs.replace(
        first, layers=digests, plan=msgspec.structs.replace(first.plan, round_number=9, shared_layers=digests)
    )
    FleetStore(config.folder).save(trained, {digests[name]: data for name, data in averages.items()}, program.manifest)
    write_program(config.program, "second", {"body": 6, "head": 4, "nose": 2})
    state = start(config)
    assert state.layers["body"] == digests["body"]
    assert state.layers["head"] != digests["head"]
    assert sorted(state.layers) == ["body", "head", "nose"]
    assert FleetStore(config.folder).load_state() == state


def test_a_finished_fleet_that_was_asked_to_go_back_does_so_when_it_starts(config: AggregatorConfig) -> None:
    earlier = go_on(config, start(config), 2)
    go_on(config, earlier, 4, is_finished=True)
    assert start(config).is_finished
    FleetStore(config.folder).ask_to_go_back(earlier)
    state = start(config)
    assert (state.plan.epoch, state.plan.round_number, state.is_finished) == (1, 2, False)
    assert start(config) == state


def test_a_request_for_a_version_of_another_model_waits_and_stops_nothing(config: AggregatorConfig) -> None:
    before = go_on(config, start(config), 2)
    FleetStore(config.folder).ask_to_go_back(before)
    write_program(config.program, "second")
    assert start(config).plan.round_number == 1


def test_another_selector_goes_on_with_the_layers_and_without_evidence(config: AggregatorConfig) -> None:
    before = go_on(config, start(config), 2)
    state = start(msgspec.structs.replace(config, selector=SelectorSettings(name="fedper")))
    assert state.layers == before.layers
    assert state.selector == "fedper"
    assert list(state.plan.personal_layers) == ["head"]
    assert (state.plan.epoch, state.plan.round_number) == (1, 2)


def test_other_options_of_the_selector_are_checked_and_start_it_anew(config: AggregatorConfig) -> None:
    go_on(config, start(config), 2)
    pinned = msgspec.structs.replace(config, selector=SelectorSettings(name="fedavg", options={"pinned": ["head"]}))
    assert list(start(pinned).plan.personal_layers) == ["head"]
    unknown = msgspec.structs.replace(config, selector=SelectorSettings(name="fedavg", options={"pinned": ["nose"]}))
    with pytest.raises(ConfigError, match="nose"):
        start(unknown)


def test_layers_to_train_that_the_model_lacks_are_named(config: AggregatorConfig) -> None:
    training = msgspec.structs.replace(config.training, trained_layers=("head", "nose"))
    with pytest.raises(ConfigError, match="trained_layers names 'nose', which is not in the model; it has body, head"):
        start(msgspec.structs.replace(config, training=training))


def test_a_plan_names_the_layers_to_train_and_only_then(config: AggregatorConfig) -> None:
    assert start(config).plan.training.trained_layers is msgspec.UNSET
    training = msgspec.structs.replace(config.training, trained_layers=("head",))
    other = msgspec.structs.replace(config, training=training, folder=config.folder / "other")
    assert start(other).plan.training.trained_layers == ("head",)


def test_a_finished_fleet_stays_finished_until_more_rounds_are_asked_for(config: AggregatorConfig) -> None:
    go_on(config, start(config), 5, is_finished=True)
    assert start(config).is_finished
    more = msgspec.structs.replace(config, rounds=RoundSettings(num_rounds=8))
    state = start(more)
    assert not state.is_finished
    assert state.plan.training.num_epochs == 1


def test_initial_values_that_do_not_fit_the_model_are_refused_by_name(config: AggregatorConfig) -> None:
    save_file({"body.weight": np.zeros(6, dtype=np.float32)}, config.program / "initial.safetensors")
    with pytest.raises(ModelError, match=r"head\.weight"):
        start(config)
    save_file(
        {"body.weight": np.full(6, np.nan, dtype=np.float32), "head.weight": np.zeros(3, dtype=np.float32)},
        config.program / "initial.safetensors",
    )
    with pytest.raises(ModelError, match=r"body\.weight"):
        start(config)
    (config.program / "initial.safetensors").write_bytes(b"rubbish")
    with pytest.raises(ModelError, match=r"initial\.safetensors"):
        start(config)


def test_a_program_folder_that_is_not_whole_is_refused_by_the_file(config: AggregatorConfig) -> None:
    (config.program / "train.onnx").unlink()
    with pytest.raises(ManifestError, match=r"train\.onnx"):
        ProgramFolder(config.program)
