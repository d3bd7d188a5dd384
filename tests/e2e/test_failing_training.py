"""A device whose training fails lives on, says why, and is counted once it can train."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor

import pytest

import edge_client.agent
import edge_client.trouble
from edge_client.agent import Agent, Workshop
from edge_client.config import EdgeConfig
from edge_client.dataset import Dataset
from edge_client.program import TrainingProgram
from edge_client.training import RoundOutcome, RoundWork, run_round
from tests.e2e.home import Home
from wire.settings import load_settings

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("failure", "says"), [(MemoryError(), "set memory_mb"), (RuntimeError("no such kernel"), "no such kernel")]
)
def test_a_device_whose_training_fails_twice_is_counted_at_the_third_try(
    home: Home, failure: Exception, says: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    num_tries = 0

    def fail_twice(program: TrainingProgram, data: Dataset, work: RoundWork) -> RoundOutcome:
        nonlocal num_tries
        num_tries += 1
        if num_tries <= 2:
            raise failure
        return run_round(program, data, work)

    monkeypatch.setattr(edge_client.agent, "run_round", fail_twice)
    monkeypatch.setattr(edge_client.trouble, "FIRST_PAUSE_S", 0.2)
    server = home.fedlag("aggregator", "run", home.aggregator("fedavg", num_devices=1, num_rounds=1))
    config = load_settings(home.device("attic"), EdgeConfig)

    async def serve() -> None:
        stop = asyncio.Event()
        with ThreadPoolExecutor(max_workers=1) as executor:
            device = asyncio.create_task(Agent(config, Workshop(executor)).run(stop))
            code = await asyncio.to_thread(home.end, server)
            stop.set()
            await device
            assert code == 0, home.logs()

    with caplog.at_level(logging.INFO):
        asyncio.run(serve())
    assert num_tries == 4  # the second round measures
    assert [tuple(report.counted) for report in home.reports()] == [("attic",), ("attic",)]
    assert says in caplog.text
    assert "failure 2 in a row" in caplog.text
