"""What a run must never do to files that are not its own, and what it must never pass over."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread

from miad_cli.imaging.derivation import PRIVATE_CREATOR, PRIVATE_GROUP


def test_a_key_in_the_output_is_refused(miad, study, logo, work):
    said = miad("protect", "study", "--logo", logo, "-o", "out", "--key-out", "out/key.txt")

    assert said.code == 2
    assert "the key would lie in the output" in said.err
    assert not (work / "out").exists()


def test_a_report_over_a_source_is_refused(miad, study, logo):
    before = (study / "one.dcm").read_bytes()

    said = miad("protect", "study", "--logo", logo, "--report", "study/one.dcm")

    assert said.code == 2
    assert (study / "one.dcm").read_bytes() == before


def test_a_report_over_a_folder_is_refused_before_anything_is_written(miad, study, logo, work):
    (work / "folder").mkdir()

    said = miad("protect", "study", "--logo", logo, "--report", "folder")

    assert said.code == 2
    assert not (work / "study-protected").exists()


def test_a_target_is_not_judged_on_files_that_were_kept(miad, study, logo):
    said = miad("protect", "study", "--logo", logo, "--resume", "--require-fooled")

    assert said.code == 2
    assert "--require-fooled" in said.err


def test_a_link_is_named(miad, study, logo):
    (study / "link.dcm").symlink_to(study / "one.dcm")

    said = miad("protect", "study", "--logo", logo, "--search", "random", "--json")

    states = {one["name"]: one["state"] for one in json.loads(said.out)["files"]}
    assert states["link.dcm"] == "left out"


def test_dicom_without_its_header_is_protected_and_comes_back_without(miad, study, logo, work):
    dataset = dcmread(study / "one.dcm")
    dataset.save_as(study / "bare", enforce_file_format=False, implicit_vr=False)
    bare = (study / "bare").read_bytes()
    (study / "bare").write_bytes(bare[bare.index(b"DICM") + 4 :] if b"DICM" in bare else bare)

    bare = (study / "bare").read_bytes()
    assert bare[128:132] != b"DICM"

    line = ("protect", "study", "--logo", logo, "--search", "random")
    assert miad(*line, "-o", "out", "--key-out", "key.txt").code == 0

    assert (work / "out" / "bare").read_bytes()[128:132] == b"DICM"
    assert miad("unlock", "out", "--key", "key.txt", "-o", "back").code == 0
    assert (work / "back" / "bare").read_bytes() == bare


def test_an_old_sidecar_goes_when_the_seal_travels_in_the_file_alone(miad, study, logo, work):
    line = ("protect", "study", "--logo", logo, "-o", "out", "--search", "random")
    assert miad(*line).code == 0
    assert (work / "out" / "one.dcm.miad").exists()

    assert miad(*line, "--on-exists", "replace", "--carrier", "embed").code == 0

    assert not (work / "out" / "one.dcm.miad").exists()


@pytest.mark.parametrize("carrier", ["sidecar", "embed"])
def test_what_is_protected_is_not_protected_again(miad, study, logo, work, carrier):
    line = ("protect", "study", "--logo", logo, "-o", "out", "--search", "random")
    assert miad(*line, "--carrier", carrier).code == 0
    for sidecar in (work / "out").rglob("*.miad"):
        sidecar.unlink()
    if carrier == "embed":
        strip_private_blocks(work / "out")

    said = miad("protect", "out", "--logo", logo, "-o", "twice", "--search", "random")

    assert said.code == 3
    assert said.err.count("is protected already") == 2


def strip_private_blocks(folder: Path) -> None:
    for path in folder.rglob("*.dcm"):
        dataset = dcmread(path)
        block = dataset.private_block(PRIVATE_GROUP, PRIVATE_CREATOR)
        del block[0x01], block[0x02]
        dataset.save_as(path)


def test_a_logo_that_padding_swallows_is_no_protection(miad, study, logo, work):
    path = study / "one.dcm"
    dataset = dcmread(path)
    dataset.PixelData = bytes(len(dataset.PixelData))
    dataset.add_new(0x00280120, "SS" if dataset.PixelRepresentation else "US", 0)
    dataset.save_as(path)

    said = miad("protect", "study", "--logo", logo, "--search", "random")

    assert said.code == 3
    assert "failed one.dcm: the logo would change hardly any pixel" in said.err
    assert not (work / "study-protected" / "one.dcm").exists()


def test_an_unreadable_sidecar_does_not_spoil_the_copy_in_the_file(miad, sealed):
    sidecar = sealed.protected / "one.dcm.miad"
    sidecar.unlink()
    sidecar.mkdir()

    assert miad("unlock", "protected/one.dcm", "--key", sealed.key).code == 0


def test_unlock_refuses_what_a_trusted_owner_did_not_sign(miad, sealed, work):
    path = sealed.protected / "one.dcm"
    (sealed.protected / "one.dcm.miad").unlink()
    dataset = dcmread(path)
    element = dataset.private_block(PRIVATE_GROUP, PRIVATE_CREATOR)[0x02]
    forged = bytearray(element.value)
    at = 5 + 4 + int.from_bytes(forged[5:9], "big") + 1
    forged[at] ^= 1  # the first byte of the signature
    element.value = bytes(forged)
    dataset.save_as(path)

    said = miad("unlock", path, "--key", sealed.key, "-o", "back")

    assert said.code == 6
    assert not (work / "back").exists()


def test_unlock_says_when_nobody_vouches(miad, sealed, home):
    shutil.rmtree(home)

    said = miad("unlock", "protected", "--key", sealed.key)

    assert said.code == 0
    assert "nobody vouches" in said.err


def test_a_16_bit_tiff_with_white_at_zero_keeps_its_greys(miad, logo, work):
    folder = work / "tiff"
    folder.mkdir()
    grey = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    Image.fromarray(grey).save(folder / "scan.tif", tiffinfo={262: 0})

    assert miad("protect", "tiff", "--logo", logo, "--search", "random").code == 0

    written = np.asarray(Image.open(work / "tiff-protected" / "scan.png"))
    assert written[0, -1] < written[0, 0]


def test_resume_makes_a_picture_anew_when_its_original_is_another(miad, study, logo, work):
    line = ("protect", "study", "--logo", logo, "-o", "out", "--search", "random", "--resume")
    assert miad(*line).code == 0
    shutil.copyfile(study / "deep" / "two.dcm", study / "one.dcm")

    said = miad(*line, "--json")

    states = {one["name"]: one["state"] for one in json.loads(said.out)["files"]}
    assert states == {"one.dcm": "protected", "deep/two.dcm": "skipped"}


def test_resume_leaves_files_that_are_not_its_own(miad, study, logo, work):
    (work / "out").mkdir()
    mine = (study / "one.dcm").read_bytes()
    (work / "out" / "one.dcm").write_bytes(mine)

    said = miad("protect", "study", "--logo", logo, "-o", "out", "--search", "random", "--resume")

    assert said.code == 8
    assert (work / "out" / "one.dcm").read_bytes() == mine


def test_verify_sees_what_was_added_to_a_png(miad, make, logo, work):
    folder = work / "photos"
    folder.mkdir()
    grey = np.linspace(0, 255, 64 * 64).astype(np.uint8).reshape(64, 64)
    Image.fromarray(grey).save(folder / "a.png")
    assert miad("protect", "photos", "--logo", logo, "--search", "random").code == 0
    path = work / "photos-protected" / "a.png"
    path.write_bytes(path.read_bytes() + b"Diagnosis: benign")

    said = miad("verify", "photos-protected")

    assert said.code == 6
    assert "attributes of the picture changed" in said.out


def test_a_file_called_like_a_sidecar_of_nothing_is_no_trouble(miad, sealed):
    (sealed.protected / ".miad").write_bytes(b"")

    assert miad("unlock", "protected", "--key", sealed.key, "-o", "back").code in (0, 3)
    assert "internal error" not in miad("verify", "protected").err
