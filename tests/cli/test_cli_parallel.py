"""`miad protect --jobs`: what one process makes, from any number of them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import PurePosixPath

import pytest
from pydicom import dcmread
from test_cli_jobs import answer_to_interrupts, linux_only, processes_of, until
from test_cli_others import write_report
from test_cli_series import AXIAL, reference

from miad_cli.imaging.dicomdir import build_dicomdir
from miad_cli.models.bank import Surrogate
from miad_cli.models.session import Device
from miad_cli.protection import division
from miad_cli.protection.preparation import Prepared
from miad_cli.protection.request import Request
from miad_cli.seal.container import open_payload, parse
from miad_cli.seal.identities import load_identities
from miad_cli.seal.payload import decode
from miad_cli.shipped import models_directory
from miad_cli.study import Header

VOLUME = ["v0.dcm", "v1.dcm", "v2.dcm"]


@pytest.fixture
def bank(tiny_models, monkeypatch):
    """Options that name the tiny models. Other processes know nothing of what was patched here."""
    monkeypatch.setattr("miad_cli.models.bank.models_directory", models_directory)
    return [f"--models={tiny_models / name}" for name in ("responsive", "stubborn")]


@pytest.fixture
def protect(miad, bank, logo):
    """Protect `study` into `out` quickly: without attention, which would take torch."""

    def call(jobs, *options):
        return miad("protect", "study", "--logo", logo, "-o", "out", "--search", "random",
                    "--mask", "none", "--jobs", jobs, *bank, *options)  # fmt: skip

    return call


@pytest.fixture
def several(study, make):
    """A study with a volume and pictures of their own that refer to one another, and the rest."""
    for number, name in enumerate(VOLUME):
        make.dicom(study / name, number + 10, SeriesInstanceUID="1.2.3", ImageType=["ORIGINAL"],
                   ImagePositionPatient=[0, 0, number], ImageOrientationPatient=AXIAL)  # fmt: skip
    names = ["one.dcm", "v2.dcm", "deep/two.dcm"]
    instances = [dcmread(study / name) for name in names]
    for instance, other, name in zip(instances, instances[1:] + instances[:1], names, strict=True):
        reference(instance, other)
        instance.save_as(study / name)
    make.raster(study / "photo.png", make.grey())
    write_report(study / "report.dcm", study / "one.dcm", study / "v1.dcm")
    broken = make.dicom(study / "broken.dcm", 30)
    broken.write_bytes(broken.read_bytes()[:-100])
    (study / "notes.txt").write_text("nothing to see")
    make.dicom(study / "disc" / "I1", 20, StudyID="1", StudyDate="20200101", StudyTime="120000")
    directory = build_dicomdir(study / "disc", [PurePosixPath("I1")], "1.2.3.4")
    (study / "disc" / "DICOMDIR").write_bytes(directory)
    return study


def told(said):
    """A report without what differs each time."""
    facts = json.loads(said.out)
    for one in facts["files"]:
        one.pop("seconds", None)
    return facts


def log_of(said):
    """The lines of --log-json, in their order, without what differs each time."""
    lines = [json.loads(line) for line in said.err.splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def secrets_of(folder, work):
    """What is sealed beside every file: the original, the recipe and all that undoes it."""
    identities = load_identities(work / "key.txt")
    found = {}
    for sidecar in folder.rglob("*.miad"):
        container = parse(sidecar.read_bytes())
        payload = decode(open_payload(container, identities))
        found[sidecar.relative_to(folder).as_posix()] = (
            payload.original_name,
            payload.original_sha256,
            payload.mode,
            payload.recipe,
            payload.parts,
            payload.recipients,
            container.manifest.job,
        )
    return found


CLOCK = ("InstanceCreationDate", "InstanceCreationTime", "ContributionDateTime")


def contents_of(folder):
    """Every file but for the time of day: DICOM element by element, others byte for byte."""
    found = {}
    for path in folder.rglob("*"):
        if path.suffix == ".miad" or path.is_dir():
            continue
        content = path.read_bytes()
        if content[128:132] == b"DICM":
            content = dcmread(path)
            content.walk(lambda dataset, element: element.keyword in CLOCK and element.clear())
        found[path.relative_to(folder).as_posix()] = content
    return found


# --- The same as from one process -----------------------------------------------------------


def test_any_number_of_processes_makes_the_same(protect, several, miad, digests, work):
    runs = []
    options = ("--key-out", "key.txt", "--copy-others", "--carrier", "sidecar")
    for jobs in (1, 2):
        said = protect(jobs, *options, "--json", "--log-json")
        shutil.move(work / "out", work / f"out{jobs}")
        runs.append((said, work / f"out{jobs}"))
    (one, first), (two, second) = runs

    assert told(one) == told(two)
    assert list(one.json["profiles"]) == list(two.json["profiles"])
    assert log_of(one) == log_of(two)
    assert one.code == two.code == 3
    assert [one.json["counts"][state] for state in ("protected", "copied", "failed")] == [7, 2, 1]
    assert contents_of(first) == contents_of(second)
    assert secrets_of(first, work) == secrets_of(second, work)
    referred = dcmread(second / "one.dcm").ReferencedImageSequence[0].ReferencedSOPInstanceUID
    assert referred == dcmread(second / "v2.dcm").SOPInstanceUID
    assert miad("unlock", second, "--key", "key.txt", "-o", "back").code == 0
    assert digests(work / "back").items() <= digests(several).items()


def test_resume_does_what_is_missing(protect, several, miad, work):
    protect(2)
    (work / "out" / "one.dcm").unlink()
    before = {path: path.stat().st_mtime_ns for path in (work / "out").rglob("*.dcm")}

    said = protect(2, "--resume", "--json")

    states = {one["name"]: one["state"] for one in said.json["files"]}
    assert states.pop("one.dcm") == "protected"
    assert [name for name, state in states.items() if state == "protected"] == []
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert miad("verify", "out").code == 0


# --- Keys -----------------------------------------------------------------------------------


def test_keys_are_made_and_asked_for_once(protect, study, miad, home, digests, work):
    command = f"{sys.executable} -c \"open('asked', 'a').write('x'); print('secret')\""
    options = ("--passphrase-command", command)
    made = miad("keys", "new", "owner", "owner.pem", "--passphrase", *options)
    assert made.code == 0, made.err
    (work / "asked").unlink()

    said = protect(2, "--sign-with", "owner.pem", *options, "--json")

    assert said.code == 0, said.err
    assert (work / "asked").read_text() == "x"
    assert len(list((home / "identities").iterdir())) == 1
    assert miad("verify", "out", "--owner", "owner.pub.pem").code == 0
    assert miad("unlock", "out", "--key", said.json["key"], "-o", "back").code == 0
    assert digests(work / "back") == digests(study)


def test_the_signing_key_is_not_shown(study, logo, tmp_path):
    request = Request((study,), logo, tmp_path / "out", recipients=())
    prepared = Prepared(request, (), None, None, None, {}, (None, ()))

    assert "SECRET" not in repr(division.Helper(prepared, b"SECRET"))


def test_nothing_to_protect_makes_no_key_and_no_process(protect, work, home, monkeypatch):
    monkeypatch.setattr(division, "in_processes", None)
    (work / "study").mkdir()
    for name in ("notes.txt", "more.txt"):
        (work / "study" / name).write_text("nothing to see")

    assert protect(2).code == 4
    assert not home.exists()


def test_a_dry_run_makes_no_key_and_no_process(protect, study, home, monkeypatch):
    monkeypatch.setattr(division, "in_processes", None)

    assert protect(2, "--dry-run").code == 0
    assert not home.exists()


# --- How the work is divided ----------------------------------------------------------------


@pytest.fixture
def divided(monkeypatch):
    """Runs that would have been shared: number of processes, units, threads of each."""
    asked = []

    def in_processes(work, files, jobs, preload, units, threads):
        asked.append((jobs, units, threads))
        assert work.prepared.device.threads == threads
        yield from map(work, files)

    monkeypatch.setattr(division, "in_processes", in_processes)
    monkeypatch.setattr("miad_cli.workers.usable_cores", lambda: 4)
    return asked


def test_a_volume_stays_together_and_each_process_has_one_thread(protect, several, divided):
    protect(2)
    protect(99, "--on-exists", "replace", "--no-coherent")

    (_, together, _), (_, apart, _) = divided
    assert sorted(together) == [1] * 8 + [3]
    assert apart == [1] * 11
    assert [(jobs, threads) for jobs, _, threads in divided] == [(2, 1), (11, 1)]


def test_a_model_uses_the_threads_of_its_device(tiny_models):
    for device, threads in ((Device(threads=3), 3), (Device(), 1)):
        session = Surrogate(tiny_models / "responsive", device).session
        assert session._engine._session.get_session_options().intra_op_num_threads == threads


def test_the_environment_says_how_many(miad, bank, study, logo, divided, monkeypatch):
    line = ["protect", "study", "--logo", logo, "--search", "random", "--mask", "none", *bank]
    assert miad(*line).code == 0
    monkeypatch.setenv("MIAD_JOBS", "2")

    assert miad(*line, "--on-exists", "replace").code == 0
    assert miad(*line, "--on-exists", "replace", "--jobs", 1).code == 0
    assert [jobs for jobs, _, _ in divided] == [2]


@pytest.mark.parametrize("jobs", [0, -1, "many"])
def test_no_process_is_a_wrong_number(protect, study, jobs):
    assert protect(jobs).code == 2


# --- What goes wrong ------------------------------------------------------------------------


def test_an_error_of_the_whole_run_is_that_of_one_process(miad, study, logo, tiny_models, work):
    shutil.copytree(tiny_models / "responsive", work / "changed")
    (work / "changed" / "model.onnx").write_bytes(b"something else")

    said = [
        miad("protect", "study", "--logo", logo, "-o", "out", "--models", "changed", "--jobs", jobs)
        for jobs in (1, 2)
    ]

    assert said[0] == said[1]
    assert said[0].code == 11
    assert not (work / "out").exists()


def test_an_instance_that_came_out_otherwise_takes_what_refers_to_it_away(
    protect, several, monkeypatch, work
):
    """A GPU may compute differently each time, and a reference must not lead nowhere."""
    read_header = division.read_header

    def changed(path):
        header = read_header(path)
        return Header("1.2.3") if path.name == "v2.dcm" else header

    monkeypatch.setattr(division, "read_header", changed)

    said = protect(2, "--json")

    assert said.code == 3
    assert said.file("one.dcm")["state"] == "failed"
    assert "came out differently" in said.file("one.dcm")["reason"]
    assert not (work / "out" / "one.dcm").exists()
    assert not (work / "out" / "one.dcm.miad").exists()
    assert said.file("v2.dcm")["state"] == "protected"


MISCHIEF = """\
import multiprocessing, os, pathlib, signal

