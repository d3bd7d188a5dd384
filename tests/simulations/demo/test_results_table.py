import io
from collections.abc import Callable

import msgspec
from rich.console import Console, RenderableType

from simulations.demo.results import DemoResult
from simulations.demo.results_table import results_table, summary_table
from simulations.demo.seed_summary import summarize_seeds


def shown(table: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=160, force_terminal=False)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def row_of(text: str, arm: str) -> list[str]:
    line = next(line for line in text.splitlines() if f" {arm} " in line)
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_every_arm_has_a_row_with_its_figures(results: DemoResult) -> None:
    text = shown(results_table(results))
    swap = results.arms["fedlag-swap"]
    expected = [f"{swap.mean_test_accuracy:.1%}", f"{swap.worst_test_accuracy:.1%}"]
    assert row_of(text, "fedlag-swap")[1:3] == expected
    assert row_of(text, "fedlag-swap")[-1] == "conv1, conv2"
    assert row_of(text, "fedavg")[-1] == "none"


def test_training_alone_keeps_all_layers_and_is_not_compared_with_itself(results: DemoResult) -> None:
    row = row_of(shown(results_table(results)), "local")
    assert (row[3], row[-1]) == ("n/a", "all")


def test_several_seeds_show_their_standard_errors(new_results: Callable[..., DemoResult]) -> None:
    text = shown(summary_table(summarize_seeds([new_results(seed) for seed in range(3)])))
    assert "3 seeds (0, 1, 2)" in text
    assert "±" in row_of(text, "fedavg")[1]
    assert row_of(text, "fedlag-swap")[-1] == "conv1 3, conv2 3"


def test_markup_in_a_name_is_shown_and_not_obeyed(results: DemoResult) -> None:
    named = msgspec.structs.replace(results, arms={"[red]evil[/]": results.arms["fedavg"]})
    assert "[red]evil[/]" in shown(results_table(named))
