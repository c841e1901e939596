"""What goes in: every kind of picture, what is no picture, and names that are hard to say."""

from __future__ import annotations

import os
import sys

import pytest
from PIL import Image

RASTERS = {
    "grey8.png": lambda make, path: make.raster(path, make.grey()),
    "grey16.png": lambda make, path: make.raster(path, make.grey(16)),
    "rgb8.png": lambda make, path: make.raster(path, make.colour()),
    "rgb16.png": lambda make, path: make.raster(path, make.colour(16)),
    "rgba8.png": lambda make, path: make.raster(path, make.colour(8, 4)),
    "rgba16.png": lambda make, path: make.raster(path, make.colour(16, 4)),
    "photo.jpg": lambda make, path: make.raster(path, make.colour(), quality=90),
    "grey.jpeg": lambda make, path: make.raster(path, make.grey(), quality=90),
    "scan8.tif": lambda make, path: make.raster(path, make.colour()),
    "scan16.tiff": lambda make, path: make.raster(path, make.grey(16)),
}


@pytest.mark.parametrize("name", RASTERS)
def test_a_picture_becomes_png_and_comes_back_as_it_was(
    miad, make, logo, work, home, digests, left, name
):
    source = RASTERS[name](make, work / "photos" / name)
    stem = source.stem

    said = miad("protect", "photos", "--logo", logo, "--key-out", "key.txt", "--search", "random")
    assert said.code == 0, said.err
    assert left(work / "photos-protected") == [f"{stem}.png", f"{stem}.png.miad"]
    assert miad("verify", "photos-protected", "--key", "key.txt").code == 0
    assert miad("unlock", "photos-protected", "--key", "key.txt").code == 0
    assert digests(work / "photos-unlocked") == digests(work / "photos")


@pytest.mark.parametrize(
    ("name", "mode", "depth"),
    [("grey16.png", "I;16", 16), ("rgb16.png", "RGB", 16), ("rgba8.png", "RGBA", 8)],
)
def test_a_png_keeps_its_depth_and_its_channels(miad, make, logo, work, name, mode, depth):
    RASTERS[name](make, work / "photos" / name)

    miad("protect", "photos", "--logo", logo, "--search", "random")

    made = work / "photos-protected" / name
    assert made.read_bytes()[24] == depth
    with Image.open(made) as opened:
        assert opened.mode == mode


def test_a_protected_png_shows_a_logo(miad, make, logo, work):
    make.raster(work / "photos" / "photo.png", make.colour())

    miad("protect", "photos", "--logo", logo, "--search", "random")

    with (
        Image.open(work / "photos" / "photo.png") as before,
        Image.open(work / "photos-protected" / "photo.png") as after,
    ):
        assert before.size == after.size
        assert before.tobytes() != after.tobytes()


def test_the_tree_is_mirrored(miad, make, logo, work, left):
    for place in ("a/x.png", "a/b/x.png", "a/b/c/y.png"):
        make.raster(work / "photos" / place, make.grey())

    miad("protect", "photos", "--logo", logo, "--search", "random")

    assert [name for name in left(work / "photos-protected") if name.endswith(".png")] == [
        "a/b/c/y.png",
        "a/b/x.png",
        "a/x.png",
    ]


def test_names_that_would_meet_are_kept_apart(miad, make, logo, work, left, digests):
    for name in ("x.png", "x.jpg"):
        make.raster(work / "photos" / name, make.colour())

    miad("protect", "photos", "--logo", logo, "--key-out", "key.txt", "--search", "random")
    assert [name for name in left(work / "photos-protected") if name.endswith(".png")] == [
        "x.jpg.png",
        "x.png",
    ]
    assert miad("unlock", "photos-protected", "--key", "key.txt").code == 0
    assert digests(work / "photos-unlocked") == digests(work / "photos")


