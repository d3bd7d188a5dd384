"""What is written is a configuration that an aggregator takes, whatever the user called things."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aggregator.config import AggregatorConfig
from aggregator.selection import make_selector
from simulations.advise.advice import make_advice
from simulations.advise.fleet_config import fleet_config
from simulations.advise.result import TrialResult
from wire.settings import load_settings

MakeResult = Callable[..., TrialResult]

RULES = ["fedavg", "local", "fedper", "fedlag-swap", "fedlag-paper"]


@pytest.mark.parametrize("rule", RULES)
def test_an_aggregator_takes_the_configuration_of_every_rule(
    rule: str, make_result: MakeResult, tmp_path: Path
) -> None:
    result = make_result({rule: 0.8})
    path = tmp_path / "aggregator.toml"
    path.write_text(fleet_config(result, make_advice(result), ["Use it."], ["it is young"]))
    config = load_settings(path, AggregatorConfig)
    assert config.selector.name == rule
    make_selector(config.selector.name, config.selector.options, config.rounds.num_rounds).start(result.layers)
    assert config.rounds.num_rounds == 12
    assert config.rounds.cohort_size == 20
    assert config.training.learning_rate == 0.03
    assert config.program == tmp_path / "program"
    assert config.folder == tmp_path / "aggregator"
    assert "# Use it." in path.read_text()
    assert "# Be careful: it is young." in path.read_text()


def test_the_options_that_are_commented_out_can_be_used(make_result: MakeResult) -> None:
    for rule in ("fedlag-swap", "fedlag-paper"):
        result = make_result({rule: 0.8})
        text = fleet_config(result, make_advice(result), [], [])
        tree = tomllib.loads(re.sub(r"^# (?=\w+ = )", "", text, flags=re.MULTILINE))
        assert len(tree["selector"]["options"]) == 2
        make_selector(rule, tree["selector"]["options"], 12).start(result.layers)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(), st.lists(st.text(), max_size=3))
def test_no_name_or_sentence_can_end_a_comment(make_result: MakeResult, name: str, sentences: list[str]) -> None:
    result = make_result({"fedlag-swap": 0.8}, model=name, data=name)
    tree = tomllib.loads(fleet_config(result, make_advice(result), sentences, sentences))
    assert tree["selector"] == {"name": "fedlag-swap", "options": {}}


@pytest.mark.parametrize("num_devices", [2, 3, 5, 100])
def test_a_quorum_is_most_of_the_devices_and_two_at_least(num_devices: int, make_result: MakeResult) -> None:
    result = make_result({"local": 0.8}, num_devices=num_devices)
    rounds = tomllib.loads(fleet_config(result, make_advice(result), [], []))["rounds"]
    assert max(2, 0.8 * num_devices) <= rounds["quorum"] <= rounds["cohort_size"] == num_devices
