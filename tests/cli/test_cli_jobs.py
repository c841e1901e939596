"""`miad verify --jobs`: the same report from any number of processes, and none left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydicom import dcmread

import miad_cli.verify

linux_only = pytest.mark.skipif(
    sys.platform != "linux", reason="needs named pipes and /proc of Linux"
)


@pytest.fixture
def mixed(sealed, make):
    """A folder with every other thing in it, in several folders."""
    folder = sealed.protected
    for number in range(40):
        (folder / f"{number % 3}").mkdir(exist_ok=True)
        shutil.copyfile(folder / "one.dcm", folder / f"{number % 3}" / f"copy{number}.dcm")
    shutil.copyfile(sealed.study / "one.dcm", folder / "plain.dcm")
    (folder / "1" / "copy1.dcm").write_bytes((folder / "one.dcm").read_bytes()[:-100])
    dataset = dcmread(folder / "2" / "copy2.dcm")
    dataset.PixelData = bytes(len(dataset.PixelData))
    dataset.save_as(folder / "2" / "copy2.dcm")
    make.structured_report(folder / "report.dcm")
    (folder / "notes.txt").write_text("nothing to see")
    return sealed


@pytest.mark.parametrize("manners", [("--json",), ("-v",), ("--log-json",)], ids=str)
def test_any_number_of_processes_says_the_same(miad, mixed, manners):
    one = miad("verify", "protected", "--jobs", 1, *manners)

    for jobs in (2, 3):
        assert miad("verify", "protected", "--jobs", jobs, *manners) == one
    assert one.code == 6
    assert "pixels changed" in one.out


def test_pictures_of_changes_are_drawn_by_any_of_them(miad, mixed, left, work):
    assert miad("verify", "protected", "--report", "one", "--jobs", 1).code == 6
    assert miad("verify", "protected", "--report", "two", "--jobs", 2).code == 6

    assert left(work / "two") == left(work / "one") == ["2/copy2.dcm.png"]


def test_a_report_that_cannot_be_written_is_a_matter_of_usage(miad, mixed, work):
    (work / "file").write_text("in the way")

    said = [
        miad("verify", "protected", "--report", "file/changes", "--jobs", jobs) for jobs in (1, 2)
    ]

    assert said[0] == said[1]
    assert said[0].code == 2


def test_with_a_key_one_process_does_it_all(miad, sealed, monkeypatch):
    monkeypatch.setattr(miad_cli.verify, "in_processes", None)

    said = miad("verify", "protected", "--key", sealed.key, "--jobs", 2)

    assert (said.code, said.out) == (0, "3 authentic, 3 restorable\n")


def test_a_small_folder_is_not_worth_a_second_process(miad, sealed, monkeypatch):
    monkeypatch.setattr(miad_cli.verify, "in_processes", None)

    assert miad("verify", "protected").code == 0


@pytest.mark.parametrize("limit", ["MANY_FILES", "MANY_BYTES"])
def test_a_large_folder_is_shared_by_all_processors(miad, sealed, monkeypatch, limit):
    asked = []

    def in_processes(work, files, jobs, preload):
        asked.append(jobs)
        yield from map(work, files)

    monkeypatch.setattr(miad_cli.verify, "in_processes", in_processes)
    monkeypatch.setattr(miad_cli.verify, "usable_cores", lambda: 2)
    monkeypatch.setattr(miad_cli.verify, limit, 3)

    assert miad("verify", "protected").code == 0
    assert asked == [2]


def test_no_process_is_a_wrong_number(miad, sealed):
    assert miad("verify", "protected", "--jobs", 0).code == 2


def test_an_error_of_ours_does_not_stop_the_others(miad, sealed, monkeypatch):
    verify_file = miad_cli.verify.verify_file

    def broken(path, *others):
        if path.name == "one.dcm":
            raise KeyError("Musterfrau")
        return verify_file(path, *others)

    monkeypatch.setattr(miad_cli.verify, "verify_file", broken)

    said = miad("verify", "protected", "--json", "--jobs", 1)

    assert said.code == 1
    assert said.file("one.dcm")["verdict"] == "internal failure"
    assert said.file("two.dcm")["verdict"] == "authentic"
    assert "Musterfrau" not in said.out + said.err


# --- Processes that end before their time -------------------------------------------------


def processes_of(session: int) -> list[int]:
    """Every living process of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of, *_ = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(of) == session and state not in "ZX":
            found.append(int(stat.parent.name))
    return found


