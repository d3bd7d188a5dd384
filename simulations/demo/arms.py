"""The demo's arms: which rule chooses the personal layers, and the learning rate that validation data chose for it."""

from __future__ import annotations

from importlib import resources

import msgspec

__all__ = ["ARM_NAMES", "Arm", "LearningRates", "chosen_arms", "learning_rates_json"]

ARM_NAMES = ("fedavg", "local", "fedlag-paper", "fedlag-swap")
LEARNING_RATES_FILE = "learning_rates.json"


class Arm(msgspec.Struct, frozen=True):
    """One fleet of the demo.

    Args:
        name: Its fleet's name.
        selector: The rule's name.
        learning_rate: Of the devices' SGD.
    """

    name: str
    selector: str
    learning_rate: float


class LearningRates(msgspec.Struct, frozen=True):
    """What ``learning_rates.json`` holds.

    Args:
        chosen: Arm -> learning rate.
        validation_accuracy: Arm -> learning rate -> mean validation accuracy at the end.
    """

    chosen: dict[str, float]
    validation_accuracy: dict[str, dict[str, float]]


def chosen_arms() -> tuple[Arm, ...]:
    """Return the four arms, each with the learning rate that ``fedlag demo --choose-learning-rates`` has chosen."""
    data = resources.files("simulations.demo").joinpath(LEARNING_RATES_FILE).read_bytes()
    rates = msgspec.json.decode(data, type=LearningRates).chosen
    return tuple(Arm(name, name, rates[name]) for name in ARM_NAMES)


def learning_rates_json(accuracies: dict[str, dict[float, float]]) -> bytes:
    """Return the file that ``chosen_arms`` reads.

    Args:
        accuracies: Arm -> learning rate -> mean validation accuracy at the end; the highest wins, of equals the lower.
    """
    chosen = {name: max(sorted(rates), key=rates.__getitem__) for name, rates in accuracies.items()}
    measured = {
        name: {f"{rate:g}": round(value, 4) for rate, value in rates.items()} for name, rates in accuracies.items()
    }
    return (
        msgspec.json.format(msgspec.json.encode({"chosen": chosen, "validation_accuracy": measured}), indent=2) + b"\n"
    )
