"""Every verdict of `miad verify`, from a file that something happened to."""

from __future__ import annotations

import shutil

import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.uid import ImplicitVRLittleEndian, RLELossless

from miad_cli.seal.container import Container, parse
from miad_cli.seal.keys import OwnerKey, new_identity

GROUP, VERSION, CONTAINER = 0x4D49, (0x4D49, 0x1001), (0x4D49, 0x1002)


@pytest.fixture
def one(sealed):
    """The protected file that things happen to, alone with its sidecar."""
    for path in sealed.protected.iterdir():
        if not path.name.startswith("one.dcm"):
            path.unlink()
    return sealed.protected / "one.dcm"


@pytest.fixture
def verdict(miad, sealed):
    """The exit code and the JSON of the one file in `protected`."""

    def ask(*options):
        said = miad("verify", "protected", "--json", *options)
        (found,) = said.json["files"]
        return said.code, found

    return ask


def _change(path, edit):
    dataset = dcmread(path)
    edit(dataset)
    dataset.save_as(path)


def _strip(path):
    _change(path, lambda dataset: dataset.remove_private_tags())


def _drop_sidecar(path):
    path.with_name(path.name + ".miad").unlink()


def test_authentic(verdict, one):
    assert verdict() == (0, {"name": "one.dcm", "verdict": "authentic"})


def test_authentic_from_the_file_alone(verdict, one):
    _drop_sidecar(one)

    assert verdict() == (0, {"name": "one.dcm", "verdict": "authentic"})


def test_authentic_from_the_sidecar_alone_is_said(verdict, one):
    _strip(one)

    assert verdict() == (
        0,
        {
            "name": "one.dcm",
            "verdict": "authentic",
            "reason": "the container is in the sidecar only",
        },
    )


def test_not_protected_where_both_copies_are_gone(verdict, one):
    _strip(one)
    _drop_sidecar(one)

    code, found = verdict()
    assert (code, found["verdict"]) == (6, "not protected")


def test_not_protected_for_an_original(miad, sealed):
    said = miad("verify", "originals")

    assert said.code == 6
    assert said.out.splitlines()[-1] == "3 not protected"


def test_one_changed_pixel(verdict, one):
    def flip(dataset):
        pixels = bytearray(dataset.PixelData)
        pixels[1000] ^= 1
        dataset.PixelData = bytes(pixels)

    _change(one, flip)

    code, found = verdict()
    assert (code, found["verdict"]) == (6, "pixels changed")


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PixelSpacing", [0.7, 0.7]),
        ("WindowWidth", 80),
        ("RescaleSlope", 2),
        ("StudyInstanceUID", "1.2.3"),
        ("SeriesInstanceUID", "1.2.3"),
        ("SOPInstanceUID", "1.2.3"),
    ],
)
def test_changed_attributes_of_the_picture(verdict, one, keyword, value):
    _change(one, lambda dataset: setattr(dataset, keyword, value))

    code, found = verdict()
    assert (code, found["verdict"]) == (6, "attributes of the picture changed")


@pytest.mark.parametrize("keyword", ["PatientName", "PatientID", "InstitutionName"])
def test_attributes_that_an_archive_may_correct_are_not_sealed(verdict, one, keyword):
    _change(one, lambda dataset: setattr(dataset, keyword, "CORRECTED"))

    assert verdict()[0] == 0


def test_another_vr_encoding_is_no_change_of_the_pixels(verdict, one):
    dataset = dcmread(one)
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset.save_as(one, implicit_vr=True)

    assert verdict() == (0, {"name": "one.dcm", "verdict": "authentic"})


def test_compressed_without_loss(verdict, one):
    _change(one, lambda dataset: dataset.compress(RLELossless, generate_instance_uid=False))

    code, found = verdict()
    assert (code, found["verdict"]) == (6, "re-encoded without loss")