def readers_of(pipe: Path, session: int) -> list[int]:
    """The processes of a session that have a file open."""
    found = []
    for process in processes_of(session):
        try:
            opened = [os.readlink(one) for one in Path(f"/proc/{process}/fd").iterdir()]
        except OSError:
            continue
        if str(pipe) in opened:
            found.append(process)
    return found


def until(true, seconds=60):
    """The first true value of `true()`."""
    end = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)
    return value


WAITING = """\
import os
from miad_cli.seal import carriers

read = carriers.read_sidecar

def wait_and_read(picture):
    if picture.name == "two.dcm":
        with open(os.environ["WAIT_FOR"], "rb") as pipe:
            pipe.read()
    return read(picture)

carriers.read_sidecar = wait_and_read
"""
"""Put into every process of a run: it waits for a named pipe when it comes to one picture."""


def answer_to_interrupts():
    """A process that was started in the background by a script has them turned off."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def stuck(sealed, environment, work):
    """A run of two processes, one of which waits for a named pipe."""
    for number in range(40):
        shutil.copyfile(sealed.protected / "one.dcm", sealed.protected / f"copy{number}.dcm")
    (work / "site").mkdir()
    (work / "site" / "sitecustomize.py").write_text(WAITING)
    pipe = work / "pipe"
    os.mkfifo(pipe)
    path = os.pathsep.join((str(work / "site"), environment["PYTHONPATH"]))
    environment = {**environment, "PYTHONPATH": path, "WAIT_FOR": str(pipe)}
    line = [sys.executable, "-m", "miad_cli", "verify", "protected", "--jobs", "2", "--json"]
    run = subprocess.Popen(
        line,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=answer_to_interrupts,  # noqa: PLW1509
    )

    def opened():
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return None

    run.pipe, run.end = pipe, until(opened)
    try:
        yield run
    finally:
        os.close(run.end)
        for process in processes_of(run.pid):
            os.kill(process, signal.SIGKILL)
        run.communicate()


@linux_only
def test_ctrl_c_ends_all_of_them(stuck):
    os.killpg(stuck.pid, signal.SIGINT)

    out, err = stuck.communicate(timeout=60)

    assert stuck.returncode == 130
    assert "Traceback" not in out + err
    assert "interrupted" in err
    until(lambda: not processes_of(stuck.pid))


@linux_only
def test_none_outlives_a_run_that_was_killed(stuck):
    stuck.kill()
    stuck.wait()
    assert readers_of(stuck.pipe, stuck.pid)
    os.close(stuck.end)  # the worker goes on, and finds that nobody listens
    stuck.end = os.open(os.devnull, os.O_RDONLY)

    until(lambda: not processes_of(stuck.pid))


@linux_only
def test_a_file_that_kills_is_an_internal_failure(stuck):
    for _ in range(2):  # among others, and alone
        (reader,) = until(lambda: readers_of(stuck.pipe, stuck.pid))
        os.kill(reader, signal.SIGKILL)
        until(lambda reader=reader: reader not in processes_of(stuck.pid))
    out, err = stuck.communicate(timeout=60)

    found = {one["name"]: one["verdict"] for one in json.loads(out)["files"]}
    assert stuck.returncode == 1
    assert found.pop("two.dcm") == "internal failure"
    assert set(found.values()) == {"authentic"}
    assert len(found) == 42
    assert "Traceback" not in err
