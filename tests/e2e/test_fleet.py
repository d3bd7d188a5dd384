"""Separate processes over the real broker, from the first round to the last."""

from __future__ import annotations

import hashlib
import signal

import pytest

from tests.e2e.home import Home

pytestmark = pytest.mark.slow

NUM_ROUNDS = 6


def run_fleet(home: Home, selector: str, devices: list[str], *, name: str = "aggregator", averaging: str = "") -> int:
    config = home.aggregator(selector, num_devices=3, num_rounds=NUM_ROUNDS, name=name, averaging=averaging)
    server = home.fedlag("aggregator", "run", config)
    edges = [home.fedlag("edge", "run", home.folder / f"{device}.toml") for device in devices]
    code = home.end(server)
    assert [home.end(edge, signal.SIGTERM) for edge in edges] == [0] * len(edges), home.logs()
    return code


def final_layers(home: Home, name: str) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (home.folder / name / "layers").iterdir()
    }


def test_three_device_processes_on_both_runtimes_finish_all_rounds(home: Home) -> None:
    home.device("kitchen", runtime="executorch", seed=1)
    home.device("attic", seed=2)
    home.device("cellar", seed=3, most_examples=4)
    assert run_fleet(home, "fedavg", ["kitchen", "attic", "cellar"]) == 0, home.logs()
    reports = home.reports()
    assert [report.round_number for report in reports] == list(range(1, NUM_ROUNDS + 2))
    assert all(sorted(report.counted) == ["attic", "cellar", "kitchen"] for report in reports)
    assert reports[-1].runtimes == {"attic": "onnx", "cellar": "onnx", "kitchen": "executorch"}
    first, last = reports[0].counted["attic"].before, reports[-1].counted["attic"].before
    assert last.loss < first.loss, "the fleet learns"
    assert last.accuracy > first.accuracy + 0.3


def test_devices_that_disagree_on_labels_keep_their_conflicting_layers(home: Home) -> None:
    for index, name in enumerate(["kitchen", "attic", "cellar"]):
        home.device(name, seed=index, labels=3 * index)
    assert run_fleet(home, "fedlag-paper", ["kitchen", "attic", "cellar"]) == 0, home.logs()
    last = home.reports()[-1]
    assert len(last.personal_layers) == 2
    scores = home.reports()[0].conflict_scores
    assert max(scores, key=scores.__getitem__) in last.personal_layers
    bytes_up = [figures.bytes_up for report in home.reports() for figures in report.counted.values()]
    assert all(count > 0 for count in bytes_up[3:])


@pytest.mark.parametrize("averaging", ["", 'method = "median"\nclip_norm = 1.0'])
def test_the_order_of_arrival_changes_no_bit_of_the_averages(home: Home, averaging: str) -> None:
    names = ["kitchen", "attic", "cellar"]
    for index, name in enumerate(names):
        home.device(name, seed=index)
    assert run_fleet(home, "fedavg", names, name="first", averaging=averaging) == 0, home.logs()
    for name in names:  # new devices of the same names, started in another order
        (home.folder / name).rename(home.folder / f"{name}-before")
    home.broker.stop()
    home.broker.start()
    assert run_fleet(home, "fedavg", names[::-1], name="second", averaging=averaging) == 0, home.logs()
    assert final_layers(home, "first") == final_layers(home, "second")


def test_a_device_and_the_aggregator_that_are_killed_go_on_where_they_were(home: Home) -> None:
    for index, name in enumerate(["kitchen", "attic", "cellar"]):
        home.device(name, seed=index)
    config = home.aggregator("fedavg", num_devices=3, num_rounds=12)
    server = home.fedlag("aggregator", "run", config)
    edges = {name: home.fedlag("edge", "run", home.folder / f"{name}.toml") for name in ("kitchen", "attic", "cellar")}
    home.wait_for_rounds(2)
    home.end(edges["attic"], signal.SIGKILL)
    edges["attic"] = home.fedlag("edge", "run", home.folder / "attic.toml")
    home.wait_for_rounds(5)
    home.end(server, signal.SIGKILL)
    server = home.fedlag("aggregator", "run", config)
    assert home.end(server) == 0, home.logs()
    assert [home.end(edge, signal.SIGTERM) for edge in edges.values()] == [0, 0, 0], home.logs()
    assert [report.round_number for report in home.reports()] == list(range(1, 14))
    assert all(len(report.counted) == 3 for report in home.reports())


def test_a_broker_that_is_restarted_without_its_memory_loses_nothing(home: Home) -> None:
    names = ["kitchen", "attic", "cellar"]
    for index, name in enumerate(names):
        home.device(name, seed=index)
    server = home.fedlag("aggregator", "run", home.aggregator("fedlag-swap", num_devices=3, num_rounds=8))
    edges = [home.fedlag("edge", "run", home.folder / f"{name}.toml") for name in names]
    home.wait_for_rounds(3)
    home.broker.stop()
    home.broker.start()
    assert home.end(server) == 0, home.logs()
    assert [home.end(edge, signal.SIGTERM) for edge in edges] == [0, 0, 0], home.logs()
    assert all(len(report.counted) == 3 for report in home.reports())
