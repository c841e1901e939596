"""Unfinished files of a killed run go; those of a living one stay."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from miad_cli.files import remove_abandoned_parts, write_files


def part_of_a_killed_process(folder: Path) -> Path:
    """Let a process die in the middle of `write_files`."""
    script = (
        "import os, pathlib\n"
        "from miad_cli.files import write_files\n"
        f"write_files(pathlib.Path({str(folder)!r}), {{'a': b'half'}}, lambda parts: os._exit(9))\n"
    )
    died = subprocess.run([sys.executable, "-c", script], check=False)
    assert died.returncode == 9
    (part,) = folder.iterdir()
    return part


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    part = part_of_a_killed_process(tmp_path / "out")
    remove_abandoned_parts(tmp_path / "out")
    assert not part.exists()


def test_what_a_living_run_is_writing_stays(tmp_path: Path) -> None:
    seen: list[bool] = []

    def check(parts: dict[str, Path]) -> None:
        remove_abandoned_parts(tmp_path)
        seen.append(parts["a"].exists())

    write_files(tmp_path, {"a": b"whole"}, check)
    assert seen == [True]
    assert (tmp_path / "a").read_bytes() == b"whole"


def test_parts_of_another_machine_stay(tmp_path: Path) -> None:
    part = part_of_a_killed_process(tmp_path / "out")
    fields = part.name.split("-")
    fields[2] = "0" * 8
    foreign = part.rename(part.with_name("-".join(fields)))
    remove_abandoned_parts(tmp_path / "out")
    assert foreign.exists()
    assert os.listdir(tmp_path / "out") == [foreign.name]
