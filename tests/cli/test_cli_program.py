"""The program as a process: help, version, start-up time, and being killed."""

from __future__ import annotations

import os
import random
import signal
import statistics
import subprocess
import sys
import time

import pytest

import miad_cli
from miad_cli.files import PART_PREFIX

COMMANDS = ["protect", "unlock", "verify", "demo", "models", "profiles"]


def test_version(miad):
    said = miad("--version")

    assert (said.code, said.out) == (0, f"miad {miad_cli.__version__}\n")


def test_miad_alone_is_misuse_and_helps(miad):
    said = miad()

    assert said.code == 2
    for command in COMMANDS:
        assert command in said.out + said.err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(miad, command):
    said = miad(command, "--help")

    assert said.code == 0
    assert f"Usage: miad {command}" in said.out


@pytest.mark.parametrize(
    "arguments",
    [
        ("--colour",),
        ("protect", "study", "--logo", "hospital.png", "--colour", "red"),
        ("verify", "study", "--colour"),
        ("unlock", "study", "--colour"),
        ("teleport", "study"),
        ("protect", "study", "--logo", "hospital.png", "--search", "magic"),
        ("protect", "study", "--logo", "hospital.png", "--seed", "-1"),
        ("protect", "study", "--logo", "hospital.png", "--on-exists", "maybe"),
        ("verify",),
    ],
)
def test_misuse_is_two(miad, study, logo, left, work, arguments):
    before = left(work)

    said = miad(*arguments)

    assert said.code == 2
    assert said.out == ""
    assert said.err
    assert left(work) == before


def test_profiles_are_listed_and_shown(miad):
    said = miad("profiles", "list", "--json")
    shown = miad("profiles", "show", "general")

    assert {"general", "brain-mri"} <= set(said.json)
    assert (said.code, shown.code) == (0, 0)
    assert shown.json["name"] == "general"
    assert len(shown.json["sha256"]) == 64


def test_the_environment_chooses_a_profile_and_the_flag_beats_it(miad, study, logo, monkeypatch):
    monkeypatch.setenv("MIAD_PROFILE", "chest-ct")

    assert "profile chest-ct" in miad("protect", "study", "--logo", logo, "--dry-run").out
    flagged = miad("protect", "study", "--logo", logo, "--dry-run", "--profile", "fundus")
    assert "profile fundus" in flagged.out


def test_a_process_protects_verifies_and_unlocks(miad_process, study, logo, work, digests):
    done = miad_process(
        "protect",
        "study",
        "--logo",
        logo,
        "--search",
        "random",
        "--effort",
        "fast",
        "--key-out",
        "key.txt",
    )
    assert done.code == 0, done.err
    assert miad_process("verify", "study-protected", "--key", "key.txt").code == 0
    assert miad_process("unlock", "study-protected", "--key", "key.txt").code == 0
    assert digests(work / "study-unlocked") == digests(study)


def test_an_internal_error_shows_no_traceback_and_asks_for_a_report(miad, study, logo, monkeypatch):
    def broken(path):
        raise RuntimeError("secret detail")

    monkeypatch.setattr("miad_cli.protection.preparation.load_logo", broken)

    said = miad("protect", "study", "--logo", logo)

    assert (said.code, said.out) == (1, "")
    assert "error: internal error (RuntimeError)" in said.err
    assert "secret detail" not in said.err
    assert "Traceback" not in said.err


def test_one_picture_that_meets_a_bug_does_not_stop_the_others(
    miad, study, logo, work, left, monkeypatch
):
    from miad_cli import decisions

    mark = decisions.mark_picture
    calls = []

    def broken_once(*arguments, **named):
        calls.append(arguments)
        if len(calls) == 1:
            raise ZeroDivisionError
        return mark(*arguments, **named)

    monkeypatch.setattr("miad_cli.decisions.mark_picture", broken_once)

    said = miad("protect", "study", "--logo", logo, "--search", "random")

    assert said.code == 1
    assert "failed deep/two.dcm: internal error (ZeroDivisionError)" in said.err
    assert left(work / "study-protected") == ["one.dcm", "one.dcm.miad"]