def test_what_is_no_image_is_named_and_left_out(miad, study, logo, work, left):
    (study / "notes.txt").write_text("nothing to see")

    said = miad("protect", "study", "--logo", logo, "--search", "random")

    assert said.code == 0
    assert "left out notes.txt: not an image" in said.out
    assert "1 left out" in said.out
    assert not [name for name in left(work / "study-protected") if "notes" in name]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("segmentation", "a segmentation"),
        ("structured_report", "no pixels (Enhanced SR Storage)"),
    ],
)
def test_objects_without_a_picture_are_passed_over(
    miad, make, study, logo, work, left, kind, reason
):
    getattr(make, kind)(study / "other.dcm")

    said = miad("protect", "study", "--logo", logo, "--search", "random")

    assert said.code == 0
    assert f"passed over other.dcm: {reason}" in said.out
    assert "some objects were passed over and are not in the output: keep the source" in said.err
    assert not [name for name in left(work / "study-protected") if "other" in name]


NAMES = [
    "心臓 スキャン.dcm",
    "Καρδιά.dcm",
    "صورة.dcm",
    "two  spaces .dcm",
    """it's "quoted".dcm""",
    "[bold]markup[/].dcm",
    "-dash.dcm",
    "--help",
    "%s{}$HOME;`ls`.dcm",
    "dots..in...it.dcm",
    "no-suffix",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_in_any_script_goes_there_and_back(miad, make, logo, work, digests, name):
    make.dicom(work / "study" / name)

    assert (
        miad("protect", "study", "--logo", logo, "--key-out", "k", "--search", "random").code == 0
    )
    assert miad("verify", "study-protected").code == 0
    assert miad("unlock", "study-protected", "--key", "k").code == 0
    assert digests(work / "study-unlocked") == digests(work / "study")


@pytest.mark.skipif(sys.platform == "win32", reason="no such names on Windows")
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("line\nbreak.dcm", "line�break.dcm"),
        ("bell\a.dcm", "bell�.dcm"),
        ("\x1b[31mred.dcm", "�[31mred.dcm"),
    ],
)
def test_control_characters_in_a_name_reach_the_disk_and_not_the_terminal(
    miad, make, logo, work, digests, name, shown
):
    make.dicom(work / "study" / name)

    said = miad("protect", "study", "--logo", logo, "--key-out", "k", "--search", "random", "-v")

    assert said.code == 0
    assert name not in said.out
    assert f"protected {shown}  " in said.out
    assert miad("unlock", "study-protected", "--key", "k").code == 0
    assert digests(work / "study-unlocked") == digests(work / "study")


def test_a_newline_in_a_name_cannot_forge_a_line(miad, make, logo, work):
    (work / "study").mkdir()
    (work / "study" / "x\n5 protected").write_text("no image")
    make.dicom(work / "study" / "one.dcm")

    said = miad("protect", "study", "--logo", logo, "--search", "random")

    assert "5 protected" not in "".join(
        line for line in said.out.splitlines() if line.startswith("5")
    )


def test_a_name_that_is_not_unicode_is_protected_or_named(miad, make, logo, work):
    if sys.platform != "linux":
        pytest.skip("file names that are not Unicode exist on Linux")
    make.dicom(work / "study" / "good.dcm")
    make.dicom(work / "bad.dcm", 2)
    os.rename(work / "bad.dcm", os.fsencode(work / "study") + b"/caf\xe9.dcm")

    said = miad("protect", "study", "--logo", logo, "--search", "random")

    assert said.code == 3
    assert "1 protected" in said.out
    assert "failed caf?.dcm" in said.err


def test_a_file_may_be_named_alone_after_two_dashes(miad, make, logo, work, left, monkeypatch):
    make.dicom(work / "study" / "-x.dcm")
    monkeypatch.chdir(work / "study")

    said = miad("protect", "--logo", logo, "--search", "random", "-o", "../out", "--", "-x.dcm")

    assert said.code == 0
    assert left(work / "out") == ["-x.dcm", "-x.dcm.miad"]


def test_a_link_out_of_the_tree_is_not_followed(miad, make, study, logo, work, left):
    make.dicom(work / "elsewhere" / "secret.dcm", 9)
    (study / "link").symlink_to(work / "elsewhere", target_is_directory=True)
    (study / "link.dcm").symlink_to(work / "elsewhere" / "secret.dcm")

    assert miad("protect", "study", "--logo", logo, "--search", "random").code == 0
    assert not [name for name in left(work / "study-protected") if "link" in name]
