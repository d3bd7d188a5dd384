"""The bench of the round log measures what it says, in memory that does not grow with the cohort."""

from __future__ import annotations

import json

import pytest

from simulations.bench.commands import main


def test_a_cohort_of_uploads_is_logged_read_again_and_averaged(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["log", "--devices", "60", "--params", "250000", "--format", "json"])
    assert ended.value.code == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["devices"], row["params"]) == (60, 250_000)
    assert all(row[name] > 0 for name in ("ms_per_upload", "ratio_to_sqlite", "replay_s", "average_s"))
    assert row["resident_mb"] < 60 * 1.0 / 2
