"""CSV tables as people make them: commas, semicolons or tabs, with or without a byte order mark."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

from miad_cli.errors import NoUsableInput, UsageError

LARGEST = 256 << 20
"""Bytes of a table; more is none."""

_SHOWN = 5
"""Faults that a message spells out."""

_DELIMITERS = ",;\t"


@dataclass(frozen=True)
class Row:
    """A row of a table; `number` as a spreadsheet counts, with the header as row 1."""

    number: int
    cells: dict[str, str]

    def __getitem__(self, column: str) -> str:
        """The cell without blanks around it; empty where the table has no such column."""
        return self.cells.get(column, "")


@dataclass(frozen=True)
class Table:
    """Rows below a header. Names of columns are in lower case."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


@dataclass
class Faults:
    """What is wrong with the rows of a table, to say all of it at once."""

    path: Path
    found: list[str] = field(default_factory=list)

    def add(self, row: Row, column: str, what: str) -> None:
        self.found.append(f"row {row.number}, column {column}: {what}")

    def refuse(self, hint: str = "") -> None:
        """Raises UsageError where there are any."""
        if not self.found:
            return
        shown = "; ".join(self.found[:_SHOWN])
        more = f"; and {len(self.found) - _SHOWN} more" if len(self.found) > _SHOWN else ""
        raise UsageError(f"{self.path}: {shown}{more}", hint)


def read_table(path: Path, needed: Sequence[str]) -> Table:
    """Read a table whose first row names its columns, in any order and any case.

    Raises:
        NoUsableInput: the file is not there, cannot be read or has no rows.
        UsageError: it is no table, or a column of `needed` is missing.
    """
    text = _text_of(path)
    delimiter = _delimiter_of(text.partition("\n")[0])
    try:
        records = list(csv.reader(StringIO(text, ""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise UsageError(f"{path}: not a CSV table ({error})", hint=_AS_CSV) from None
    if not records or not any(records[0]):
        raise NoUsableInput(f"{path}: the table is empty", hint=f"{_header_of(needed)}.")
    columns = tuple(name.strip().lower() for name in records[0])
    _check_header(path, columns, needed)
    faults, rows = Faults(path), []
    for number, record in enumerate(records[1:], 2):
        if not any(cell.strip() for cell in record):
            continue
        if any(cell.strip() for cell in record[len(columns) :]):
            faults.found.append(
                f"row {number}: {len(record)} cells under {len(columns)} columns "
                "(a cell with the separator in it stands in quotation marks)"
            )
        cells = dict(zip(columns, (cell.strip() for cell in record), strict=False))
        rows.append(Row(number, cells))
    faults.refuse()
    if not rows:
        raise NoUsableInput(f"{path}: the table has a header and no rows")
    return Table(path, columns, tuple(rows))


_AS_CSV = "Save it as CSV in UTF-8, with commas or semicolons."


def _text_of(path: Path) -> str:
    try:
        if not path.is_file():
            raise NoUsableInput(f"{path}: no such file")
        if path.stat().st_size > LARGEST:
            raise UsageError(f"{path}: a table of more than {LARGEST >> 20} MiB", hint=_AS_CSV)
        content = path.read_bytes()
    except OSError as error:
        raise NoUsableInput(f"{path}: cannot be read ({error.strerror})") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}: row {row} is not UTF-8", hint=_AS_CSV) from None
    if "\0" in text:
        raise UsageError(f"{path}: not a CSV table (it has zero bytes)", hint=_AS_CSV)
    return text


def _delimiter_of(header: str) -> str:
    """The one that stands in the header most; a comma where none does."""
    return max(_DELIMITERS, key=header.count)


def _check_header(path: Path, columns: Sequence[str], needed: Sequence[str]) -> None:
    missing = [name for name in needed if name not in columns]
    if missing:
        shown = ", ".join(name or "(no name)" for name in columns[:12])
        raise UsageError(
            f"{path}: there is no column {' or '.join(missing)}; its columns are {shown}",
            hint=f"{_header_of(needed)}.",
        )
    doubled = [name for name, count in Counter(columns).items() if name and count > 1]
    if doubled:
        raise UsageError(f"{path}: several columns are named {doubled[0]}", hint="Rename one.")


def _header_of(needed: Sequence[str]) -> str:
    return f"The first row names the columns: {', '.join(needed)}"
