"""The evidence that is committed: its page shows it, and its cells can be computed again."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from simulations.study.evidence import Evidence, load_evidence, plan_profile, to_json
from simulations.study.evidence_page import BEGIN, END, evidence_page, write_evidence
from simulations.study.running import run_cell
from tests.house.conftest import ROOT
from wire.errors import DataError, StoreError

PAGES = (ROOT / "docs" / "evidence.md", *sorted((ROOT / "docs" / "evidence").glob("*.md")))
PAGE, DATA = PAGES[0], PAGES[0].with_suffix(".json")
AGAIN = [("letter-own-labels", "fedlag-swap"), ("watch-natural", "local")]
NOISE = 0.03
"""In float32 the order of sums differs between machines and chunks, and a tie may fall the other way."""


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return load_evidence(DATA)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_shows_what_is_committed(page: Path) -> None:
    text = page.read_text()
    assert evidence_page(text, load_evidence(page.with_suffix(".json"))) == text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_committed_evidence_reads_back_as_it_was_written(page: Path) -> None:
    data = page.with_suffix(".json")
    assert to_json(load_evidence(data)) == data.read_bytes()


def test_every_method_has_every_seed_on_every_scenario(evidence: Evidence) -> None:
    found = {(cell.scenario, cell.method, cell.seed) for cell in evidence.cells}
    summary = evidence.summary
    methods = {row.method for scenario in summary.scenarios for row in scenario.methods}
    assert len(found) == len(evidence.cells) == len(summary.scenarios) * len(methods) * len(summary.seeds)
    assert not summary.failures


@pytest.mark.slow
@pytest.mark.parametrize(("scenario", "method"), AGAIN)
def test_cell_computed_again_comes_to_what_is_committed(evidence: Evidence, scenario: str, method: str) -> None:
    try:
        plan = plan_profile(evidence.profile)
    except DataError as error:
        pytest.skip(str(error))
    cell = next(cell for cell in evidence.cells if (cell.scenario, cell.method) == (scenario, method))
    planned = {it.digest: it for it in plan.cells}[cell.digest]
    outcome = run_cell(planned)
    assert outcome.status == "done", outcome.reason
    accuracies = [client.test_accuracy for client in outcome.clients if client.test_accuracy is not None]
    assert sum(accuracies) / len(accuracies) == pytest.approx(cell.test_accuracy, abs=NOISE)


def test_text_around_the_tables_stays(evidence: Evidence) -> None:
    page = evidence_page(f"before\n{BEGIN}\nold\n{END}\nafter\n", evidence)
    assert page.startswith(f"before\n{BEGIN}\n")
    assert page.endswith(f"{END}\nafter\n")
    assert "\nold\n" not in page


def test_page_without_a_place_for_tables_is_left_alone(evidence: Evidence, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing here\n")
    with pytest.raises(StoreError, match="needs the lines"):
        write_evidence(page, evidence)
    assert page.read_text() == "nothing here\n"


def test_evidence_of_another_shape_is_refused(evidence: Evidence, tmp_path: Path) -> None:
    path = tmp_path / "evidence.json"
    path.write_bytes(msgspec.json.encode({"profile": evidence.profile}))
    with pytest.raises(DataError, match="is not what"):
        load_evidence(path)
