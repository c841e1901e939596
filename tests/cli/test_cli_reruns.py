"""Running again: skip, replace, resume, and a dry run that leaves nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from miad_cli.watermark.effort import EFFORTS
from miad_cli.watermark.guided import Plan


@pytest.fixture
def once(miad, study, logo, work):
    """Protect `study` into `out`; call again with more options."""

    def call(*options):
        return miad(
            "protect", "study", "--logo", logo, "-o", "out", "--search", "random", "--key-out",
            "key.txt", "--json", *options,
        )  # fmt: skip

    assert call().code == 0
    return call


def _states(said):
    return {one["name"]: one["state"] for one in said.json["files"]}


def test_again_without_a_word_is_refused(once, digests, work):
    before = digests(work / "out")

    said = once()

    assert said.code == 8
    assert digests(work / "out") == before


def test_skip_keeps_what_is_there_whatever_it_is(once, work):
    (work / "out" / "one.dcm").write_bytes(b"mine")
    (work / "out" / "deep" / "two.dcm").unlink()

    said = once("--on-exists", "skip")

    assert said.code == 0
    assert _states(said) == {"one.dcm": "skipped", "deep/two.dcm": "protected"}
    assert (work / "out" / "one.dcm").read_bytes() == b"mine"


def test_replace_writes_everything_again(once, miad, work):
    (work / "out" / "one.dcm").write_bytes(b"mine")

    said = once("--on-exists", "replace")

    assert said.code == 0
    assert _states(said) == {"one.dcm": "protected", "deep/two.dcm": "protected"}
    assert miad("verify", "out").code == 0


def test_resume_keeps_what_is_authentic(once, work):
    before = (work / "out" / "one.dcm").stat().st_mtime_ns

    said = once("--resume")

    assert said.code == 0
    assert _states(said) == {"one.dcm": "skipped", "deep/two.dcm": "skipped"}
    assert (work / "out" / "one.dcm").stat().st_mtime_ns == before


def test_resume_does_what_is_missing_or_damaged(once, make, study, miad, work):
    make.dicom(study / "three.dcm", 3)
    (work / "out" / "one.dcm").unlink()
    damaged = bytearray((work / "out" / "deep" / "two.dcm").read_bytes())
    damaged[-10] ^= 0xFF  # a pixel
    (work / "out" / "deep" / "two.dcm").write_bytes(damaged)

    said = once("--resume")

    assert said.code == 0
    assert set(_states(said).values()) == {"protected"}
    assert miad("verify", "out").code == 0


@pytest.mark.parametrize(
    ("name", "change", "state"),
    [
        ("standard", {"around": 3}, "protected"),
        ("standard", {"plan": Plan(seeds=7)}, "protected"),
        ("fast", {"around": 3}, "skipped"),
    ],
    ids=["delta", "search", "not-the-one-used"],
)
def test_resume_does_again_what_was_made_with_other_numbers(once, monkeypatch, name, change, state):
    """Profiles name an effort; an earlier version may have meant other numbers by the word."""
    efforts = {**EFFORTS, name: replace(EFFORTS[name], **change)}
    monkeypatch.setattr("miad_cli.decisions.EFFORTS", efforts)

    said = once("--resume")

    assert said.code == 0
    assert set(_states(said).values()) == {state}


def test_resume_uses_the_key_of_the_first_run(once, miad, study, digests, work):
    (work / "out" / "one.dcm").unlink()
    once("--resume")

    assert miad("unlock", "out", "--key", "key.txt").code == 0
    assert digests(work / "out-unlocked") == digests(study)


def test_a_rerun_finds_the_default_key_of_the_same_output(miad, study, logo, home, work):
    for options in ((), ("--on-exists", "replace")):
        assert miad("protect", "study", "--logo", logo, "--search", "random", *options).code == 0

    assert len(list((home / "identities").iterdir())) == 1


def test_a_dry_run_writes_nothing(miad, study, logo, work, home, left):
    before = left(work)

    said = miad("protect", "study", "--logo", logo, "--dry-run")

    assert said.code == 0
    assert said.out.splitlines() == [
        "planned deep/two.dcm: with the profile general",
        "planned one.dcm: with the profile general",
        "2 would be protected; nothing was written.",
    ]
    assert left(work) == before
    assert not home.exists()


def test_a_dry_run_still_refuses_what_would_be_refused(miad, study, logo, work):
    (work / "study-protected").mkdir()
    (work / "study-protected" / "mine.txt").write_text("keep me")

    assert miad("protect", "study", "--logo", logo, "--dry-run").code == 8


def test_unlock_again_without_a_word_is_refused(miad, sealed, work):
    assert miad("unlock", "protected", "--key", sealed.key, "-o", "out").code == 0

    assert miad("unlock", "protected", "--key", sealed.key, "-o", "out").code == 8


def test_unlock_skip_keeps_what_is_there(miad, sealed, work):
    (work / "out").mkdir()
    (work / "out" / "one.dcm").write_bytes(b"mine")

    said = miad("unlock", "protected", "--key", sealed.key, "-o", "out", "--on-exists", "skip")

    assert said.code == 0
    assert said.out.splitlines()[0] == "2 unlocked, identical to the originals, 1 skipped"
    assert (work / "out" / "one.dcm").read_bytes() == b"mine"


def test_unlock_replace_writes_everything_again(miad, sealed, work, digests):
    (work / "out").mkdir()
    (work / "out" / "one.dcm").write_bytes(b"mine")

    said = miad("unlock", "protected", "--key", sealed.key, "-o", "out", "--on-exists", "replace")

    assert said.code == 0
    assert digests(work / "out") == digests(sealed.study)


def test_two_files_of_one_original_do_not_overwrite_each_other(miad, sealed, work, digests):
    (sealed.protected / "copy.dcm").write_bytes((sealed.protected / "one.dcm").read_bytes())

    said = miad("unlock", "protected", "--key", sealed.key, "-o", "out")

    assert said.code == 3
    assert "failed one.dcm: a second file wants to be one.dcm" in said.err
    assert digests(work / "out") == digests(sealed.study)
