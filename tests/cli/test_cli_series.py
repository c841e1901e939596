"""A series as a whole: one place for the logo, and references that lead to the new instances."""

from __future__ import annotations

import pytest
from pydicom import Dataset, dcmread
from pydicom.sequence import Sequence

from miad_cli.errors import InvisibleLogo
from miad_cli.watermark.marking import apply_mark

AXIAL = [1, 0, 0, 0, 1, 0]


def reference(instance: Dataset, *others: Dataset) -> None:
    items = []
    for other in others:
        item = Dataset()
        item.ReferencedSOPClassUID = other.SOPClassUID
        item.ReferencedSOPInstanceUID = other.SOPInstanceUID
        items.append(item)
    instance.ReferencedImageSequence = Sequence(items)


@pytest.fixture
def volume(make, work):
    """`volume/`: five axial slices whose names do not follow their places."""
    for number, place in enumerate([4, 0, 3, 1, 2]):
        make.dicom(
            work / "volume" / f"s{number}.dcm",
            number + 10,
            ImagePositionPatient=[0, 0, place],
            ImageOrientationPatient=AXIAL,
        )
    return work / "volume"


@pytest.fixture
def protect(miad, logo):
    def call(*options):
        said = miad("protect", "volume", "--logo", logo, "-o", "out", "--json", *options)
        assert said.code == 0
        return [one for one in said.json["files"] if one["state"] == "protected"]

    return call


def marks(files):
    return {(tuple(one["logo"]), one["alpha"], one["scale_divisor"]) for one in files}


@pytest.mark.parametrize("search", ["random", "he-sit"])
def test_slices_of_a_volume_share_one_mark(volume, protect, miad, digests, work, search):
    files = protect("--search", search, "--key-out", "key.txt")

    assert len(files) == 5
    assert len(marks(files)) == 1
    assert all(one["shared"] for one in files)
    assert [one["name"] for one in files] == sorted(one["name"] for one in files)
    assert miad("unlock", "out", "--key", "key.txt", "-o", "back").code == 0
    assert digests(work / "back") == digests(volume)


def test_the_mark_keeps_off_what_the_models_attend_to_on_every_slice(volume, protect):
    for one in protect("--search", "random"):
        x, y, width, height = one["logo"]
        assert one["lesions_from"] == "grad-cam"
        for left, top, wide, high in one["lesions"]:
            assert x + width <= left or left + wide <= x or y + height <= top or top + high <= y


def test_no_coherent_gives_each_slice_its_own(volume, protect):
    files = protect("--search", "random", "--no-coherent")

    assert len(marks(files)) > 1
    assert not any(one["shared"] for one in files)


def test_coherent_holds_for_a_series_without_geometry_when_asked(make, work, protect):
    for number in range(4):
        make.dicom(work / "volume" / f"{number}.dcm", number)

    assert not any(one["shared"] for one in protect("--search", "random"))
    files = protect("--search", "random", "--coherent", "--on-exists", "replace")
    assert len(marks(files)) == 1
    assert all(one["shared"] for one in files)


def test_slice_on_which_the_logo_would_not_show_gets_its_own(volume, protect, monkeypatch):
    calls = []

    def invisible_once(decision, image, bank):
        calls.append(decision)
        if len(calls) == 2:
            raise InvisibleLogo("hardly a pixel")
        return apply_mark(decision, image, bank)

    monkeypatch.setattr("miad_cli.decisions.apply_mark", invisible_once)

    files = protect("--search", "random")

    assert sorted(one["shared"] for one in files) == [False, True, True, True, True]


def test_references_inside_the_study_lead_to_the_new_instances(volume, protect, work):
    """Forwards, backwards, and round in a circle; those to strangers lead nowhere."""
    names = ["s0.dcm", "s1.dcm", "s2.dcm"]
    first, second, third = (dcmread(volume / name) for name in names)
    stranger = Dataset()
    stranger.SOPClassUID, stranger.SOPInstanceUID = first.SOPClassUID, "1.2.3.4.5.6"
    reference(first, second, third, stranger)
    reference(second, first)
    reference(third, third)
    for instance, name in zip((first, second, third), names, strict=True):
        instance.save_as(volume / name)

    protect("--search", "random", "--no-coherent")

    new = [dcmread(work / "out" / name) for name in names]
    uids = [instance.SOPInstanceUID for instance in new]

    def referenced(instance):
        return [one.ReferencedSOPInstanceUID for one in instance.ReferencedImageSequence]

    to_second, to_third, to_stranger = referenced(new[0])
    assert (to_second, to_third) == (uids[1], uids[2])
    assert to_stranger.startswith("2.25.")
    assert referenced(new[1]) == [uids[0]]
    assert referenced(new[2]) == [uids[2]]
    content = b"".join((work / "out" / name).read_bytes() for name in names)
    for instance in (first, second, third, stranger):
        assert instance.SOPInstanceUID.encode() not in content


def test_references_survive_a_resumed_run(volume, protect, work):
    first, second = dcmread(volume / "s0.dcm"), dcmread(volume / "s1.dcm")
    reference(first, second)
    first.save_as(volume / "s0.dcm")
    protect("--search", "random", "--no-coherent")
    whole = (work / "out" / "s0.dcm").read_bytes()
    (work / "out" / "s0.dcm").unlink()

    protect("--search", "random", "--no-coherent", "--resume")

    again, kept = dcmread(work / "out" / "s0.dcm"), dcmread(work / "out" / "s1.dcm")
    assert again.ReferencedImageSequence[0].ReferencedSOPInstanceUID == kept.SOPInstanceUID
    assert again.SOPInstanceUID.encode() in whole


def test_mask_none_keeps_off_nothing(volume, protect):
    for one in protect("--search", "random", "--mask", "none"):
        assert one["lesions"] == []
        assert one["lesions_from"] == "none"


def test_series_that_has_grown_is_done_again_as_a_whole(volume, make, protect):
    """Else its new slices would have the logo somewhere else."""
    protect("--search", "random")
    assert protect("--search", "random", "--resume") == []
    make.dicom(volume / "s9.dcm", 99, ImagePositionPatient=[0, 0, 9], ImageOrientationPatient=AXIAL)

    files = protect("--search", "random", "--resume")

    assert len(files) == 6
    assert len(marks(files)) == 1