def test_an_interrupt_is_130_and_what_was_finished_is_whole(
    miad, study, logo, work, left, monkeypatch
):
    from miad_cli import decisions

    mark = decisions.mark_picture
    calls = []

    def interrupted(*arguments, **named):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return mark(*arguments, **named)

    monkeypatch.setattr("miad_cli.decisions.mark_picture", interrupted)

    said = miad("protect", "study", "--logo", logo, "--search", "random")

    assert said.code == 130
    assert "error: interrupted; every file that was finished is whole" in said.err
    assert left(work / "study-protected") == ["deep/two.dcm", "deep/two.dcm.miad"]
    assert miad("verify", "study-protected").code == 0


# --- Killed -------------------------------------------------------------------------------


@pytest.fixture
def killed(environment, work):
    """Start `miad`, and kill it a moment after the first files of `output` are there."""

    def call(arguments, output, moment):
        process = subprocess.Popen(
            [sys.executable, "-m", "miad_cli", *map(str, arguments)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        limit = time.monotonic() + 120
        while process.poll() is None and not any(output.glob("*.dcm")):
            assert time.monotonic() < limit, "nothing was written in two minutes"
            time.sleep(0.005)
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        process.wait()
        return process.returncode

    return call


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL exists on POSIX")
@pytest.mark.parametrize("round_", range(2))
def test_a_killed_protect_leaves_whole_files_and_can_be_resumed(
    killed, miad, miad_process, make, logo, work, round_
):
    for seed in range(20):
        make.dicom(work / "study" / f"{seed:02}.dcm", seed)
    command = ["protect", "study", "--logo", logo, "--search", "random", "--key-out", "key.txt"]
    command += ["--models", "resnet", "--effort", "fast"]  # of those that ship: a process has them
    output = work / "study-protected"

    code = killed(command, output, random.Random(round_).uniform(0, 0.3))

    there = sorted(output.glob("*.dcm"))
    assert code == -signal.SIGKILL
    assert 0 < len(there) < 20
    assert miad("verify", *there, "--key", "key.txt").code == 0
    said = miad_process(*command, "--resume")
    assert said.code == 0
    assert "skipped" in said.out
    assert miad("verify", output).code == 0
    assert miad("unlock", output, "--key", "key.txt", "-o", "back").code == 0
    for path in (work / "study").iterdir():
        assert (work / "back" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL exists on POSIX")
def test_a_killed_unlock_leaves_whole_files_and_can_go_on(killed, miad, make, logo, work, left):
    for seed in range(20):
        make.dicom(work / "study" / f"{seed:02}.dcm", seed)
    miad("protect", "study", "--logo", logo, "--search", "random", "--key-out", "key.txt")
    command = ["unlock", "study-protected", "--key", "key.txt", "-o", "back"]

    killed(command, work / "back", 0.02)

    for path in (work / "back").glob("*.dcm"):
        assert path.read_bytes() == (work / "study" / path.name).read_bytes()
    assert miad(*command, "--on-exists", "skip").code == 0
    whole = [name for name in left(work / "back") if not name.startswith(PART_PREFIX)]
    assert whole == left(work / "study")


# --- Start-up -----------------------------------------------------------------------------


BARE_PROGRAM = """
import typer
app = typer.Typer()
@app.command()
def one(number: int = 1) -> None: ...
@app.command()
def two(number: int = 1) -> None: ...
app()
"""


def test_help_starts_about_as_fast_as_that_of_a_bare_program(environment):
    def seconds(*arguments):
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, *arguments], stdout=subprocess.DEVNULL, env=environment, check=True
        )
        return time.perf_counter() - started

    def ratio():
        bare, ours = [], []
        for _ in range(5):  # in turn, so that a load on the machine meets both
            bare.append(seconds("-c", BARE_PROGRAM, "--help"))
            ours.append(seconds("-m", "miad_cli", "--help"))
        return statistics.median(ours) / statistics.median(bare)

    ratios = [ratio()]
    while ratios[-1] > 2 and len(ratios) < 3:  # a busy machine gets another chance
        ratios.append(ratio())
    assert min(ratios) <= 2


@pytest.mark.parametrize("arguments", [["--help"], ["protect", "--help"], ["--version"]])
def test_help_loads_none_of_the_heavy_libraries(environment, arguments):
    heavy = ["torch", "onnx", "onnxruntime", "numpy", "pydicom", "SimpleITK", "PIL", "pyrage"]
    code = (
        "import sys\nfrom miad_cli.app import run\n"
        f"assert run({arguments!r}) == 0\n"
        f"sys.stderr.write(' '.join(n for n in {heavy!r} if n in sys.modules))"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )

    assert done.stderr == ""
