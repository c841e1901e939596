"""Bar charts and ROC curves as inline SVG, each with its figures in words and in a table.

Colours are classes that style.css fills, so that a chart follows the page into the dark. Lines
differ by their dashes, too, and bars stand beside their names: no chart needs colour to be read.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from miad_cli.evaluation.findings import Bar, Bars, Curve, Curves, Figure, Float
from miad_cli.evaluation.intervals import Estimate
from miad_cli.evaluation.page.markup import (
    DIRECTION,
    NONE,
    esc,
    interval,
    number,
    shortened,
    spoken,
)
from miad_cli.evaluation.page.tables import plain_table

STYLES = 6
"""How many lines style.css tells apart."""

_WIDTH, _ROW, _TITLE_ROW, _GAP = 450, 24, 28, 8
_LEFT, _RIGHT = 126, 116
_SIDE, _FOOT, _EDGE = 330, 44, 48


def bars_html(chart: Bars, figure: int) -> str:
    """A bar chart: horizontal bars under the title of their group, whiskers for intervals, a
    diamond for the paper's figure."""
    names = [(group, bar) for group, bars in chart.groups for bar in bars]
    told = "; ".join(_told(group, bar, chart) for group, bar in names)
    papers = any(bar.paper is not None for _, bar in names)
    reading = ["Whiskers: 95 % interval."] if any(_is_sure(bar) for _, bar in names) else []
    reading += ["Diamond: the paper's figure."] if papers else []
    reading += [f"{DIRECTION[chart.better].capitalize()}."] if chart.better else []
    grouped = any(group for group, _ in names)
    columns = [*(["group"] if grouped else []), "name", chart.unit, "95 %", "n"]
    columns += ["paper"] if papers else []
    rows = (_bar_row(group if grouped else None, bar, chart.digits, papers) for group, bar in names)
    values = _values(chart.identifier, chart.title, columns, rows)
    svg = _svg(chart.identifier, chart.title, told, _WIDTH, *_bars(chart))
    return _figure(chart.identifier, figure, chart.title, chart.meaning, svg, reading, "", values)


def roc_html(plot: Curves, figure: int) -> str:
    """ROC curves in a square, with the line of chance, and their areas in words."""
    told = "; ".join(f"{clean_name(one)} {spoken(one.auc, 3)}" for one in plot.curves)
    size = _SIDE + _EDGE + 10
    svg = _svg(plot.identifier, plot.title, f"Area under the curve: {told}", size, size, _roc(plot))
    key = "".join(_key(place, one) for place, one in enumerate(plot.curves))
    papers = any(one.auc_paper is not None for one in plot.curves)
    columns = ["curve", "area", "95 %", "n", *(["paper"] if papers else [])]
    rows = (
        [esc(one.name), *_figure_cells(one.auc, 3), *_paper_cell(papers, one.auc_paper, 3)]
        for one in plot.curves
    )
    values = _values(plot.identifier, plot.title, columns, rows)
    reading = ["Dotted: chance."]
    legend = f'<ul class="key">{key}</ul>'
    return _figure(plot.identifier, figure, plot.title, plot.meaning, svg, reading, legend, values)


def clean_name(curve: Curve) -> str:
    return shortened(curve.name, 60)


# --- Bars -------------------------------------------------------------------------------------


def _bars(chart: Bars) -> tuple[int, str]:
    """Height and drawing."""
    parts: list[str] = []
    y = 0
    for title, bars in chart.groups:
        if title:
            parts.append(
                f'<text class="group" x="0" y="{y + 19}">{esc(shortened(title, 56))}</text>'
            )
            y += _TITLE_ROW
        for bar in bars:
            parts.append(_bar(bar, chart, y))
            y += _ROW
        y += _GAP
    axis = _axis(chart, y)
    return y + 26, f"{axis}{''.join(parts)}"


def _axis(chart: Bars, height: int) -> str:
    lines = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = _along(share * chart.top, chart)
        kind = "base" if share == 0 else "grid"
        lines.append(f'<line class="{kind}" x1="{x}" x2="{x}" y1="0" y2="{height}"/>')
        lines.append(
            f'<text class="tick" x="{x}" y="{height + 16}" text-anchor="middle">'
            f"{chart.top * share:g}</text>"
        )
    return "".join(lines)


def _along(value: float, chart: Bars) -> float:
    share = min(max(value / chart.top, 0.0), 1.0) if np.isfinite(value) else 0.0
    return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)


def _bar(bar: Bar, chart: Bars, y: int) -> str:
    middle = y + _ROW // 2
    name = f'<text class="name" x="{_LEFT - 8}" y="{middle + 4}" text-anchor="end">'
    parts = [f"{name}{esc(shortened(bar.name, 15))}</text>"]
    end = _WIDTH - _RIGHT + 10
    if bar.value is None:
        parts.append(f'<text class="value" x="{end}" y="{middle + 4}">{NONE}</text>')
        return "".join(parts)
    value = _plain(bar.value)
    width = round(_along(value, chart) - _LEFT, 1)
    parts.append(
        f'<rect class="bar" x="{_LEFT}" y="{y + 5}" width="{width}" height="{_ROW - 10}"/>'
    )
    if isinstance(bar.value, Estimate) and bar.value.method != "none":
        low, high = _along(bar.value.low, chart), _along(bar.value.high, chart)
        parts.append(
            f'<path class="whisker" d="M{low} {middle}H{high}M{low} {middle - 4}v8M{high} '
            f'{middle - 4}v8"/>'
        )
    if bar.paper is not None:
        x = _along(bar.paper, chart)
        parts.append(f'<path class="paper" d="M{x} {middle - 7}l5 7l-5 7l-5 -7z"/>')
    shown = number(value, chart.digits)
    aside = ""
    if bar.paper is not None:
        aside = f'<tspan class="aside"> paper {number(bar.paper, chart.digits)}</tspan>'
    parts.append(f'<text class="value" x="{end}" y="{middle + 4}">{shown}{aside}</text>')
    return "".join(parts)


