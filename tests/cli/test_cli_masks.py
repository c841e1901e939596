"""`--mask`: the logo keeps off the lesion, and what does not fit is refused with exit code 12."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK
from PIL import Image

AXIAL = [1, 0, 0, 0, 1, 0]
SPACING = (0.5, 0.5, 2.0)
ORIGIN = (-40.0, 25.0, 110.0)
LESION = (slice(1, 4), slice(20, 36), slice(8, 24))
"""Slices, rows and columns of a lesion in a volume of six slices."""


@pytest.fixture
def volume(make, work):
    """`volume/`: six axial slices, named against their order in the patient."""
    for index in range(6):
        make.dicom(
            work / "volume" / f"s{5 - index}.dcm",
            index + 1,
            ImagePositionPatient=[*ORIGIN[:2], ORIGIN[2] + SPACING[2] * index],
            ImageOrientationPatient=AXIAL,
            SliceThickness=SPACING[2],
        )
    return work / "volume"


def write_mask(path, lesion=LESION, shift=0.0, slices=6):
    marked = np.zeros((slices, 64, 64), np.uint8)
    marked[lesion] = 1
    image = SimpleITK.GetImageFromArray(marked)
    image.SetSpacing(SPACING)
    image.SetOrigin([ORIGIN[0] + shift, *ORIGIN[1:]])
    SimpleITK.WriteImage(image, str(path))
    return path


@pytest.fixture
def protect(miad, logo):
    def call(*options):
        return miad("protect", "volume", "--logo", logo, "-o", "out", "--json",
                    "--search", "random", *options)  # fmt: skip

    return call


def meets(logo, rows, columns):
    x, y, width, height = logo
    apart = x + width <= columns.start or columns.stop <= x
    return not (apart or y + height <= rows.start or rows.stop <= y)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("coherent", ["--coherent", "--no-coherent"])
def test_logo_keeps_off_the_lesion(volume, protect, suffix, coherent, work):
    mask = write_mask(work / f"lesion{suffix}")

    for seed in range(3):
        said = protect("--mask", mask, coherent, "--seed", seed, "--on-exists", "replace")

        assert said.code == 0
        for one in said.json["files"]:
            index = 5 - int(one["name"][1])
            if coherent == "--coherent":
                assert one["lesions_from"] == "mask"
                assert not meets(one["logo"], *LESION[1:])
            elif LESION[0].start <= index < LESION[0].stop:
                assert one["lesions_from"] == "mask"
                assert not meets(one["logo"], *LESION[1:])
                ((x, y, width, height),) = one["lesions"]
                assert x <= LESION[2].start and LESION[2].stop <= x + width <= LESION[2].stop + 4
                assert y <= LESION[1].start and LESION[1].stop <= y + height <= LESION[1].stop + 4
            elif index not in (LESION[0].start - 1, LESION[0].stop):  # they touch the lesion
                assert one["lesions_from"] == "grad-cam"


def test_empty_mask_leaves_it_to_the_models_and_says_so(volume, protect, work):
    mask = write_mask(work / "empty.nrrd", (slice(0, 0),) * 3)

    said = protect("--mask", mask)

    assert said.code == 0
    assert {one["lesions_from"] for one in said.json["files"]} == {"grad-cam"}
    assert "the mask marks nothing on 6 pictures" in said.err


@pytest.mark.parametrize("fault", ["shifted", "short"])
def test_mask_of_another_place_is_refused(volume, protect, work, fault, left):
    mask = write_mask(
        work / "lesion.nrrd",
        shift=7.0 if fault == "shifted" else 0.0,
        lesion=(slice(0, 2), *LESION[1:]),
        slices=6 if fault == "shifted" else 3,
    )

    said = protect("--mask", mask)

    assert said.code == 12
    failed = [one for one in said.json["files"] if one["state"] == "failed"]
    assert len(failed) == (6 if fault == "shifted" else 3)
    assert all("mm" in one["reason"] for one in failed)
    assert len(left(work / "out")) == 2 * (6 - len(failed))


def test_what_is_no_mask_is_refused_before_anything_is_written(volume, protect, work, left):
    (work / "mask.nrrd").write_text("not a mask")

    said = protect("--mask", work / "mask.nrrd")

    assert said.code == 12
    assert left(work / "out") == []
    assert protect("--mask", work / "missing.nrrd").code == 12


def test_png_masks_belong_to_pictures_by_name(make, miad, work, logo):
    for name in ("one", "two"):
        make.raster(work / "pictures" / f"{name}.png", make.grey())
        marked = np.zeros((64, 64), np.uint8)
        marked[10:30, 12:40] = 255
        (work / "masks").mkdir(exist_ok=True)
        Image.fromarray(marked).save(work / "masks" / f"{name}_mask.png")
    make.raster(work / "pictures" / "three.png", make.grey())

    said = miad("protect", "pictures", "--logo", logo, "--mask", "masks", "--json")

    assert said.code == 12
    for name in ("one.png", "two.png"):
        assert said.file(name)["lesions"] == [[12, 10, 28, 20]]
        assert not meets(said.file(name)["logo"], slice(10, 30), slice(12, 40))
    assert said.file("three.png")["state"] == "failed"
    assert "no mask belongs to this picture" in said.file("three.png")["reason"]


def test_another_mask_makes_a_resumed_run_do_it_again(volume, protect, work):
    mask = write_mask(work / "lesion.nrrd")
    assert protect("--mask", mask).code == 0
    same = protect("--mask", mask, "--resume")
    assert {one["state"] for one in same.json["files"]} == {"skipped"}
    write_mask(mask, (slice(1, 4), slice(40, 60), slice(40, 60)))

    other = protect("--mask", mask, "--resume")

    assert {one["state"] for one in other.json["files"]} == {"protected"}


def test_mask_of_no_patient_is_refused_where_there_are_several(volume, make, protect, work, left):
    mask = write_mask(work / "lesion.nrrd")
    make.dicom(
        volume / "other.dcm",
        77,
        FrameOfReferenceUID="1.2.3.4",
        ImagePositionPatient=[0, 0, 0],
        ImageOrientationPatient=AXIAL,
    )

    said = protect("--mask", mask)

    assert said.code == 12
    assert "several frames of reference" in said.err
    assert left(work / "out") == []


def test_picture_that_a_mask_does_not_fit_any_more_is_taken_away(volume, protect, work, left):
    assert protect("--mask", "none").code == 0

    said = protect("--mask", write_mask(work / "far.nrrd", shift=70.0), "--on-exists", "replace")

    assert said.code == 12
    assert left(work / "out") == []


def test_folder_that_is_called_none_is_a_folder(volume, protect, work):
    (work / "none").mkdir()
    write_mask(work / "none" / "lesion.nrrd")

    said = protect("--mask", "./none")

    assert said.code == 0
    assert {one["lesions_from"] for one in said.json["files"]} == {"mask"}


@pytest.mark.parametrize("order", [(0, 0, 0), (255, 255, 255)])
def test_black_and_white_palette_is_a_mask_in_whatever_order(make, miad, work, logo, order):
    make.raster(work / "one.png", make.grey())
    indices = np.full((64, 64), 255 if order[0] else 0, np.uint8)
    indices[10:30, 12:40] = 0 if order[0] else 255
    mask = Image.fromarray(indices).convert("L")
    mask = Image.frombytes("P", mask.size, mask.tobytes())
    mask.putpalette([*order, *(128,) * 762, *(255 - value for value in order)])
    mask.save(work / "mask.png")

    said = miad("protect", "one.png", "--logo", logo, "--mask", "mask.png", "--json")

    assert said.code == 0
    assert said.file("one.png")["lesions"] == [[12, 10, 28, 20]]


def test_png_mask_of_another_size_and_the_same_shape_is_scaled(make, miad, work, logo):
    make.raster(work / "one.png", make.grey())
    marked = np.zeros((192, 192), np.uint8)
    marked[31:91, 36:120] = 255
    Image.fromarray(marked).save(work / "mask.png")

    said = miad("protect", "one.png", "--logo", logo, "--mask", "mask.png", "--json")

    assert said.code == 0
    assert said.file("one.png")["lesions"] == [[12, 10, 28, 21]]


def test_png_mask_of_another_shape_is_refused(make, miad, work, logo):
    make.raster(work / "one.png", make.grey())
    Image.fromarray(np.zeros((192, 191), np.uint8)).save(work / "mask.png")

    assert miad("protect", "one.png", "--logo", logo, "--mask", "mask.png").code == 12


def test_logo_finds_the_corner_that_the_box_of_a_lesion_leaves_none_of(make, miad, work, logo):
    """A diagonal lesion: its box is the whole picture."""
    make.raster(work / "one.png", make.grey())
    rows, columns = np.mgrid[:64, :64]
    marked = np.abs(rows - columns) < 6
    Image.fromarray(np.where(marked, 255, 0).astype(np.uint8)).save(work / "mask.png")

    said = miad("protect", "one.png", "--logo", logo, "--mask", "mask.png", "-o", "out", "--json")

    assert said.code == 0
    x, y, width, height = said.file("one.png")["logo"]
    assert not marked[y : y + height, x : x + width].any()
    changed = np.asarray(Image.open(work / "out" / "one.png")) != make.grey()
    assert changed.any()
    assert not (changed & marked).any()
