"""Learning rates over the rounds of a fleet are those of torch's schedulers, a round for a step."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aggregator.config import AggregatorConfig, RoundSettings
from aggregator.schedule import learning_rate_of_round
from wire.messages import TrainingSettings

ROUNDS = 12


def rates(settings: RoundSettings, num_rounds: int = ROUNDS) -> list[float]:
    return [learning_rate_of_round(0.2, settings, number) for number in range(1, num_rounds + 1)]


@pytest.mark.parametrize("warmup_rounds", [0, 4])
@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_a_schedule_is_torchs(schedule: str, warmup_rounds: int) -> None:
    settings = msgspec.convert(
        {"num_rounds": ROUNDS, "schedule": schedule, "warmup_rounds": warmup_rounds}, RoundSettings
    )
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.2)
    num_falling = ROUNDS - warmup_rounds
    falling: torch.optim.lr_scheduler.LRScheduler = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    if schedule == "linear":
        falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, num_falling)
    if schedule == "cosine":
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_falling)
    expected = []
    for _ in range(num_falling):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        falling.step()
    found = rates(settings)
    assert found[:warmup_rounds] == pytest.approx([0.05, 0.1, 0.15, 0.2][:warmup_rounds])
    assert found[warmup_rounds:] == pytest.approx(expected)


@given(st.sampled_from(["constant", "linear", "cosine"]), st.integers(1, 50), st.integers(0, 49), st.integers(1, 60))
def test_no_round_has_a_rate_of_0_or_above_the_fleets(
    schedule: str, num_rounds: int, warmup_rounds: int, round_number: int
) -> None:
    settings = msgspec.convert(
        {"num_rounds": num_rounds, "schedule": schedule, "warmup_rounds": min(warmup_rounds, num_rounds - 1)},
        RoundSettings,
    )
    assert 0 < learning_rate_of_round(0.2, settings, round_number) <= 0.2


def test_a_fleet_without_an_end_has_a_constant_rate_after_its_warm_up() -> None:
    assert rates(RoundSettings(warmup_rounds=2), 4) == [0.1, 0.2, 0.2, 0.2]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"schedule": "cosine"}, "needs an end: give num_rounds"),
        ({"num_rounds": 5, "warmup_rounds": 5}, "leaves none of 5"),
    ],
)
def test_a_schedule_that_cannot_be_followed_is_refused(options: dict[str, object], line: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=line):
        msgspec.convert(options, RoundSettings)


@pytest.mark.parametrize("options", [{"optimizer": "adam"}, {"momentum": 0.0}])
def test_looking_ahead_without_momentum_of_sgd_is_refused(options: dict[str, object]) -> None:
    training = msgspec.convert({"nesterov": True, **options}, TrainingSettings)
    with pytest.raises(ValueError, match="nesterov looks ahead"):
        AggregatorConfig(fleet="home", program=Path("program"), folder=Path("folder"), training=training)
