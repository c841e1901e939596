"""Real processes, the shipped models, and real files: what the long tests share."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Run:
    """A finished process."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Workshop:
    """A folder with a home for keys, a logo, and `miad` as a process."""

    folder: Path

    @property
    def logo(self) -> Path:
        return self.folder / "hospital.png"

    def miad(self, *arguments: object, timeout: float = 600) -> Run:
        path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
        mine = {key: value for key, value in os.environ.items() if not key.startswith("MIAD_")}
        done = subprocess.run(
            [sys.executable, "-m", "miad_cli", *map(str, arguments)],
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            cwd=self.folder,
            env={**mine, "MIAD_HOME": str(self.folder / "home"), "PYTHONPATH": path},
            timeout=timeout,
            check=False,
        )
        return Run(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def open_workshop(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Workshop]:
    def make(name: str) -> Workshop:
        from miad_cli.demo import draw_logo

        workshop = Workshop(tmp_path_factory.mktemp(name))
        draw_logo(workshop.logo)
        return workshop

    return make


@pytest.fixture(scope="session")
def tool() -> Callable[..., Run]:
    """Run somebody else's program. Where it is missing the test is skipped; in CI it fails."""

    def call(name: str, *arguments: object) -> Run:
        if shutil.which(name) is None:
            message = f"{name} is not installed (Debian: dcmtk, dicom3tools)"
            if os.environ.get("CI") == "true":
                pytest.fail(message)
            pytest.skip(message)
        done = subprocess.run(
            [name, *map(str, arguments)],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        return Run(done.returncode, done.stdout, done.stderr)

    return call
