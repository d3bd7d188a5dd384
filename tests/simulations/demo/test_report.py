import html.parser
import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from simulations.demo.report import render_report, write_report
from simulations.demo.report_sentences import findings
from simulations.demo.results import DemoResult
from simulations.svg import Scale, even_ticks
from wire.errors import StoreError

MakeResults = Callable[..., DemoResult]

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(1)>&\N{RIGHT-TO-LEFT OVERRIDE}{{ 7*7 }}'
VOID = {"meta", "link", "br", "img"}


class Page(html.parser.HTMLParser):
    """Reads a page as a browser would: its elements, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def with_hostile_names(results: DemoResult) -> DemoResult:
    def renamed(tree: object) -> object:
        if isinstance(tree, dict):
            return {HOSTILE if key == "conv1" else key: renamed(value) for key, value in tree.items()}
        if isinstance(tree, (list, tuple)):
            return [renamed(value) for value in tree]
        return HOSTILE if tree in {"conv1", "person-01-left", "onnx"} else tree

    return msgspec.convert(renamed(msgspec.to_builtins(results)), DemoResult)


@pytest.fixture
def page(results: DemoResult) -> Page:
    return Page(render_report(results))


def test_nothing_is_loaded_from_elsewhere(results: DemoResult, page: Page) -> None:
    text = render_report(results)
    assert not re.search(r"(https?:)?//", text)
    assert "@import" not in text
    assert set(re.findall(r"url\(([^)]*)\)", text)) == {"#hatch"}
    assert {tag for tag, _ in page.elements} & {"script", "iframe", "object", "embed", "form", "img", "base"} == set()
    addresses = {attrs[name] for _, attrs in page.elements for name in ("src", "href", "action") if name in attrs}
    assert addresses == {"data:,"}


def test_the_page_forbids_itself_every_request(page: Page) -> None:
    policies = [attrs["content"] for tag, attrs in page.elements if attrs.get("http-equiv")]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_every_arm_layer_and_device_is_named(results: DemoResult, page: Page) -> None:
    for name, arm in results.arms.items():
        assert name in page.words
        assert all(device.device_id in page.words for device in arm.devices)
    assert all(layer in page.words for layer in results.layers)


def test_the_page_is_well_formed_and_its_ids_are_unique(page: Page) -> None:
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert page.open == []
    assert len(ids) == len(set(ids))


def test_pictures_and_tables_say_what_they_show(page: Page) -> None:
    pictures = [attrs for tag, attrs in page.elements if tag == "svg"]
    assert all(attrs.get("aria-label") or attrs.get("aria-hidden") == "true" for attrs in pictures)
    assert sum(attrs.get("role") == "img" for attrs in pictures) == 6
    tags = [tag for tag, _ in page.elements]
    assert tags.count("caption") == tags.count("table") == 3
    assert tags.count("h1") == 1


def test_names_from_elsewhere_are_escaped_everywhere(results: DemoResult) -> None:
    text = render_report(with_hostile_names(results))
    page = Page(text)
    assert page.open == []
    assert not any(tag in {"script", "img"} or "onerror" in attrs for tag, attrs in page.elements)
    assert "<script>alert(1)</script>" in page.words
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in text
    assert "{{ 7*7 }}" in page.words


def test_the_reason_stands_with_the_round_before_the_layer_became_personal(page: Page) -> None:
    assert "fedlag-swap conv1 496 10-40 +0.080 ± 0.021 kept conv1 helps twice in a row: chosen" in page.words


def test_the_page_says_what_is_not_private(page: Page) -> None:
    expected = "Shared layers' values reach the aggregator in full; there is no secure aggregation or differential privacy yet."
    assert expected in page.words


def test_the_file_is_the_page(results: DemoResult, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(results, path)
    assert path.read_text(encoding="utf-8") == render_report(results)
    with pytest.raises(StoreError, match="cannot write"):
        write_report(results, tmp_path / "missing" / "report.html")


@pytest.mark.parametrize(("num_devices", "num_rounds"), [(1, 1), (2, 2), (150, 300)])
def test_any_size_of_fleet_fits_in_one_small_file(new_results: MakeResults, num_devices: int, num_rounds: int) -> None:
    text = render_report(new_results(0, num_devices=num_devices, num_rounds=num_rounds))
    assert Page(text).open == []
    assert len(text.encode()) < 1_500_000


def test_without_any_score_the_page_says_so(results: DemoResult) -> None:
    alone = msgspec.structs.replace(results, arms={"local": results.arms["local"]})
    words = Page(render_report(alone)).words
    assert "No arm has measured conflict" in words
    assert "No layer became personal" in words


def test_arms_that_print_alike_share_the_first_place(results: DemoResult) -> None:
    local = results.arms["local"]
    tied = msgspec.structs.replace(results, arms={"local": local, "twin": local})
    mean, worst, below, caveat = findings(tied)
    assert mean == f"On average over the devices, test accuracy is {local.mean_test_accuracy:.1%} in local and twin."
    assert "in local and twin" in worst
    assert "0 of 20 devices in twin" in below
    assert "cannot say whether a difference between arms is more than noise" in caveat


def test_the_best_arm_is_named_with_the_next(results: DemoResult) -> None:
    best = max(results.arms.values(), key=lambda arm: arm.mean_test_accuracy)
    assert f"highest in {best.name}: {best.mean_test_accuracy:.1%}; then comes" in findings(results)[0]


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 12))
@example(1.0, 1e-6, 2)
def test_ticks_are_few_inside_and_evenly_apart(low: float, span: float, most: int) -> None:
    ticks = even_ticks(low, low + span, most)
    assert len(ticks) <= most
    assert all(low - span * 1e-3 <= tick <= low + span * 1.001 for tick in ticks)


@given(st.floats(0, 1))
def test_a_scale_meets_both_ends(value: float) -> None:
    scale = Scale(0.0, 1.0, 20.0, 120.0)
    assert (scale(0.0), scale(1.0)) == (20.0, 120.0)
    assert 20 <= scale(value) <= 120


def test_a_round_that_diverged_is_told_as_such(results: DemoResult) -> None:
    fedavg = results.arms["fedavg"]
    last = msgspec.structs.replace(fedavg.rounds[-1], validation_loss=None, conflict={}, mean_cosine={})
    broken = msgspec.structs.replace(fedavg, rounds=(*fedavg.rounds[:-1], last))
    words = Page(render_report(msgspec.structs.replace(results, arms={"fedavg": broken}))).words
    assert "no finite loss, 20 devices counted" in words
    assert "conv1, round 40: no score" in words
    assert "conv1, round 39:" in words
    assert "of pairs in conflict, mean cosine" in words
