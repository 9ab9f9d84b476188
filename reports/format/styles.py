"""One look per series, the same in every figure: colour, symbol and dash."""

from __future__ import annotations

from typing import NamedTuple

from markupsafe import Markup

# Okabe and Ito's colours that read on white and on near-black; their yellow does not.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "triangle-down", "star")
DASHES = ("solid", "dash", "dot", "dashdot")
TEACHER = "#808a94"
SHAPES = {
    "circle": '<circle cx="8" cy="8" r="5"/>',
    "square": '<path d="M3.5 3.5h9v9h-9z"/>',
    "diamond": '<path d="M8 2l5.5 6L8 14 2.5 8z"/>',
    "triangle-up": '<path d="M8 2.5l6 10.5H2z"/>',
    "triangle-down": '<path d="M8 13.5L2 3h12z"/>',
    "cross": '<path d="M6 2.5h4V6h3.5v4H10v3.5H6V10H2.500V6H6z"/>',
    "x": '<path d="M4.600 2.200L8 5.600l3.400-3.400 2.400 2.400L10.400 8l3.400 3.400-2.400 2.400L8 '
    '10.400l-3.400 3.400-2.400-2.400L5.600 8 2.200 4.600z"/>',
    "star": '<path d="M8 1.500l1.900 4.200 4.600.5-3.400 3.100.9 4.500L8 11.500l-4 2.300.9-4.500'
    'L1.500 6.200l4.600-.5z"/>',
}


class Style(NamedTuple):
    """How a series is drawn."""

    colour: str
    symbol: str
    dash: str
    hollow: bool = False

    @property
    def marker(self) -> str:
        """plotly's name of the symbol."""
        return f"{self.symbol}-open" if self.hollow else self.symbol

    @property
    def svg(self) -> Markup:
        """The symbol as a small inline picture, for the legend and the tables."""
        paint = (
            f'fill="none" stroke="{self.colour}" stroke-width="1.8"'
            if self.hollow
            else f'fill="{self.colour}"'
        )
        return Markup(
            f'<svg class="key" viewBox="0 0 16 16" aria-hidden="true" {paint}>'
            f"{SHAPES[self.symbol]}</svg>"
        )


def assign(students: dict[str, str], teachers: dict[str, str]) -> dict[str, Style]:
    """A look for every series; the dicts give each its variant, in order.

    Series of one variant share its colour and differ in symbol and dash. Colours repeat after six
    variants, then with another symbol and dash.
    """
    looks = {}
    variants = {name: i for i, name in enumerate(dict.fromkeys(students.values()))}
    seen: dict[str, int] = {}
    for name, variant in students.items():
        i, again = variants[variant], seen.setdefault(variant, 0)
        seen[variant] += 1
        looks[name] = Style(
            COLOURS[i % len(COLOURS)],
            SYMBOLS[(i + again) % len(SYMBOLS)],
            DASHES[(i // len(COLOURS) + again) % len(DASHES)],
        )
    looks |= {
        name: Style(TEACHER, SYMBOLS[i % len(SYMBOLS)], DASHES[(i + 1) % len(DASHES)], hollow=True)
        for i, name in enumerate(teachers)
    }
    return looks
