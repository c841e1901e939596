"""Every verdict of `miad verify`, from a file that something happened to."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.uid import ImplicitVRLittleEndian, JPEGLSNearLossless, RLELossless

from miad_cli.seal.container import Container, open_payload, parse, seal
from miad_cli.seal.identities import load_identities, new_identity
from miad_cli.seal.owner import OwnerKey
from miad_cli.seal.payload import decode, encode

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


# --- What changed, and where --------------------------------------------------------------


def _paint(path, rows, columns, value):
    """Set a rectangle of a 64 x 64 CT to one value."""
    dataset = dcmread(path)
    stored = dataset.pixel_array.copy()
    stored[rows, columns] = value
    dataset.PixelData = stored.tobytes()
    dataset.save_as(path)


def test_where_pixels_changed_is_said_without_a_key(verdict, one):
    _paint(one, slice(8, 24), slice(17, 19), 77)

    _, found = verdict()

    assert found["changes"] == {"tiles": [10, 18], "rows": [8, 23], "columns": [16, 23]}
    assert "2 of 64 tiles changed, rows 8–23, columns 16–23" in found["reason"]


def test_how_many_pixels_changed_is_said_with_the_key(miad, sealed_whole):
    path = sealed_whole.protected / "one.dcm"
    before = dcmread(path).pixel_array
    _paint(path, slice(8, 24), slice(17, 19), 77)
    changed = int((dcmread(path).pixel_array != before).sum())

    said = miad("verify", path, "--key", sealed_whole.key, "--json")

    assert said.code == 6
    assert said.file("one.dcm")["changes"]["pixels"] == changed > 20
    assert f"; {changed} pixels changed; 2 of 64 tiles" in said.file("one.dcm")["reason"]


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"WindowWidth": 80, "PixelSpacing": [1, 1]}, ["PixelSpacing", "WindowWidth"]),
        ({"FrameOfReferenceUID": None}, ["FrameOfReferenceUID"]),
        ({"SliceThickness": 2}, ["SliceThickness"]),
    ],
    ids=["changed", "removed", "added"],
)
def test_which_attributes_changed(verdict, one, change, names):
    def edit(dataset):
        for keyword, value in change.items():
            setattr(dataset, keyword, value)

    _change(one, edit)

    code, found = verdict()

    assert (code, found["changes"]) == (6, {"tiles": [], "attributes": names})
    assert found["reason"].endswith(f"changed attributes: {', '.join(names)}")


def test_changed_transparency_of_a_png_is_found_in_its_tile(miad, make, logo, work):
    make.raster(work / "photos" / "photo.png", make.colour(samples=4))
    assert miad("protect", "photos", "--logo", logo, "--search", "random").code == 0
    path = work / "photos-protected" / "photo.png"
    with Image.open(path) as opened:
        copy = opened.copy()
    copy.putpixel((60, 3), (*copy.getpixel((60, 3))[:3], 9))
    copy.save(path)

    said = miad("verify", path, "--json")

    assert said.file("photo.png")["changes"]["tiles"] == [7]


def test_changes_are_drawn_into_a_folder(miad, sealed, work):
    _paint(sealed.protected / "one.dcm", slice(0, 8), slice(56, 64), 0)

    said = miad("verify", "protected", "--report", "changes", "--json")

    assert said.code == 6
    assert said.file("one.dcm")["picture"] == "one.dcm.png"
    assert [path.name for path in (work / "changes").iterdir()] == ["one.dcm.png"]
    with Image.open(work / "changes" / "one.dcm.png") as drawn:
        red = [
            (x, y) for x in range(64) for y in range(64) if drawn.getpixel((x, y)) == (255, 0, 0)
        ]
    assert (min(red), max(red), len(red)) == ((56, 0), (63, 7), 28)


def test_changes_are_drawn_into_one_file(miad, one, work):
    _paint(one, slice(0, 8), slice(56, 64), 0)

    said = miad("verify", one, "--report", "changes.png")

    assert said.code == 6
    assert (work / "changes.png").read_bytes().startswith(b"\x89PNG")


def test_one_picture_of_several_files_is_refused(miad, sealed, work):
    said = miad("verify", "protected", "--report", "changes.png")

    assert said.code == 2
    assert not (work / "changes.png").exists()


def test_nothing_is_drawn_where_nothing_changed(miad, sealed, work):
    assert miad("verify", "protected", "--report", "changes").code == 0
    assert not (work / "changes").exists()


# --- The recipe ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sealed", "sealed_whole"])
def test_the_recipe_makes_these_pixels(miad, request, kind):
    sealed = request.getfixturevalue(kind)

    said = miad("verify", "protected", "--key", sealed.key, "--json")

    assert said.code == 0
    assert [one["recipe_holds"] for one in said.json["files"]] == [True] * 3


def _with_another_recipe(path, sealed, **changes):
    """The file with a container that its owner signed over a recipe that is not true."""
    dataset = dcmread(path)
    old = parse(dataset[CONTAINER].value)
    (identity,) = load_identities(sealed.key)
    payload = decode(open_payload(old, [identity]))
    payload = replace(payload, recipe={**payload.recipe, **changes})
    owner = OwnerKey.load(sealed.home / "owner.pem")
    content = seal(old.manifest, encode(payload), [identity.to_public()], owner)
    dataset[CONTAINER].value = content + b"\0" * (len(content) % 2)
    dataset.save_as(path)
    path.with_name(path.name + ".miad").unlink()


def test_a_recipe_that_makes_other_pixels_is_found_out(miad, sealed_whole):
    path = sealed_whole.protected / "one.dcm"
    _with_another_recipe(path, sealed_whole, alpha=3)
    assert miad("verify", path).code == 0

    said = miad("verify", path, "--key", sealed_whole.key, "--json")

    assert said.code == 6
    found = said.file("one.dcm")
    assert found["verdict"] == "not what its recipe makes of the original"
    assert (found["restorable"], found["recipe_holds"]) == (True, False)


def test_a_recipe_that_cannot_be_used_is_found_out(miad, sealed_whole):
    path = sealed_whole.protected / "one.dcm"
    _with_another_recipe(path, sealed_whole, alpha=3000)

    said = miad("verify", path, "--key", sealed_whole.key, "--json")

    assert said.code == 6
    assert said.file("one.dcm")["verdict"] == "not what its recipe makes of the original"


# --- Compressed with loss by somebody else ------------------------------------------------


def _lossy(path, new_uid=False):
    dataset = dcmread(path)
    uid = dataset.SOPInstanceUID
    dataset.compress(JPEGLSNearLossless, jls_error=20)
    dataset.LossyImageCompression = "01"
    if not new_uid:
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid
    dataset.save_as(path)


def test_lossy_compression_is_named(verdict, one):
    _lossy(one)

    code, found = verdict()

    assert (code, found["verdict"]) == (6, "pixels changed")
    assert "encoded again as JPEG-LS Lossy" in found["reason"]
    assert "can lose detail" in found["reason"]


def test_lossy_compression_under_a_new_uid_is_named(verdict, one):
    _lossy(one, new_uid=True)

    code, found = verdict()

    assert (code, found["verdict"]) == (6, "container moved here from another picture")
    assert "encoded again as JPEG-LS Lossy" in found["reason"]


def test_a_lossy_copy_gives_the_original_where_it_was_sealed(miad, sealed_whole, work, digests):
    _lossy(sealed_whole.protected / "one.dcm")
    (sealed_whole.protected / "one.dcm.miad").unlink()

    said = miad("verify", "protected/one.dcm", "--key", sealed_whole.key, "--json")
    assert said.code == 6
    assert said.file("one.dcm")["restorable"] is True
    assert said.file("one.dcm")["changes"]["pixels"] > 100

    assert miad("unlock", "protected", "--key", sealed_whole.key, "-o", "out").code == 0
    assert digests(work / "out") == digests(sealed_whole.study)


def test_a_lossy_copy_is_refused_with_the_reason_where_the_seal_is_compact(miad, sealed, work):
    _lossy(sealed.protected / "one.dcm")

    said = miad("unlock", "protected/one.dcm", "--key", sealed.key, "-o", "out")

    assert said.code == 6
    assert "the original cannot be rebuilt" in said.err
    assert "lossy compression changes pixels" in said.err
    assert not list((work / "out").glob("**/*.dcm"))


def test_links_are_not_followed(miad, sealed, work):
    (sealed.protected / "link.dcm").symlink_to(sealed.study / "one.dcm")

    said = miad("verify", "protected", "--json")

    assert said.code == 0
    assert said.file("link.dcm")["verdict"] == "no picture"
    assert "links are not followed" in said.file("link.dcm")["reason"]
