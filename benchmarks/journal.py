"""What a benchmark has measured so far, a line for each picture: a run that stops goes on there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def recorded(path: Path) -> dict[str, dict[str, Any]]:
    """Result by key. A line that a killed run left unfinished does not count."""
    if not path.exists():
        return {}
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
            found[entry["key"]] = entry["result"]
        except (ValueError, KeyError, TypeError):
            continue
    return found


def record(path: Path, key: str, result: dict[str, Any]) -> None:
    """Add one result."""
    unfinished = path.exists() and not path.read_bytes().endswith(b"\n")
    with path.open("a", encoding="utf-8") as file:
        file.write("\n" * unfinished + json.dumps({"key": key, "result": result}) + "\n")
