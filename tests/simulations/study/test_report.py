from __future__ import annotations

import html.parser
import re
from collections.abc import Callable

import msgspec
import pytest

from simulations.study.cell import PlannedCell
from simulations.study.outcome import CellOutcome
from simulations.study.plan import StudyPlan
from simulations.study.report import heat_maps_of, render_study
from simulations.study.summing import summarize

MakeCell = Callable[..., PlannedCell]
MakeOutcome = Callable[..., CellOutcome]

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(1)>&\N{RIGHT-TO-LEFT OVERRIDE}{{ 7*7 }}'
VOID = {"meta", "link", "br", "img"}


class Page(html.parser.HTMLParser):
    """Reads a page as a browser would."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def page(cells: list[PlannedCell], outcomes: dict[str, CellOutcome]) -> str:
    plan = StudyPlan(name=cells[0].scenario, reference="fedavg", cells=tuple(cells))
    summary = summarize(plan, lambda it: 0.5 if it in outcomes else None, outcomes.get)
    return render_study(summary, heat_maps_of(plan, lambda it: 0.5 if it in outcomes else None, outcomes.get))


@pytest.fixture
def study(make_cell: MakeCell, make_outcome: MakeOutcome) -> tuple[list[PlannedCell], dict[str, CellOutcome]]:
    cells = [
        make_cell(method, seed=seed, scenario=scenario)
        for scenario in ("digits-iid", "digits-rotations")
        for method in ("fedavg", "local", "mask-fc1")
        for seed in (0, 1)
    ]
    outcomes = {
        it.digest: make_outcome(it, {"a": 0.5 + 0.01 * place, "b": 0.9 - 0.02 * place}, bytes_up=100_000 * place)
        for place, it in enumerate(cells)
    }
    return cells, outcomes


def test_the_page_has_every_picture_and_asks_for_nothing(
    study: tuple[list[PlannedCell], dict[str, CellOutcome]],
) -> None:
    text = page(*study)
    parsed = Page(text)
    assert parsed.open == []
    assert parsed.tags.count("svg") == 1 + 1 + 2 * (3 + 3)  # the pattern, regret; three charts, three heat maps
    assert "default-src 'none'" in text
    assert not {name for name, _ in parsed.attributes} & {"src", "onclick", "action", "srcset"}
    assert [value for name, value in parsed.attributes if name == "href"] == ["data:,"]
    assert not re.search(r"https?://|@import|url\((?!#)", text)
    assert "prefers-color-scheme: dark" in text


def test_what_stands_in_results_is_shown_as_text(make_cell: MakeCell, make_outcome: MakeOutcome) -> None:
    named = [
        msgspec.structs.replace(make_cell(method), scenario=HOSTILE, method=f"{HOSTILE} {method}")
        for method in ("fedavg", "local")
    ]
    outcomes = {
        it.digest: msgspec.structs.replace(
            make_outcome(it, {HOSTILE: 0.5, "b": 0.7}), layers={HOSTILE: 10}, warnings=(HOSTILE,), commit=HOSTILE
        )
        for it in named
    }
    parsed = Page(page(named, outcomes))
    assert parsed.open == []
    assert not {"script", "img"} & set(parsed.tags)
    assert not [name for name, _ in parsed.attributes if name.startswith("on")]


def test_a_study_with_one_cell_or_without_accuracies_is_drawn_too(
    make_cell: MakeCell, make_outcome: MakeOutcome
) -> None:
    cell = make_cell()
    assert "fedavg" in page([cell], {cell.digest: make_outcome(cell, {"a": 0.0})})
    assert "no test examples" in page([cell], {cell.digest: make_outcome(cell, {"a": None})})


def test_a_study_without_any_result_says_so(make_cell: MakeCell) -> None:
    assert "0 of 1 cells" in page([make_cell()], {})
