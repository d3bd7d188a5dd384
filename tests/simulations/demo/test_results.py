import json
import statistics
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.demo.results import ArmResult, DemoResult, DeviceResult, from_json, share_below_local, to_json
from simulations.demo.seed_summary import summarize_seeds, summary_to_json
from wire.errors import DataError

MakeResults = Callable[..., DemoResult]


def arm(name: str, accuracies: dict[str, float]) -> ArmResult:
    devices = tuple(
        DeviceResult(
            device_id=device_id,
            runtime="onnx",
            num_train=10,
            validation_accuracy=accuracy,
            test_accuracy=accuracy,
            bytes_up=100 * index,
            bytes_down=50,
        )
        for index, (device_id, accuracy) in enumerate(accuracies.items())
    )
    return ArmResult(name=name, learning_rate=0.1, devices=devices, rounds=())


def comparison(**arms: dict[str, float]) -> DemoResult:
    return DemoResult(
        seed=0, num_rounds=1, arms={name: arm(name, figures) for name, figures in arms.items()}, layers={}, wall_s=0.0
    )


def test_each_device_is_compared_with_itself_and_a_tie_is_not_below() -> None:
    found = comparison(local={"a": 0.5, "b": 0.9, "c": 0.7}, fedavg={"c": 0.7, "b": 0.8, "a": 0.9})
    assert share_below_local(found, "fedavg") == pytest.approx(1 / 3)
    assert share_below_local(found, "local") == 0


def test_without_training_alone_nothing_is_below_it() -> None:
    assert share_below_local(comparison(fedavg={"a": 0.5}), "fedavg") is None
    assert share_below_local(comparison(local={"a": 0.5}, fedavg={"b": 0.5}), "fedavg") is None


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_the_worst_device_is_never_above_the_mean(accuracies: list[float]) -> None:
    found = arm("x", {str(index): accuracy for index, accuracy in enumerate(accuracies)})
    assert found.worst_test_accuracy <= found.mean_test_accuracy + 1e-12
    assert found.bytes_up_per_device == 100 * (len(accuracies) - 1) / 2


def test_the_json_holds_each_arm_s_derived_figures(results: DemoResult) -> None:
    tree = json.loads(to_json(results))
    for name, found in results.arms.items():
        assert tree["arms"][name]["mean_test_accuracy"] == found.mean_test_accuracy
        assert tree["arms"][name]["worst_test_accuracy"] == found.worst_test_accuracy
        assert tree["arms"][name]["bytes_up_per_device"] == found.bytes_up_per_device
        assert tree["arms"][name]["bytes_down_per_device"] == found.bytes_down_per_device
        assert tree["arms"][name]["share_below_local"] == share_below_local(results, name)
        assert tuple(tree["arms"][name]["personal_layers"]) == found.personal_layers
    assert tree["arms"]["fedlag-swap"]["personal_layers"] == ["conv1", "conv2"]


def test_the_json_comes_back_as_it_was(results: DemoResult) -> None:
    assert from_json(to_json(results)) == results


@pytest.mark.parametrize("raw", [b"", b"{}", b"[1]", b'{"seed": "x"}'])
def test_what_is_no_result_is_refused(raw: bytes) -> None:
    with pytest.raises(DataError, match="not the result of a demo"):
        from_json(raw)


def test_a_result_without_devices_is_refused(results: DemoResult) -> None:
    tree = msgspec.to_builtins(results)
    tree["arms"]["local"]["devices"] = []
    with pytest.raises(DataError):
        from_json(msgspec.json.encode(tree))


def test_a_summary_gives_the_standard_error_over_seeds(new_results: MakeResults) -> None:
    runs = [new_results(seed) for seed in (3, 4, 5)]
    summary = summarize_seeds(runs)
    means = [run.arms["fedavg"].mean_test_accuracy for run in runs]
    found = summary.arms["fedavg"].mean_test_accuracy
    assert summary.seeds == (3, 4, 5)
    assert found.mean == pytest.approx(statistics.fmean(means))
    assert found.standard_error == pytest.approx(statistics.stdev(means) / 3**0.5)
    assert summary.arms["fedlag-swap"].num_seeds_personal == {"conv1": 3, "conv2": 3, "conv3": 0, "fc1": 0, "head": 0}


def test_one_seed_has_no_standard_error(results: DemoResult) -> None:
    summary = summarize_seeds([results])
    assert summary.arms["local"].worst_test_accuracy.standard_error is None
    assert json.loads(summary_to_json(summary))["arms"]["local"]["worst_test_accuracy"][1] is None


def test_seeds_that_do_not_compare_are_refused(new_results: MakeResults) -> None:
    one, other = new_results(0), new_results(1)
    fewer = msgspec.structs.replace(other, arms={"local": other.arms["local"]})
    for runs in ([], [one, one], [one, fewer]):
        with pytest.raises(DataError, match="a summary needs"):
            summarize_seeds(runs)
