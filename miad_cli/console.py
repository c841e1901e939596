"""What people see: messages and progress on stderr, results on stdout, JSON for scripts."""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from rich.console import Console
from rich.markup import escape

from miad_cli.errors import MiadError


@dataclass(frozen=True)
class Manners:
    """How a command speaks: `quiet` keeps to errors, `as_json` puts one object on stdout,
    `log_json` a line for each instance on stderr."""

    as_json: bool = False
    log_json: bool = False
    quiet: bool = False
    verbose: bool = False


def out() -> Console:
    """Results. Made when asked for, so that redirection and NO_COLOR are seen."""
    return Console(highlight=False)


def err() -> Console:
    """Everything that is not a result."""
    return Console(stderr=True, highlight=False)


def clean(text: object) -> str:
    """Text from a file or its name, safe to show: one line, no control characters, no markup."""
    shown = "".join(c if unicodedata.category(c)[0] != "C" else "�" for c in _unicode(str(text)))
    return escape(shown)


def _unicode(text: str) -> str:
    """`text` without the lone surrogates that stand for bytes of a name that is not Unicode."""
    return text.encode("utf-8", "replace").decode("utf-8")


def say(manners: Manners, text: str, style: str = "") -> None:
    """A line for people, on stdout; silent with --json and --quiet. `text` may hold markup."""
    if not (manners.as_json or manners.quiet):
        out().print(text, style=style or None, soft_wrap=True)


def warn(text: str, manners: Manners) -> None:
    """A warning, on stderr; silent with --quiet."""
    if manners.quiet:
        return
    if manners.log_json:
        log_line({"level": "warning", "message": text})
    else:
        err().print(f"[yellow]warning:[/] {clean(text)}", soft_wrap=True)


def report_error(error: MiadError, as_log_line: bool = False) -> None:
    """What happened and what to do, on stderr."""
    if as_log_line:
        facts = {"level": "error", "message": error.message, "hint": error.hint}
        log_line({**facts, "exit_code": error.exit_code})
        return
    message = "\n".join(clean(line) for line in error.message.split("\n"))
    err().print(f"[red]error:[/] {message}", soft_wrap=True)
    if error.hint:
        err().print(f"  {clean(error.hint)}", soft_wrap=True)


def file_failed(name: object, reason: str, hint: str, manners: Manners) -> None:
    """One file that failed, and why, on stderr; the log lines have it already."""
    if not manners.log_json:
        said = f"[red]failed[/] {clean(name)}: {clean(reason.rstrip('.'))}."
        err().print(f"{said} {clean(hint)}".rstrip(), soft_wrap=True)


def print_json(content: Any) -> None:
    """One JSON object on stdout."""
    text = json.dumps(content, indent=2, default=_plain, ensure_ascii=False)
    sys.stdout.write(_unicode(text) + "\n")


def log_line(content: dict[str, Any]) -> None:
    """One NDJSON line on stderr."""
    sys.stderr.write(_unicode(json.dumps(content, default=_plain, ensure_ascii=False)) + "\n")


def _plain(value: object) -> Any:
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


@contextmanager
def progress_bar(manners: Manners, title: str) -> Iterator[Any]:
    """A function `advance(total)` that moves a bar with time left; on a terminal only."""
    hidden = manners.quiet or manners.as_json or manners.log_json
    if hidden or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield lambda total: None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err(), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda total: bar.update(task, total=total, advance=1)
