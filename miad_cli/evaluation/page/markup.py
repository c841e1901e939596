"""Text into HTML and numbers into text. Everything that reaches the page goes through here."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable
from html import escape as _escape

from miad_cli.evaluation.findings import Beside, Better, Cell, Figure
from miad_cli.evaluation.intervals import Estimate

NONE = "–"
"""What stands where nothing was measured."""

PAPER = "MIAD-MARK (arXiv:2303.09858)"

DIRECTION = {"lower": "lower is better", "higher": "higher is better"}


def clean(text: object) -> str:
    """`text` in one line: control characters, lone surrogates and marks that turn the direction
    of writing become U+FFFD."""
    spaced = " ".join(str(text).split("\n"))
    return "".join("\ufffd" if unicodedata.category(c)[0] == "C" else c for c in spaced)


def esc(text: object) -> str:
    """`text` for HTML, between tags and inside quoted attributes."""
    return _escape(clean(text), quote=True)


def shortened(text: object, length: int) -> str:
    """`text` cut to `length` characters, for where there is no room."""
    whole = clean(text)
    return whole if len(whole) <= length else whole[: length - 1].rstrip() + "…"


def number(value: float | int, digits: int) -> str:
    """A number for people: thousands apart, a real minus; integers keep no decimals."""
    if isinstance(value, float) and not math.isfinite(value):
        return NONE if math.isnan(value) else "∞" if value > 0 else "−∞"
    text = f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"
    return text.replace("-", "−" if text.strip("-0.") else "")


def interval(estimate: Estimate, digits: int) -> str:
    """The 95 % interval, or nothing where there is none."""
    if estimate.method == "none":
        return ""
    low, high = number(float(estimate.low), digits), number(float(estimate.high), digits)
    return f"{low}–{high}" if "−" not in low + high else f"{low} to {high}"


def spoken(figure: Figure | None, digits: int, unit: str = "") -> str:
    """A figure in words, for those who cannot see a plot."""
    if figure is None:
        return "not measured"
    if not isinstance(figure, Estimate):
        return number(figure, digits) + unit
    width = interval(figure, digits)
    sure = f" (95 % {width})" if width else ""
    return f"{number(float(figure.value), digits)}{unit}{sure}, n {figure.n}"


def value_of(cell: Cell) -> float | int | str | None:
    """What a cell is sorted by."""
    if isinstance(cell, Beside):
        return value_of(cell.ours)
    return float(cell.value) if isinstance(cell, Estimate) else cell


def percent(figure: Figure) -> Figure:
    """A share as per cent."""
    if not isinstance(figure, Estimate):
        return figure * 100.0
    low, high = figure.low * 100, figure.high * 100
    return Estimate(figure.value * 100, low, high, figure.n, figure.method)


def hint(better: Better | None) -> str:
    """Which direction is better, as HTML."""
    return f'<span class="better">{DIRECTION[better]}</span>' if better else ""


def figures(cells: Iterable[Cell]) -> Iterable[Estimate]:
    """The estimates among cells."""
    for cell in cells:
        mine = cell.ours if isinstance(cell, Beside) else cell
        if isinstance(mine, Estimate):
            yield mine