def test_a_damaged_container_does_not_matter_beside_a_good_sidecar(verdict, one):
    def damage(dataset):
        content = bytearray(dataset[CONTAINER].value)
        content[20] ^= 0xFF
        dataset[CONTAINER].value = bytes(content)

    _change(one, damage)

    assert verdict()[0] == 0


def test_a_damaged_sidecar_does_not_matter_beside_a_good_file(verdict, one):
    sidecar = one.with_name("one.dcm.miad")
    sidecar.write_bytes(sidecar.read_bytes()[:-5])

    assert verdict() == (0, {"name": "one.dcm", "verdict": "authentic"})


def test_a_damaged_container_without_a_sidecar(verdict, one):
    def damage(dataset):
        content = bytearray(dataset[CONTAINER].value)
        content[20] ^= 0xFF
        dataset[CONTAINER].value = bytes(content)

    _change(one, damage)
    _drop_sidecar(one)

    code, found = verdict()
    assert (code, found["verdict"]) == (6, "container missing or damaged")


def test_a_signature_that_is_not_the_owners(verdict, one):
    def forge(dataset):
        sealed = parse(dataset[CONTAINER].value)
        forged = Container(sealed.manifest, bytes(64), sealed.age_file).to_bytes()
        dataset[CONTAINER].value = forged + b"\0" * (len(forged) % 2)

    _change(one, forge)
    _drop_sidecar(one)

    code, found = verdict()
    assert (code, found["verdict"]) == (6, "signature invalid")


def test_a_payload_that_was_not_signed_for(verdict, one):
    def swap(dataset):
        sealed = parse(dataset[CONTAINER].value)
        age_file = sealed.age_file[:-1] + bytes([sealed.age_file[-1] ^ 1])
        forged = Container(sealed.manifest, sealed.signature, age_file).to_bytes()
        dataset[CONTAINER].value = forged + b"\0" * (len(forged) % 2)

    _change(one, swap)
    _drop_sidecar(one)

    code, found = verdict()
    assert (code, found["verdict"]) == (6, "signature invalid")


def test_a_container_from_another_instance(miad, sealed):
    donor = dcmread(sealed.protected / "two.dcm")[CONTAINER].value
    _change(
        sealed.protected / "one.dcm",
        lambda dataset: setattr(dataset[CONTAINER], "value", donor),
    )
    _drop_sidecar(sealed.protected / "one.dcm")

    said = miad("verify", "protected", "--json")

    assert said.code == 6
    assert said.file("one.dcm")["verdict"] == "container moved here from another picture"
    assert said.file("two.dcm")["verdict"] == "authentic"


def test_a_sidecar_from_another_instance(verdict, one, _sealed_once):
    _strip(one)
    shutil.copyfile(_sealed_once / "protected" / "two.dcm.miad", one.with_name("one.dcm.miad"))

    code, found = verdict()
    assert (code, found["verdict"]) == (6, "container moved here from another picture")


def test_a_sidecar_whose_picture_is_gone(verdict, one):
    one.unlink()

    code, found = verdict()
    assert (code, found["name"]) == (6, "one.dcm.miad")
    assert found["verdict"] == "container missing or damaged"


def test_a_file_that_was_cut_short(verdict, one):
    one.write_bytes(one.read_bytes()[:-100])

    code, found = verdict()
    assert (code, found["verdict"]) == (6, "unreadable")


def test_what_holds_no_picture_is_no_failure(miad, sealed, make):
    make.structured_report(sealed.protected / "report.dcm")
    (sealed.protected / "notes.txt").write_text("nothing to see")

    said = miad("verify", "protected")

    assert said.code == 0
    assert said.out.splitlines()[-1] == "3 authentic, 2 no picture"


def test_nothing_but_what_holds_no_picture(miad, work):
    (work / "study").mkdir()
    (work / "study" / "notes.txt").write_text("nothing to see")

    assert miad("verify", "study").code == 4