replace = pathlib.Path.replace

def mischief(self, target):
    if target.name == "two.dcm" and multiprocessing.parent_process() is not None:
        if "WAIT_FOR" not in os.environ:
            os.kill(os.getpid(), signal.SIGKILL)
        with open(os.environ["WAIT_FOR"], "rb") as pipe:
            pipe.read()
    return replace(self, target)

pathlib.Path.replace = mischief
"""
"""Put into every process of a run: one that is about to finish two.dcm dies, or waits. Its sidecar
has its name by then, the picture has not."""


@pytest.fixture
def troubled(bank, study, logo, environment, work, make):
    """Start a run of two processes that meets trouble."""
    make.dicom(study / "three.dcm", 3)
    (work / "site").mkdir()
    (work / "site" / "sitecustomize.py").write_text(MISCHIEF)
    path = os.pathsep.join((str(work / "site"), environment["PYTHONPATH"]))
    started = []

    def start(**variables):
        line = [sys.executable, "-m", "miad_cli", "protect", "study", "--logo", logo, "-o", "out",
                "--search", "random", "--mask", "none", "--jobs", "2", "--json", *bank]  # fmt: skip
        run = subprocess.Popen(
            line,
            env={**environment, "PYTHONPATH": path, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=answer_to_interrupts,  # noqa: PLW1509
        )
        started.append(run)
        return run

    yield start
    for run in started:
        for process in processes_of(run.pid):
            os.kill(process, signal.SIGKILL)
        run.communicate()


@linux_only
def test_a_picture_that_kills_costs_itself_and_leaves_nothing(troubled, left, miad, work):
    run = troubled()
    out, err = run.communicate(timeout=120)

    files = {one["name"]: one for one in json.loads(out)["files"]}
    assert run.returncode == 1
    assert files["deep/two.dcm"]["state"] == "failed"
    assert "died" in files["deep/two.dcm"]["reason"]
    assert {files[name]["state"] for name in ("one.dcm", "three.dcm")} == {"protected"}
    assert "Traceback" not in out + err
    assert left(work / "out") == ["one.dcm", "one.dcm.miad", "three.dcm", "three.dcm.miad"]
    assert miad("verify", "out").code == 0


@linux_only
def test_ctrl_c_ends_all_of_them_and_leaves_nothing_half(troubled, left, work):
    pipe = work / "pipe"
    os.mkfifo(pipe)
    run = troubled(WAIT_FOR=str(pipe))

    def opened():
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return None

    end = until(opened)
    try:
        os.killpg(run.pid, signal.SIGINT)
        out, err = run.communicate(timeout=60)
    finally:
        os.close(end)

    assert run.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in out + err
    until(lambda: not processes_of(run.pid))
    assert not [name for name in left(work / "out") if "part" in name]
    assert not (work / "out" / "deep" / "two.dcm").exists()
