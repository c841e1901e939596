"""A study there and back, as an administrator would type it."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from pydicom import dcmread


def test_protect_as_it_stands_says_what_was_done_and_where_the_key_lies(miad, study, logo, home):
    said = miad("protect", "study/", "--logo", "hospital.png")

    lines = said.out.splitlines()
    assert said.code == 0
    assert lines[0] == "2 protected, 2 of a task that no model knows"
    assert lines[1] == "output: study-protected"
    label, key = lines[2].split(maxsplit=1)
    assert label == "key:"
    assert key.endswith("keep it: it is the way back")
    assert Path(key.split("   ")[0]).parent == home / "identities"
    assert len(lines) == 3


def test_protect_as_it_stands_leaves_each_picture_with_its_sidecar(miad, study, logo, work, left):
    before = left(study)

    assert miad("protect", "study/", "--logo", "hospital.png").code == 0

    assert left(work / "study-protected") == [
        "deep/two.dcm",
        "deep/two.dcm.miad",
        "one.dcm",
        "one.dcm.miad",
    ]
    assert left(study) == before


def test_protect_never_touches_its_source(miad, study, logo, digests):
    before = digests(study)

    miad("protect", "study", "--logo", "hospital.png", "--search", "random")

    assert digests(study) == before


def test_keys_are_for_their_owner_alone(miad, study, logo, home):
    miad("protect", "study", "--logo", "hospital.png", "--search", "random")

    modes = {
        path.relative_to(home).parts[0]: stat.S_IMODE(path.stat().st_mode)
        for path in home.rglob("*")
        if path.is_file()
    }
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert modes == {"owner.pem": 0o600, "owner.pub.pem": 0o644, "identities": 0o600}


def test_key_out_chooses_the_place_of_the_key(miad, study, logo, work, home):
    said = miad(
        "protect", "study", "--logo", logo, "--search", "random", "--key-out", work / "k.txt"
    )

    assert f"key:    {work / 'k.txt'}" in said.out
    assert stat.S_IMODE((work / "k.txt").stat().st_mode) == 0o600
    assert not (home / "identities").exists()


def test_no_key_is_made_where_recipients_are_named(miad, study, logo, sealed, home):
    recipient = sealed.key.read_text().split("public key: ")[1].split()[0]

    said = miad("protect", "study", "--logo", logo, "--search", "random", "--to", recipient)

    assert said.code == 0
    assert "key:" not in said.out
    assert not (home / "identities").exists()


def test_unlock_gives_the_tree_back_byte_for_byte(miad, study, logo, work, digests):
    protected = miad("protect", "study/", "--logo", "hospital.png", "--search", "random")
    key = protected.out.split("key:")[1].split("   keep")[0].strip()

    said = miad("unlock", "study-protected/", "--key", key)

    assert said.code == 0
    assert said.out.splitlines() == [
        "2 unlocked, identical to the originals",
        "output: study-unlocked",
    ]
    assert digests(work / "study-unlocked") == digests(study)


def test_verify_needs_no_key_and_says_one_line(miad, study, logo):
    miad("protect", "study", "--logo", "hospital.png", "--search", "random")

    said = miad("verify", "study-protected")

    assert (said.code, said.out, said.err) == (0, "2 authentic\n", "")


def test_a_single_file_has_a_default_output_too(miad, study, logo, work, left):
    assert miad("protect", "study/one.dcm", "--logo", logo, "--search", "random").code == 0

    assert left(study / "one-protected") == ["one.dcm", "one.dcm.miad"]


def test_the_current_folder_has_a_default_output_beside_it(
    miad, study, logo, work, left, monkeypatch
):
    monkeypatch.chdir(study)

    assert miad("protect", ".", "--logo", logo, "--search", "random").code == 0

    assert "one.dcm" in left(work / "study-protected")


def test_several_inputs_keep_their_own_folders(miad, make, logo, work, left):
    make.dicom(work / "a" / "one.dcm", 1)
    make.dicom(work / "b" / "one.dcm", 2)

    said = miad("protect", "a", "b", "--logo", logo, "-o", "out", "--search", "random")

    assert said.code == 0
    assert [name for name in left(work / "out") if name.endswith(".dcm")] == [
        "a/one.dcm",
        "b/one.dcm",
    ]


def test_several_inputs_need_an_output(miad, make, logo, work):
    make.dicom(work / "a" / "one.dcm", 1)
    make.dicom(work / "b" / "one.dcm", 2)

    said = miad("protect", "a", "b", "--logo", logo)

    assert said.code == 2
    assert "error: several inputs need an output folder\n  Name it with -o." in said.err


def test_pictures_of_one_series_stay_one_series(miad, study, logo, work):
    miad("protect", "study", "--logo", logo, "--search", "random")

    made = [dcmread(work / "study-protected" / name) for name in ("one.dcm", "deep/two.dcm")]
    source = dcmread(study / "one.dcm")
    assert made[0].SeriesInstanceUID == made[1].SeriesInstanceUID != source.SeriesInstanceUID
    assert made[0].SOPInstanceUID != made[1].SOPInstanceUID


def test_the_same_run_gives_the_same_pixels_and_uids(miad, study, logo, work):
    for output in ("first", "second"):
        miad("protect", "study/one.dcm", "--logo", logo, "--search", "random", "-o", output)

    first, second = (dcmread(work / name / "one.dcm") for name in ("first", "second"))
    assert first.PixelData == second.PixelData
    assert first.SOPInstanceUID == second.SOPInstanceUID


def test_another_seed_gives_other_pixels(miad, study, logo, work):
    for seed in (1, 2):
        miad(
            "protect", "study/one.dcm", "--logo", logo, "--search", "random", "--seed", seed,
            "-o", f"seed{seed}",
        )  # fmt: skip

    first, second = (dcmread(work / name / "one.dcm") for name in ("seed1", "seed2"))
    assert first.PixelData != second.PixelData
    assert first.SOPInstanceUID != second.SOPInstanceUID


@pytest.mark.parametrize(
    ("carrier", "files"),
    [
        ("both", ["one.dcm", "one.dcm.miad"]),
        ("embed", ["one.dcm"]),
        ("sidecar", ["one.dcm", "one.dcm.miad"]),
    ],
)
def test_the_seal_travels_where_the_carrier_says(miad, study, logo, work, left, carrier, files):
    said = miad(
        "protect", "study/one.dcm", "--logo", logo, "-o", "out", "--search", "random",
        "--carrier", carrier,
    )  # fmt: skip

    assert said.code == 0
    assert left(work / "out") == files
    embedded = (0x4D49, 0x0010) in dcmread(work / "out" / "one.dcm")
    assert embedded == (carrier != "sidecar")


def test_fooled_is_counted_where_a_model_knows_the_task(miad, make, logo, work, heads):
    make.dicom(work / "study" / "black.dcm", black=True)

    said = miad(
        "protect", "study", "--logo", logo, "--profile", heads, "--models", "responsive",
        "--search", "random",
    )  # fmt: skip

    assert said.code == 0
    assert said.out.splitlines()[0] == "1 protected, 1 of 1 fooled"


def test_not_fooled_is_said_and_is_no_failure(miad, make, logo, work, heads):
    make.dicom(work / "study" / "black.dcm", black=True)

    said = miad(
        "protect", "study", "--logo", logo, "--profile", heads, "--models", "stubborn",
        "--search", "random",
    )  # fmt: skip

    assert said.code == 0
    assert said.out.splitlines()[0] == "1 protected, 0 of 1 fooled"


def test_a_patient_that_is_named_gets_a_warning(miad, study, logo):
    said = miad("protect", "study", "--logo", logo, "--search", "random")

    assert "warning: pictures name a patient, and so do their protected copies" in said.err


def test_without_a_name_there_is_no_warning(miad, make, logo, work):
    make.dicom(work / "study" / "one.dcm", PatientName="", PatientID="")

    said = miad("protect", "study", "--logo", logo, "--search", "random")

    assert said.err == ""
