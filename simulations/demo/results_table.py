"""Results as a table in the terminal."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from simulations.demo.results import LOCAL_ARM, DemoResult, Estimate
from simulations.demo.seed_summary import SeedSummary
from simulations.demo.wording import below_alone, megabytes, percent, personal_at_end, printable

__all__ = ["results_table", "summary_table"]

COLUMNS = ("mean accuracy", "worst device", "below alone", "up per device", "down per device")


def results_table(results: DemoResult) -> Table:
    """Return one row per arm: accuracy on the devices' own test examples, bytes of all rounds, personal layers.

    Args:
        results: The comparison; a device is "below alone" if it would have been better off in the arm ``local``.
    """
    table = _new_table(
        f"{results.num_rounds} rounds, seed {results.seed}, {results.wall_s:.0f} s",
        "personal at the end",
    )
    for name, arm in results.arms.items():
        table.add_row(
            Text(printable(name)),
            percent(arm.mean_test_accuracy),
            percent(arm.worst_test_accuracy),
            below_alone(results, name),
            megabytes(arm.bytes_up_per_device),
            megabytes(arm.bytes_down_per_device),
            Text(personal_at_end(results, name)),
        )
    return table


def summary_table(summary: SeedSummary) -> Table:
    """Return one row per arm: means over seeds, each with its standard error.

    Args:
        summary: The comparison with several seeds; a layer's number says in how many of them it ended personal.
    """
    seeds = ", ".join(map(str, summary.seeds))
    table = _new_table(
        f"mean ± standard error over {len(summary.seeds)} seeds ({seeds})", "personal at the end, in seeds"
    )
    for name, arm in summary.arms.items():
        layers = ", ".join(f"{printable(layer)} {count}" for layer, count in arm.num_seeds_personal.items() if count)
        table.add_row(
            Text(printable(name)),
            _estimate(arm.mean_test_accuracy),
            _estimate(arm.worst_test_accuracy),
            _estimate(None if name == LOCAL_ARM else arm.share_below_local),
            megabytes(arm.bytes_up_per_device.mean),
            megabytes(arm.bytes_down_per_device.mean),
            Text("all" if name == LOCAL_ARM else layers or "none"),
        )
    return table


def _new_table(title: str, last_column: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("arm", no_wrap=True)
    for column in COLUMNS:
        table.add_column(column, justify="right")
    table.add_column(last_column)
    return table


def _estimate(estimate: Estimate | None) -> str:
    if estimate is None or estimate.standard_error is None:
        return percent(estimate and estimate.mean)
    return f"{percent(estimate.mean)} ± {100 * estimate.standard_error:.1f}"
