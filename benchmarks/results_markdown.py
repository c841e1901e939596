"""Tables of figures as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.results_rows import Row
from miad_cli.evaluation.findings import Beside, Cell, Column, Figure, Table
from miad_cli.evaluation.intervals import Estimate

NOT_MEASURED = "–"


def rows_table(title: str, beside: str, rows: Iterator[Row], absent: list[Row]) -> Iterator[str]:
    """A table of the rows that were measured; the others are added to `absent`."""
    made = []
    for row in rows:
        if row.ours is None:
            absent.append(row)
            continue
        theirs = row.beside
        shown = f"{theirs:.{row.digits}f}" if isinstance(theirs, float | int) else theirs or ""
        made.append(f"| {row.what} | {figure(row.ours, row.digits)} | {_n(row.ours)} | {shown} |")
    if made:
        yield from (f"### {title}", "", f"| figure | ours (95 %) | n | {beside} |",
                    "| --- | --- | --- | --- |", *made, "")  # fmt: skip


def whole_table(table: Table, keys: Sequence[str]) -> Iterator[str]:
    """A table of the evaluation, or some columns of it; the paper's figures in brackets."""
    places = [place for place, one in enumerate(table.columns) if not keys or one.key in keys]
    columns = [table.columns[place] for place in places]
    yield f"### {table.title}"
    yield ""
    yield table.meaning
    yield ""
    yield f"| {' | '.join(one.title for one in columns)} |"
    yield f"|{' --- |' * len(columns)}"
    for row in table.rows:
        shown = (_shown(row[place], table.columns[place]) for place in places)
        yield f"| {' | '.join(shown)} |"
    yield ""
    if table.note:
        yield table.note
        yield ""


def _shown(cell: Cell, column: Column) -> str:
    if isinstance(cell, str):
        return cell
    if isinstance(cell, Beside):
        ours = _shown(cell.ours, column)
        return ours if cell.paper is None else f"{ours}; paper {cell.paper:.{column.digits}f}"
    return NOT_MEASURED if cell is None else figure(cell, column.digits)


def figure(value: Figure, digits: int) -> str:
    """A number with its interval, where it has one."""
    if not isinstance(value, Estimate):
        return f"{value:.{digits}f}"
    interval = (
        "" if value.method == "none" else f" ({value.low:.{digits}f}–{value.high:.{digits}f})"
    )
    return f"{value.value:.{digits}f}{interval}"


def _n(value: Figure) -> str:
    return str(value.n) if isinstance(value, Estimate) else ""
