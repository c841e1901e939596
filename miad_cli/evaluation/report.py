"""The report of an evaluation: a page for people, JSON and CSV for programs.

`out.html` has `out.json` (`docs/report.schema.json`) and the folder `out-csv/` beside it. Each
file is written whole or not at all, the page last: where there is a page, the rest is there.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from miad_cli.errors import OutputExists, UsageError
from miad_cli.evaluation.findings import (
    Bars,
    Beside,
    Cell,
    Column,
    Curves,
    Figure,
    Findings,
    Headline,
    Meta,
    Sample,
    Table,
    is_identifier,
)
from miad_cli.evaluation.intervals import Estimate
from miad_cli.evaluation.page.document import GENERATOR, render
from miad_cli.evaluation.page.markup import clean
from miad_cli.files import write_files

SCHEMA = 1
"""Version of report.json's layout."""

_FORMULA = ("=", "+", "-", "@")


def check_place(page: Path, inputs: Sequence[Path] = ()) -> None:
    """Refuse a report that would overwrite something that is none, before hours are spent on it.

    Raises:
        UsageError: it is not named .html, is a folder, or lies in an input.
        OutputExists: what is there was not written by an evaluation.
    """
    if page.suffix.lower() != ".html":
        raise UsageError(f"{page}: the report is a page", hint="Name a file that ends in .html.")
    target = page.resolve()
    if any(given.resolve() in (target, *target.parents) for given in inputs):
        raise UsageError(f"{page}: the report would lie in the input", hint="Name it elsewhere.")
    if page.is_dir():
        raise UsageError(f"{page}: is a folder", hint="Name a file in it.")
    if page.exists() and not _is_report(page):
        raise OutputExists(f"{page}: is there and is no report", hint="Name a new file.")
    if not page.exists() and json_path(page).exists():
        raise OutputExists(
            f"{json_path(page)}: is there, and no report beside it", hint="Name a new file."
        )


def write_report(findings: Findings, page: Path) -> tuple[Path, ...]:
    """Write the tables, the JSON and the page; the paths written, the page first.

    CSV files of tables that an earlier report at this place had are removed where this one has
    none of that name.

    Raises:
        UsageError: the place cannot be written to.
    """
    tables = dict(csv_files(findings))
    folder, data = csv_folder(page), json_path(page)
    try:
        write_files(folder, tables, lambda parts: None)
        for name in _earlier_tables(data) - set(tables):
            (folder / name).unlink(missing_ok=True)
        write_files(page.parent, {data.name: json_bytes(findings)}, lambda parts: None)
        write_files(page.parent, {page.name: page_bytes(findings)}, lambda parts: None)
    except OSError as error:
        raise UsageError(f"{page}: the report cannot be written ({error.strerror})") from None
    return (page, data, *(folder / name for name in tables))


def json_path(page: Path) -> Path:
    """`out.html` gives `out.json`."""
    return page.with_suffix(".json")


def csv_folder(page: Path) -> Path:
    """`out.html` gives `out-csv/`."""
    return page.with_name(f"{page.stem}-csv")


def page_bytes(findings: Findings) -> bytes:
    """The page."""
    return render(findings).encode("utf-8")


def json_bytes(findings: Findings) -> bytes:
    """The facts as JSON, in UTF-8."""
    text = json.dumps(facts(findings), indent=1, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "replace")


# --- JSON -------------------------------------------------------------------------------------


def facts(findings: Findings) -> dict[str, Any]:
    """Everything but the pixels, as plain values."""
    summary = findings.summary
    return {
        "schema": SCHEMA,
        "meta": _meta_facts(findings.meta),
        "summary": {
            "sentences": list(summary.sentences),
            "headlines": [_headline_facts(one) for one in summary.headlines],
            "limits": list(summary.limits),
        },
        "values": {name: _figure_facts(one) for name, one in sorted(findings.values.items())},
        "tables": [_table_facts(one) for one in findings.tables],
        "bars": [_bars_facts(one) for one in findings.bars],
        "curves": [_curves_facts(one) for one in findings.curves],
        "samples": [_sample_facts(one) for one in findings.samples],
    }


