"""Every DICOM file that pydicom brings along, there and back, judged by other people's tools."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.data.data_manager import DATA_ROOT

from miad_cli.imaging.dicom import DicomPicture, read_dicom

pytestmark = pytest.mark.slow


class Round:
    """One round over all files: what each command said, and the folders."""

    def __init__(self, workshop):
        self.source = workshop.folder / "study"
        shutil.copytree(Path(DATA_ROOT) / "test_files", self.source)
        self.output = workshop.folder / "study-protected"
        self.restored = workshop.folder / "study-unlocked"
        # One model is enough here: what is tested is files, and every model reads the same ones.
        models = workshop.miad("models", "list", "--json").json["models"]
        model = next(one["name"] for one in models if one["role"] == "classifier")
        self.protect = workshop.miad(
            "protect", "study", "--logo", workshop.logo, "--search", "random", "--models", model,
            "--effort", "fast", "--key-out", "key.txt", "--json",
        )  # fmt: skip
        self.verify = workshop.miad("verify", self.output, "--key", "key.txt", "--json")
        self.unlock = workshop.miad("unlock", self.output, "--key", "key.txt", "--json")
        self.files = self.protect.json["files"]
        self.protected = [one for one in self.files if one["state"] == "protected"]


@pytest.fixture(scope="module")
def done(open_workshop):
    return Round(open_workshop("real"))


def test_broken_files_fail_and_nothing_breaks_in_the_program(done):
    reasons = [one.get("reason", "") for one in done.protect.json["files"]]

    assert done.protect.code == 3
    assert not [reason for reason in reasons if "internal error" in reason]


def test_most_pictures_are_protected(done):
    assert len(done.protected) >= 70


def test_every_file_is_mentioned_once(done):
    named = Counter(one["name"] for one in done.protect.json["files"])
    there = [p.relative_to(done.source).as_posix() for p in done.source.rglob("*") if p.is_file()]

    assert named == Counter(there)


def test_only_protected_files_reach_the_output(done):
    there = {
        path.relative_to(done.output).as_posix()
        for path in done.output.rglob("*")
        if path.is_file() and path.suffix != ".miad"
    }

    made_anew = {one["output"] for one in done.files if one["state"] == "copied"}
    assert made_anew
    assert all("DICOMDIR" in name for name in made_anew)
    assert there == {one["output"] for one in done.protected} | made_anew


def test_the_source_is_as_it_was(done):
    for path in done.source.rglob("*"):
        if path.is_file():
            original = Path(DATA_ROOT) / "test_files" / path.relative_to(done.source)
            assert path.read_bytes() == original.read_bytes(), path.name


def test_everything_protected_verifies_and_is_restorable(done):
    assert done.verify.code == 0
    assert set(done.verify.json["counts"]) == {"authentic"}
    names = {one["name"] for one in done.verify.json["files"]}
    assert {one["output"] for one in done.protected} <= names
    assert all(one["restorable"] for one in done.verify.json["files"])


def test_everything_protected_comes_back_byte_for_byte(done):
    assert done.unlock.code == 0
    for one in done.protected:
        original = (done.source / one["name"]).read_bytes()
        restored = (done.restored / one["name"]).read_bytes()
        assert hashlib.sha256(restored).digest() == hashlib.sha256(original).digest(), one["name"]


def test_uncompressed_pictures_are_sealed_compactly(done):
    modes = {one["name"]: one["payload"] for one in done.protected}

    assert modes["CT_small.dcm"] == modes["MR_small.dcm"] == "compact"
    assert modes["MR_small_RLE.dcm"] == "original"


# --- Other people's tools -----------------------------------------------------------------


def _complaints(tool, path):
    """dciodvfy's errors about a file, each as often as it comes; None where it gives up reading.

    It gives up on deflated originals and on some that are broken, and then what it says depends
    on arbitrary bytes. Nothing else needs an excuse: new UIDs, derivation attributes and our
    private block must not add a single error.
    """
    said = tool("dciodvfy", "-new", path)
    lines = (said.out + said.err).splitlines()
    if any("Dicom dataset read failed" in line for line in lines):
        return None
    return Counter(line.strip() for line in lines if line.startswith("Error"))


def test_dciodvfy_finds_no_error_that_the_original_did_not_have(done, tool):
    new, judged = {}, 0
    for one in done.protected:
        before = _complaints(tool, done.source / one["name"])
        after = _complaints(tool, done.output / one["output"])
        if before is None:
            continue
        judged += 1
        added = ["it cannot be read"] if after is None else sorted(after - before)
        if added:
            new[one["name"]] = added

    assert new == {}
    assert judged >= 70


RENDERED = {
    "CT_small.dcm": "Explicit VR Little Endian",
    "MR_small_implicit.dcm": "Implicit VR Little Endian",
    "MR_small_bigendian.dcm": "Explicit VR Big Endian",
    "MR_small_RLE.dcm": "RLE Lossless",
    "examples_rgb_color.dcm": "Explicit VR Little Endian",
    "SC_rgb_jpeg_dcmtk.dcm": "Explicit VR Little Endian",
    "examples_palette.dcm": "Explicit VR Little Endian",
}


@pytest.mark.parametrize(("name", "syntax"), RENDERED.items())
def test_dcmtk_shows_the_pixels_that_we_wrote(done, tool, tmp_path, name, syntax):
    entry = next(one for one in done.protected if one["name"] == name)
    path = done.output / entry["output"]
    picture = read_dicom(path.read_bytes())
    assert isinstance(picture, DicomPicture)
    assert entry["syntax"] == syntax
    stored = picture.image.stored[0]
    grey = stored.shape[-1] == 1

    # Without a window dcm2pnm would apply the file's; this one maps least to black, most to white.
    options = ["+Wm"] if grey else []
    rendered = tool("dcm2pnm", "+F", "1", "+op", *options, path, tmp_path / "x.pnm")

    assert rendered.code == 0, rendered.err
    with Image.open(tmp_path / "x.pnm") as opened:
        shown = np.asarray(opened).reshape(stored.shape).astype(float)
    if grey:
        low, high = stored.min(), stored.max()
        wanted = (stored - low) / (high - low) * 255
        assert np.abs(shown - wanted).max() <= 1
    else:
        assert np.array_equal(shown, stored)
