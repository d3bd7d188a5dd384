"""A picture drawn for the page that holds it: plain SVG in the page's own colors, so that both turn dark together.

Nothing is measured by a font engine and nothing has an id: pictures are small, the same everywhere, and many can stand
in one page.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from markupsafe import Markup

from simulations.demo.wording import printable

__all__ = ["NUM_ARM_STYLES", "Picture", "Scale", "even_ticks", "marker"]

NUM_ARM_STYLES = 6
"""Number of markers and colors; a seventh arm looks like the first."""

MARKER_PATHS = (
    "M-3.4,0a3.4,3.4 0 1,0 6.8,0a3.4,3.4 0 1,0 -6.8,0z",  # circle
    "M-3,-3h6v6h-6z",  # square
    "M0,-3.9L3.7,2.9h-7.4z",  # triangle up
    "M0,-4.2L4.2,0L0,4.2L-4.2,0z",  # diamond
    "M0,3.9L3.7,-2.9h-7.4z",  # triangle down
    "M-1.3,-4h2.6v2.7h2.7v2.6h-2.7v2.7h-2.6v-2.7h-2.7v-2.6h2.7z",  # plus
)


Point: TypeAlias = tuple[float, float]
"""From the left, and from the top."""

Box: TypeAlias = tuple[float, float, float, float]
"""Left, top, width, height."""


@dataclass(frozen=True, slots=True)
class Scale:
    """A straight line from values to positions.

    Args:
        low: The value that stands at ``start``.
        high: The value that stands at ``stop``; unlike ``low``.
        start: Position in the picture's units.
        stop: Position in the picture's units.
    """

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        """Return the position of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)


class Picture:
    """An SVG picture under construction; what is drawn later covers what was drawn before.

    Args:
        description: What the picture says, for those who do not see it.
        width: In units of about a pixel on a phone.
        height: In the same units.
    """

    def __init__(self, description: str, width: float, height: float) -> None:
        """Begin an empty picture."""
        self.width = width
        self.height = height
        self.description = description
        self._elements: list[Markup] = []

    def rect(self, box: Box, css: str, *, title: str = "", **more: float) -> None:
        """Draw a rectangle; ``title`` shows when a pointer rests on it."""
        x, y, width, height = box
        self._elements.append(_element("rect", _title(title), x=x, y=y, width=width, height=height, class_=css, **more))

    def line(self, start: Point, stop: Point, css: str) -> None:
        """Draw a straight line."""
        self._elements.append(_element("line", x1=start[0], y1=start[1], x2=stop[0], y2=stop[1], class_=css))

    def path(self, points: Sequence[Point], css: str) -> None:
        """Draw a line through points."""
        joined = " ".join(f"{_number(x)},{_number(y)}" for x, y in points)
        self._elements.append(_element("polyline", points=joined, class_=css))

    def text(self, place: Point, content: str, css: str = "", *, anchor: str = "start") -> None:
        """Write text; ``anchor`` is start, middle or end."""
        x, y = place
        self._elements.append(_element("text", printable(content), x=x, y=y, class_=css, text_anchor=anchor))

    def marker(self, place: Point, index: int, *, title: str = "") -> None:
        """Draw the marker of the arm with this index."""
        self._elements.append(marker(index, place, title=title))

    def markup(self) -> Markup:
        """Return the picture, ready to stand in an HTML page."""
        box = f"0 0 {_number(self.width)} {_number(self.height)}"
        body = Markup().join(self._elements)
        return _element("svg", body, viewBox=box, role="img", aria_label=printable(self.description))


def marker(index: int, place: Point = (0.0, 0.0), *, title: str = "") -> Markup:
    """Return the marker of the arm with this index: a shape for those who do not see its color.

    Args:
        index: From 0, in the order of the arms.
        place: Its center.
        title: Shows when a pointer rests on it.
    """
    style = index % NUM_ARM_STYLES
    position = f"translate({_number(place[0])} {_number(place[1])})"
    return _element("path", _title(title), d=MARKER_PATHS[style], transform=position, class_=f"dot arm-{style}")


def even_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return round values from ``low`` to ``high``, evenly apart.

    Args:
        low: The smallest value to cover.
        high: The largest, above ``low``.
        most: The most ticks, at least 2.

    Returns:
        Multiples of 1, 2 or 5 times a power of ten, at most ``most`` of them, inside the range.

    Example:
        >>> even_ticks(0.63, 1.0)
        [0.7, 0.8, 0.9, 1.0]
    """
    span = high - low
    power = math.floor(math.log10(span)) - 1
    steps = (factor * 10.0**exponent for exponent in range(power, power + 3) for factor in (1, 2, 5))
    ends = (
        (step, math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)) for step in steps if span / step < most
    )
    step, first, last = next((step, first, last) for step, first, last in ends if last - first < most)
    return [round(index * step, 10) for index in range(first, last + 1)]


def _element(tag: str, content: str = "", **attributes: str | float) -> Markup:
    """Return one element; everything that is not already markup is escaped."""
    listed = Markup().join(
        Markup(' {}="{}"').format(_attribute_name(name), value if isinstance(value, str) else _number(value))
        for name, value in attributes.items()
        if value != ""
    )
    return Markup("<{0}{1}>{2}</{0}>").format(tag, listed, content)


def _attribute_name(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


def _title(title: str) -> Markup:
    return _element("title", printable(title)) if title else Markup()


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