def _meta_facts(meta: Meta) -> dict[str, Any]:
    data = meta.data
    return {
        "tool": "miad",
        "version": meta.version,
        "created": meta.created.isoformat(timespec="seconds"),
        "seconds": round(meta.seconds, 3),
        "seed": meta.seed,
        "command": meta.command,
        "data": {
            "name": data.name,
            "pictures": data.pictures,
            "used": data.used,
            "classes": [{"label": label, "pictures": count} for label, count in data.classes],
            "labels_from": data.labels_from,
        },
        "provider": meta.provider,
        "device": meta.device,
        "profile": {"name": meta.profile, "sha256": meta.profile_digest},
        "models": [
            {
                "name": one.name,
                "family": one.family,
                "role": one.role,
                "part": one.part,
                "licence": one.licence,
                "sha256": one.sha256,
            }
            for one in meta.models
        ],
        "libraries": dict(meta.libraries),
        "settings": dict(meta.settings),
    }


def _headline_facts(one: Headline) -> dict[str, Any]:
    return {
        "label": one.label,
        "value": one.value if isinstance(one.value, str) else _figure_facts(one.value),
        "meaning": one.meaning,
        "paper": one.paper,
        "better": one.better,
    }


def _table_facts(table: Table) -> dict[str, Any]:
    return {
        "id": table.identifier,
        "protocol": table.protocol,
        "title": table.title,
        "meaning": table.meaning,
        "note": table.note,
        "columns": [
            {"key": one.key, "title": one.title, "better": one.better} for one in table.columns
        ],
        "rows": [[_cell_facts(cell) for cell in row] for row in table.rows],
    }


def _bars_facts(chart: Bars) -> dict[str, Any]:
    return {
        "id": chart.identifier,
        "protocol": chart.protocol,
        "title": chart.title,
        "meaning": chart.meaning,
        "unit": chart.unit,
        "better": chart.better,
        "groups": [
            {
                "name": name,
                "bars": [
                    {"name": bar.name, "value": _cell_facts(bar.value), "paper": bar.paper}
                    for bar in bars
                ],
            }
            for name, bars in chart.groups
        ],
    }


def _curves_facts(plot: Curves) -> dict[str, Any]:
    return {
        "id": plot.identifier,
        "protocol": plot.protocol,
        "title": plot.title,
        "meaning": plot.meaning,
        "curves": [
            {
                "name": one.name,
                "auc": _figure_facts(one.auc),
                "auc_paper": one.auc_paper,
                "false_positive_rate": [round(float(x), 6) for x in one.false_positive_rate],
                "true_positive_rate": [round(float(y), 6) for y in one.true_positive_rate],
            }
            for one in plot.curves
        ],
    }


def _sample_facts(sample: Sample) -> dict[str, Any]:
    rows, columns = sample.original.shape[:2]
    return {
        "caption": sample.caption,
        "rows": rows,
        "columns": columns,
        "boxes": [[int(one) for one in box] for box in sample.boxes],
        "logo": [int(one) for one in sample.logo] if sample.logo else None,
        "removed": [{"name": one.name, "note": one.note} for one in sample.removed],
        "facts": [{"name": name, "text": text} for name, text in sample.facts],
    }


def _cell_facts(cell: Cell) -> Any:
    if isinstance(cell, Beside):
        return {"ours": _cell_facts(cell.ours), "paper": cell.paper}
    return cell if cell is None or isinstance(cell, str) else _figure_facts(cell)


def _figure_facts(figure: Figure) -> Any:
    """A number, or an object with its interval. What JSON has no number for is null."""
    if not isinstance(figure, Estimate):
        return _finite(figure)
    return {
        "value": _finite(figure.value),
        "low": _finite(figure.low),
        "high": _finite(figure.high),
        "n": int(figure.n),
        "interval": figure.method,
    }