def test_one_bad_file_decides_the_exit_code(miad, sealed):
    shutil.copyfile(sealed.study / "one.dcm", sealed.protected / "plain.dcm")

    said = miad("verify", "protected")

    assert said.code == 6
    assert said.out.splitlines()[-1] == "3 authentic, 1 not protected"


# --- PNG ----------------------------------------------------------------------------------


def test_a_png_that_was_saved_again_is_authentic_no_more(miad, sealed):
    path = sealed.protected / "photo.png"
    with Image.open(path) as opened:
        copy = opened.copy()
    copy.putpixel((3, 3), (1, 2, 3))
    copy.save(path)

    said = miad("verify", path, "--json")

    assert said.code == 6
    assert said.file("photo.png")["verdict"] == "pixels changed"


def test_a_png_whose_container_was_lost_has_its_sidecar(miad, sealed):
    path = sealed.protected / "photo.png"
    with Image.open(path) as opened:
        opened.copy().save(path)

    said = miad("verify", path, "--json")

    assert said.code == 0
    assert said.file("photo.png")["reason"] == "the container is in the sidecar only"


# --- Owners -------------------------------------------------------------------------------


def test_an_owner_that_this_machine_does_not_know(verdict, one, monkeypatch, tmp_path):
    monkeypatch.setenv("MIAD_HOME", str(tmp_path / "elsewhere"))

    code, found = verdict()
    assert (code, found["verdict"]) == (6, "owner unknown")


def test_another_owner_of_this_machine_does_not_help(verdict, one, monkeypatch, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    OwnerKey.generate().public.save(tmp_path / "elsewhere" / "owner.pub.pem")
    monkeypatch.setenv("MIAD_HOME", str(tmp_path / "elsewhere"))

    assert verdict()[1]["verdict"] == "owner unknown"


def test_an_owner_that_is_named_is_trusted(verdict, one, sealed, monkeypatch, tmp_path):
    shutil.copyfile(sealed.owner, tmp_path / "hospital.pub.pem")
    monkeypatch.setenv("MIAD_HOME", str(tmp_path / "elsewhere"))

    assert verdict("--owner", "hospital.pub.pem")[0] == 0


def test_verify_makes_no_keys(miad, sealed, monkeypatch, tmp_path):
    monkeypatch.setenv("MIAD_HOME", str(tmp_path / "elsewhere"))

    miad("verify", "protected")

    assert not (tmp_path / "elsewhere").exists()


# --- Restorable ---------------------------------------------------------------------------


def test_restorable_with_the_key(miad, sealed):
    said = miad("verify", "protected", "--key", sealed.key)

    assert (said.code, said.out) == (0, "3 authentic, 3 restorable\n")


def test_not_restorable_with_another_key(miad, sealed, work):
    new_identity(work / "other.txt")

    said = miad("verify", "protected", "--key", "other.txt", "--json")

    assert said.code == 7
    assert [one["restorable"] for one in said.json["files"]] == [False] * 3
    assert {one["verdict"] for one in said.json["files"]} == {"authentic"}


def test_changed_pixels_are_not_restorable_from_a_compact_payload(verdict, one, sealed):
    def flip(dataset):
        pixels = bytearray(dataset.PixelData)
        pixels[1000] ^= 1
        dataset.PixelData = bytes(pixels)

    _change(one, flip)

    code, found = verdict("--key", sealed.key)
    assert code == 6
    assert (found["verdict"], found["restorable"]) == ("pixels changed", False)


def test_changed_pixels_are_restorable_where_the_original_was_sealed(miad, sealed_whole, work):
    def flip(dataset):
        pixels = bytearray(dataset.PixelData)
        pixels[1000] ^= 1
        dataset.PixelData = bytes(pixels)

    _change(sealed_whole.protected / "one.dcm", flip)

    said = miad("verify", "protected/one.dcm", "--key", sealed_whole.key, "--json")
    assert said.code == 6
    assert said.file("one.dcm")["verdict"] == "pixels changed"
    assert said.file("one.dcm")["restorable"] is True
