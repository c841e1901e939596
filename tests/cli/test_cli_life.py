"""What happens to runs in real life."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time

import pytest

from miad_cli.files import PART_PREFIX
from miad_cli.protection import reading


def test_two_runs_at_once_on_one_output(miad, study, logo, work, environment):
    line = [sys.executable, "-m", "miad_cli", "protect", "study", "--logo", "hospital.png"]
    line += ["-o", "out", "--search", "random", "-q", "--on-exists", "replace"]

    runs = [subprocess.Popen(line, env=environment) for _ in range(2)]
    codes = [one.wait(timeout=240) for one in runs]

    assert codes == [0, 0]
    assert miad("verify", "out").code == 0
    assert not [one for one in (work / "out").rglob("*") if PART_PREFIX in one.name]


def test_a_file_that_changes_while_it_is_read(miad, study, logo, work, monkeypatch):
    source = study / "one.dcm"
    before = source.read_bytes()
    read = reading.read_picture

    def read_and_change(content, name, largest):
        source.write_bytes(b"something else by now")
        return read(content, name, largest)

    line = ("protect", source, "--logo", logo, "-o", "out", "--search", "random")
    with monkeypatch.context() as patch:
        patch.setattr(reading, "read_picture", read_and_change)
        assert miad(*line, "--key-out", "key.txt").code == 0

    assert miad("unlock", "out", "--key", "key.txt", "-o", "back").code == 0
    assert (work / "back" / "one.dcm").read_bytes() == before


@pytest.mark.slow
def test_a_folder_of_a_hundred_thousand_files(miad, study, logo, work):
    folder = work / "many"
    for number in range(100):
        (folder / f"{number:03}").mkdir(parents=True)
        for other in range(1000):
            (folder / f"{number:03}" / f"{other}.txt").touch()
    shutil.copyfile(study / "one.dcm", folder / "050" / "picture.dcm")
    started = time.perf_counter()

    said = miad("protect", "many", "--logo", logo, "--search", "random", "-q")

    assert said.code == 0
    assert [one.name for one in (work / "many-protected").rglob("*.dcm")] == ["picture.dcm"]
    assert time.perf_counter() - started < 120
