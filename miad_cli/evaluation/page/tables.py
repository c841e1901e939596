"""Tables: sortable, with intervals, and the paper's figures beside ours."""

from __future__ import annotations

import math
from collections.abc import Iterable

from miad_cli.evaluation.findings import Beside, Cell, Column, Table
from miad_cli.evaluation.intervals import Estimate
from miad_cli.evaluation.page.markup import NONE, esc, figures, hint, interval, number, value_of

_SHORT = 12
"""Rows of a table that stays on one sheet of paper."""


def table_html(table: Table, number_: int) -> str:
    """A table of findings, numbered."""
    sizes = {one.n for row in table.rows for one in figures(row)}
    common = sizes.pop() if len(sizes) == 1 else None
    beside = [_has_paper(table, place) for place in range(len(table.columns))]
    head = "".join(
        _head(column, paper) for column, paper in zip(table.columns, beside, strict=True)
    )
    rows = (
        "".join(
            _cells(cell, column, paper=paper, first=place == 0, with_n=common is None)
            for place, (cell, column, paper) in enumerate(
                zip(row, table.columns, beside, strict=True)
            )
        )
        for row in table.rows
    )
    caption = f"Table {number_}. {esc(table.title)}."
    return grid(
        f"table-{table.identifier}", caption, esc(table.meaning), head, rows, _notes(table, common)
    )


def grid(
    identifier: str, caption: str, meaning: str, head: str, rows: Iterable[str], notes: str = ""
) -> str:
    """A table of cells that are HTML already, in a frame that scrolls where it is too wide."""
    lines = [f"<tr>{row}</tr>" for row in rows]
    short = " short" if len(lines) <= _SHORT else ""
    said = f"<strong>{caption}</strong> {meaning}".rstrip()
    return (
        f'<div class="scroll{short}" role="group" tabindex="0" '
        f'aria-labelledby="{identifier}-caption">'
        f'<table id="{identifier}" class="sortable"><caption id="{identifier}-caption">'
        f"<span>{said}</span></caption><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
        + (f'<p class="note">{notes}</p>' if notes else "")
    )


def plain_table(identifier: str, caption: str, columns: Iterable[str], rows: Iterable[str]) -> str:
    """A table of text, whose columns sort like all others."""
    head = "".join(_button(esc(title), "") for title in columns)
    return grid(identifier, esc(caption), "", head, rows)


def _head(column: Column, paper: bool) -> str:
    ours = _button(esc(column.title), hint(column.better))
    return ours + (_button("paper", "", label=f"paper: {esc(column.title)}") if paper else "")


def _button(title: str, below: str, label: str = "") -> str:
    said = f' aria-label="{label}"' if label else ""
    return (
        f'<th scope="col" aria-sort="none"><button type="button"{said}>{title}'
        f'<span class="arrow" aria-hidden="true"></span></button>{below}</th>'
    )


def _cells(cell: Cell, column: Column, *, paper: bool, first: bool, with_n: bool) -> str:
    """One cell, or two where the paper's figure has a column."""
    ours: Cell = cell.ours if isinstance(cell, Beside) else cell
    one = _cell(ours, column.digits, first=first, with_n=with_n)
    if not paper:
        return one
    theirs = cell.paper if isinstance(cell, Beside) else None
    return one + _cell(theirs, column.digits, first=False, with_n=False, kind="number paper")


def _cell(cell: Cell, digits: int, *, first: bool, with_n: bool, kind: str = "number") -> str:
    if isinstance(cell, str):
        return f'<th scope="row">{esc(cell)}</th>' if first else f"<td>{esc(cell)}</td>"
    value = value_of(cell)
    if value is None or isinstance(value, str):
        return f'<td class="{kind}">{NONE}</td>'
    key = "" if math.isnan(value) else f' data-value="{_sort_key(value)}"'
    extra = ""
    if isinstance(cell, Estimate):
        parts = [interval(cell, digits), f"n {cell.n}" if with_n else ""]
        extra = "".join(f' <span class="sure">{part}</span>' for part in parts if part)
    return f'<td class="{kind}"{key}>{number(value, digits)}{extra}</td>'


def _sort_key(value: float | int) -> str:
    """A number as JavaScript reads it."""
    plain = float(value)
    return repr(plain) if math.isfinite(plain) else "Infinity" if plain > 0 else "-Infinity"


def _has_paper(table: Table, place: int) -> bool:
    return any(isinstance(row[place], Beside) for row in table.rows)


def _notes(table: Table, common: int | None) -> str:
    estimates = [one for row in table.rows for one in figures(row)]
    notes = []
    if estimates:
        notes.append(
            "Small figures: 95 % interval" + ("." if common else " and number of pictures.")
        )
    if common is not None:
        notes.append(f"n = {common:,} throughout.")
    if any(one.method == "none" for one in estimates):
        notes.append("Where there is no interval one picture says nothing of others.")
    if table.note:
        notes.append(esc(table.note))
    return " ".join(notes)