def _finite(value: float | int) -> float | int | None:
    if isinstance(value, int):
        return value
    return float(value) if math.isfinite(value) else None


# --- CSV --------------------------------------------------------------------------------------


def csv_files(findings: Findings) -> Iterator[tuple[str, bytes]]:
    """Name and content of `values.csv` and of one file for each table (RFC 4180, UTF-8)."""
    named = ((name, *_spread(one)) for name, one in sorted(findings.values.items()))
    yield "values.csv", _csv([("name", "value", "low", "high", "n"), *named])
    for table in findings.tables:
        yield f"{table.identifier}.csv", _csv(_csv_rows(table))


def _csv_rows(table: Table) -> Iterator[tuple[object, ...]]:
    """A header and the rows; an estimate takes four columns, and the paper's figure one."""
    cells = [[row[place] for row in table.rows] for place in range(len(table.columns))]
    kinds = [_kind(column) for column in cells]
    titles = (_csv_titles(one, *kind) for one, kind in zip(table.columns, kinds, strict=True))
    yield tuple(title for some in titles for title in some)
    for row in table.rows:
        spread = (_csv_cells(cell, *kind) for cell, kind in zip(row, kinds, strict=True))
        yield tuple(one for some in spread for one in some)


def _kind(cells: list[Cell]) -> tuple[bool, bool]:
    """Whether a column holds an estimate, and whether it holds a figure of the paper's."""
    paper = any(isinstance(cell, Beside) for cell in cells)
    ours = [cell.ours if isinstance(cell, Beside) else cell for cell in cells]
    return any(isinstance(cell, Estimate) for cell in ours), paper


def _csv_titles(column: Column, estimate: bool, paper: bool) -> list[str]:
    more = ["low", "high", "n"] if estimate else []
    return [column.key, *(f"{column.key}_{end}" for end in (*more, *(["paper"] if paper else [])))]


def _csv_cells(cell: Cell, estimate: bool, paper: bool) -> list[object]:
    ours: Cell = cell.ours if isinstance(cell, Beside) else cell
    theirs = [cell.paper if isinstance(cell, Beside) else None] if paper else []
    if not estimate:
        return [ours, *theirs]
    if ours is None or isinstance(ours, (str, Beside)):
        return [ours, None, None, None, *theirs]
    return [*_spread(ours), *theirs]


def _spread(figure: Figure) -> tuple[object, object, object, object]:
    """Value, ends of the interval and sample size; empty where there is none."""
    if not isinstance(figure, Estimate):
        return figure, None, None, None
    if figure.method == "none":
        return figure.value, None, None, figure.n
    return figure.value, figure.low, figure.high, figure.n


def _csv(rows: Sequence[tuple[object, ...]] | Iterator[tuple[object, ...]]) -> bytes:
    stream = StringIO()
    csv.writer(stream).writerows([_csv_safe(one) for one in row] for row in rows)
    return stream.getvalue().encode("utf-8")


def _csv_safe(cell: object) -> object:
    """Text that a spreadsheet does not take for a formula; None is an empty cell."""
    if not isinstance(cell, str):
        return cell
    text = clean(cell)
    return f"'{text}" if text.startswith(_FORMULA) else text


# --- What was there ---------------------------------------------------------------------------


def _is_report(page: Path) -> bool:
    """Whether a page says that an evaluation made it."""
    try:
        with page.open("rb") as opened:
            start = opened.read(4096)
    except OSError:
        return False
    return f'<meta name="generator" content="{GENERATOR} '.encode() in start


def _earlier_tables(data: Path) -> set[str]:
    """Names of the CSV files that the report at this place had until now."""
    try:
        tables = json.loads(data.read_bytes())["tables"]
        names = {table["id"] for table in tables}
    except (OSError, ValueError, LookupError, TypeError):
        return set()
    return {f"{name}.csv" for name in names if is_identifier(name)}
