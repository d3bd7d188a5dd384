"""Figures and names in words, the same in the terminal and in the report."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from simulations.demo.results import LOCAL_ARM, DemoResult, share_below_local

__all__ = [
    "ARM_DESCRIPTIONS",
    "below_alone",
    "layer_names",
    "megabytes",
    "percent",
    "personal_at_end",
    "printable",
    "round_spans",
    "shorten",
]

ARM_DESCRIPTIONS = {
    "fedavg": "All layers are shared: after every round the models are averaged, and all go on from the average.",
    "local": "Nothing is shared: every device trains alone, on its own examples.",
    "fedlag-paper": (
        "The rule of the FedLAG paper (arXiv:2410.02845): the layers on which the most pairs of devices pull in "
        "opposite directions stay personal, a fixed number of them."
    ),
    "fedlag-swap": (
        "This project's rule: a layer becomes personal once the devices have found, on held-out examples of their own, "
        "that keeping it serves them better than the average, and have found so twice."
    ),
}
"""What an arm does, for readers who have not read the paper."""


def percent(share: float | None) -> str:
    """Return a share in percent; n/a where there is none.

    Example:
        >>> percent(0.9534), percent(1.0), percent(None)
        ('95.3%', '100.0%', 'n/a')
    """
    return "n/a" if share is None else f"{share:.1%}"


def megabytes(num_bytes: float) -> str:
    """Return a number of bytes in units of a million.

    Example:
        >>> megabytes(12_340_000), megabytes(0), megabytes(1_000)
        ('12.3 MB', '0 MB', '0.001 MB')
    """
    millions = num_bytes / 1e6
    return f"{millions:,.1f} MB" if millions >= 1 else f"{millions:.2g} MB"


def below_alone(results: DemoResult, arm: str) -> str:
    """Return the share of an arm's devices that would have done better alone; n/a for training alone itself."""
    return percent(None if arm == LOCAL_ARM else share_below_local(results, arm))


def personal_at_end(results: DemoResult, arm: str) -> str:
    """Return the layers that were personal at the end; who trains alone keeps all."""
    return "all" if arm == LOCAL_ARM else layer_names(results.arms[arm].personal_layers, results.layers)


def layer_names(layers: Iterable[str], all_layers: Collection[str]) -> str:
    """Return the layers in the model's order, or in one word.

    Example:
        >>> layer_names(["fc1", "conv1"], ["conv1", "fc1", "head"])
        'conv1, fc1'
        >>> layer_names([], ["conv1", "fc1"]), layer_names(["conv1", "fc1"], ["conv1", "fc1"])
        ('none', 'all')
    """
    chosen = set(layers)
    if not chosen:
        return "none"
    if chosen == set(all_layers):
        return "all"
    known = [layer for layer in all_layers if layer in chosen]
    return ", ".join(map(printable, known + sorted(chosen.difference(known))))


def round_spans(rounds: Iterable[int]) -> str:
    """Return rounds in ascending order as spans.

    Example:
        >>> round_spans([3, 4, 5, 9])
        '3-5, 9'
    """
    spans: list[list[int]] = []
    for number in rounds:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)


def printable(text: str) -> str:
    r"""Return a name from elsewhere without characters that could reorder, hide or break the text around it.

    Example:
        >>> printable("kitchen\x00\u202epi")
        'kitchen��pi'
    """
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def shorten(text: str, limit: int) -> str:
    """Return at most ``limit`` printable characters, the last an ellipsis where some were left off.

    Example:
        >>> shorten("person-03-left", 9)
        'person-0…'
    """
    text = printable(text)
    return text if len(text) <= limit else text[: limit - 1] + "…"