def _told(group: str, bar: Bar, chart: Bars) -> str:
    name = f"{group}, {bar.name}" if group else bar.name
    paper = f", paper {number(bar.paper, chart.digits)}" if bar.paper is not None else ""
    return f"{name} {spoken(bar.value, chart.digits)}{paper}"


def _bar_row(group: str | None, bar: Bar, digits: int, papers: bool) -> list[str]:
    cells = [esc(bar.name), *_figure_cells(bar.value, digits)]
    cells += _paper_cell(papers, bar.paper, digits)
    return cells if group is None else [esc(group), *cells]


def _is_sure(bar: Bar) -> bool:
    return isinstance(bar.value, Estimate) and bar.value.method != "none"


# --- ROC --------------------------------------------------------------------------------------


def _roc(plot: Curves) -> str:
    top, right = 8, _EDGE + _SIDE
    bottom = top + _SIDE
    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = _EDGE + share * _SIDE, bottom - share * _SIDE
        parts.append(
            f'<path class="grid" d="M{x:g} {top}V{bottom}M{_EDGE} {y:g}H{right}"/>'
            f'<text class="tick" x="{x:g}" y="{bottom + 16}" text-anchor="middle">{share:g}</text>'
            f'<text class="tick" x="{_EDGE - 6}" y="{y + 4:g}" text-anchor="end">{share:g}</text>'
        )
    middle = top + _SIDE / 2
    parts.append(
        f'<path class="chance" d="M{_EDGE} {bottom}L{right} {top}"/>'
        f'<text class="tick" x="{_EDGE + _SIDE / 2:g}" y="{bottom + 34}" text-anchor="middle">'
        "false positive rate</text>"
        f'<text class="tick" x="11" y="{middle:g}" text-anchor="middle" '
        f'transform="rotate(-90 11 {middle:g})">true positive rate</text>'
    )
    for place, curve in enumerate(plot.curves):
        along = _EDGE + curve.false_positive_rate * _SIDE
        up = bottom - curve.true_positive_rate * _SIDE
        line = "L".join(f"{a:g} {b:g}" for a, b in _thinned(along, up))
        parts.append(f'<path class="line line-{place % STYLES}" d="M{line}"/>')
    return "".join(parts)


def _thinned(x: Float, y: Float) -> list[tuple[float, float]]:
    """The points that can be seen: rounded to half a unit, without repeats and without those on
    the way of a straight line."""
    points: list[tuple[float, float]] = []
    for a, b in zip(np.round(x * 2) / 2, np.round(y * 2) / 2, strict=True):
        point = (float(a), float(b))
        if points and point == points[-1]:
            continue
        if len(points) > 1 and _straight(points[-2], points[-1], point):
            points.pop()
        points.append(point)
    return points


def _straight(
    first: tuple[float, float], middle: tuple[float, float], last: tuple[float, float]
) -> bool:
    along = (middle[0] - first[0]) * (last[1] - first[1])
    return along == (last[0] - first[0]) * (middle[1] - first[1])


def _key(place: int, curve: Curve) -> str:
    style = place % STYLES
    swatch = (
        '<svg class="swatch" viewBox="0 0 34 10" aria-hidden="true">'
        f'<path class="line line-{style}" d="M0 5H34"/></svg>'
    )
    paper = "" if curve.auc_paper is None else f", paper {number(curve.auc_paper, 3)}"
    return f"<li>{swatch} {esc(curve.name)} <span>{esc(spoken(curve.auc, 3) + paper)}</span></li>"


# --- Both -------------------------------------------------------------------------------------


def _plain(figure: Figure) -> float | int:
    return figure.value if isinstance(figure, Estimate) else figure


def _figure_cells(figure: Figure | None, digits: int) -> list[str]:
    """Value, interval and number of pictures."""
    if figure is None:
        return [NONE, NONE, NONE]
    if not isinstance(figure, Estimate):
        return [number(figure, digits), NONE, NONE]
    width = interval(figure, digits) or NONE
    return [number(figure.value, digits), width, f"{figure.n:,}"]


def _paper_cell(papers: bool, paper: float | None, digits: int) -> list[str]:
    if not papers:
        return []
    return [NONE if paper is None else number(paper, digits)]


def _values(identifier: str, title: str, columns: list[str], rows: Iterable[list[str]]) -> str:
    cells = ("".join(f'<td class="number">{cell}</td>' for cell in row) for row in rows)
    table = plain_table(f"values-{identifier}", f"{title}: values", columns, cells)
    return f"<details><summary>Values</summary>{table}</details>"


def _svg(identifier: str, title: str, told: str, width: int, height: int, drawing: str) -> str:
    names = f"{identifier}-title", f"{identifier}-told"
    return (
        f'<svg class="chart" role="img" viewBox="0 0 {width} {height}" '
        f'aria-labelledby="{names[0]} {names[1]}"><title id="{names[0]}">{esc(title)}</title>'
        f'<desc id="{names[1]}">{esc(told)}</desc>{drawing}</svg>'
    )


def _figure(
    identifier: str,
    number_: int,
    title: str,
    meaning: str,
    svg: str,
    reading: list[str],
    legend: str,
    values: str,
) -> str:
    said = f"<strong>Figure {number_}. {esc(title)}.</strong> {esc(meaning)} {' '.join(reading)}"
    return (
        f'<figure class="plot" id="figure-{identifier}"><figcaption>{said}</figcaption>'
        f"{svg}{legend}{values}</figure>"
    )
