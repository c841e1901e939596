"""A few of the kills that `python -m tests.pacs.kill_sender` does by the score."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from servers import need

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_sender_loses_nothing_and_sends_nothing_else() -> None:
    for program in ("Orthanc", "libOrthancDicomWeb.so", "cc"):
        need(program)
    line = [sys.executable, "-m", "tests.pacs.kill_sender", "--n", "6"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "killed" in done.stdout
