"""What cannot be done: its sentence, its exit code, and nothing half written."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest
from PIL import Image

from miad_cli.files import PART_PREFIX


@pytest.fixture
def refused(miad, work, left):
    """Run `miad protect`; it has to fail with `code`, say `sentence` and write nothing."""

    def check(code, sentence, *arguments, output="study-protected"):
        said = miad("protect", *arguments)
        assert said.code == code
        assert sentence in said.err
        assert said.out == ""
        assert not (work / output).exists()
        assert not [name for name in left(work) if PART_PREFIX in name]
        return said

    return check


# --- Input --------------------------------------------------------------------------------


def test_an_empty_folder(refused, logo, work):
    (work / "study").mkdir()

    refused(4, "error: study: the folder is empty", "study", "--logo", logo)


def test_a_folder_that_is_not_there(refused, logo):
    refused(4, "error: study: no such file or folder", "study", "--logo", logo)


def test_a_folder_without_a_picture(miad, logo, work):
    (work / "study").mkdir()
    (work / "study" / "notes.txt").write_text("nothing to see")

    said = miad("protect", "study", "--logo", logo)

    assert said.code == 4
    assert "left out notes.txt: not an image" in said.out
    assert not (work / "study-protected").exists()


def test_a_broken_file_does_not_stop_the_others(miad, study, logo, work, left):
    (study / "broken.dcm").write_bytes((study / "one.dcm").read_bytes()[:-100])

    said = miad("protect", "study", "--logo", logo, "--search", "random")

    assert said.code == 3
    assert "failed broken.dcm: Pixel Data is cut short" in said.err
    assert "2 protected" in said.out
    assert "1 failed" in said.out
    assert [name for name in left(work / "study-protected") if name.endswith(".dcm")] == [
        "deep/two.dcm",
        "one.dcm",
    ]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("fake.dcm", b"text", "failed fake.dcm: not a DICOM file (no DICM prefix)."),
        ("fake.png", b"text", "failed fake.png: not a PNG picture, whatever its name says."),
        ("cut.png", b"\x89PNG\r\n\x1a\n\0\0", "failed cut.png: the picture cannot be decoded"),
        ("cut.jpg", b"\xff\xd8\xff\xe0", "failed cut.jpg: the picture cannot be decoded"),
        ("cut.dcm", b"\0" * 128 + b"DICM", "failed cut.dcm: "),
        ("empty.dcm", b"", "failed empty.dcm: the file is empty."),
    ],
)
def test_a_file_that_only_promises_a_picture_fails(
    miad, study, logo, work, left, name, content, sentence
):
    (study / name).write_bytes(content)

    said = miad("protect", "study", "--logo", logo, "--search", "random")

    assert said.code == 3
    assert sentence in said.err
    assert "2 protected" in said.out
    assert not [one for one in left(work / "study-protected") if one.startswith(name)]


def test_a_file_that_may_not_be_read(miad, study, logo, monkeypatch):
    read = Path.read_bytes

    def refuse(path):  # root may read everything, so no mode of the file would do
        if path.name == "one.dcm":
            raise PermissionError(errno.EACCES, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)

    said = miad("protect", "study", "--logo", logo, "--search", "random")

    assert said.code == 3
    assert "failed one.dcm: cannot be read (Permission denied)" in said.err


def test_nothing_but_broken_files_is_nothing_usable(miad, logo, work):
    (work / "study").mkdir()
    (work / "study" / "broken.dcm").write_bytes(b"text")

    said = miad("protect", "study", "--logo", logo)

    assert said.code == 4
    assert "failed broken.dcm: not a DICOM file" in said.err
    assert not (work / "study-protected").exists()


def test_a_protected_file_is_not_protected_twice(miad, sealed, logo, work):
    said = miad("protect", "protected", "--logo", logo, "-o", "twice", "--search", "random")

    assert said.code == 3
    assert "failed one.dcm: is protected already. Unlock it first" in said.err
    assert not (work / "twice").exists()


def test_a_protected_file_among_others_fails_alone(miad, sealed, study, logo, work):
    shutil.copyfile(sealed.protected / "one.dcm", study / "sealed.dcm")

    said = miad("protect", "study", "--logo", logo, "-o", "out", "--search", "random")

    assert said.code == 3
    assert "failed sealed.dcm: is protected already." in said.err
    assert (work / "out" / "one.dcm").exists()


# --- Logo ---------------------------------------------------------------------------------


def test_a_logo_that_is_not_there(refused, study):
    refused(2, "error: no.png: there is no such logo file", "study", "--logo", "no.png")


def test_no_logo_at_all(miad, study):
    said = miad("protect", "study")

    assert said.code == 2
    assert "--logo" in said.err


def test_a_broken_logo(refused, study, make, work):
    content = make.logo(work / "whole.png").read_bytes()
    (work / "cut.png").write_bytes(content[: len(content) // 2])

    refused(2, "error: cut.png: the logo file is broken", "study", "--logo", "cut.png")


def test_a_logo_that_is_svg(refused, study, work):
    (work / "logo.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")

    refused(
        2,
        "error: logo.svg: not a picture that can be read\n"
        "  Give the logo as PNG (an SVG must be exported first).",
        "study",
        "--logo",
        "logo.svg",
    )


def test_a_logo_that_cannot_be_seen(refused, study, work):
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(work / "clear.png")

    refused(
        2,
        "error: clear.png: the logo has no opaque pixel, so nothing would be seen",
        "study",
        "--logo",
        "clear.png",
    )


# --- Profiles and models ------------------------------------------------------------------


def test_a_profile_that_nobody_knows(refused, study, logo):
    refused(
        2,
        "error: there is no profile mars\n  There are: brain-mri, ",
        "study",
        "--logo",
        logo,
        "--profile",
        "mars",
    )


def test_every_fault_of_a_profile_is_named(refused, study, logo, work):
    (work / "p.toml").write_text(
        'name = "p"\ntitle = "P"\ncolour = "red"\n[search]\nparents = 0\nmethod = "magic"\n'
    )

    said = refused(2, "the profile is not valid", "study", "--logo", logo, "--profile", "p.toml")

    for fault in ("  colour: ", "  search.parents: ", "  search.method: "):
        assert fault in said.err


def test_a_profile_that_is_no_toml(refused, study, logo, work):
    (work / "p.toml").write_text("name = ")

    refused(2, "p.toml: not valid TOML", "study", "--logo", logo, "--profile", "p.toml")


def test_a_model_that_nobody_knows(refused, study, logo):
    refused(
        2,
        "error: no model is called oracle\n  There are: responsive, stubborn.",
        "study",
        "--logo",
        logo,
        "--models",
        "oracle",
    )


def test_a_model_that_was_changed(refused, study, logo, tiny_models, tmp_path, monkeypatch):
    shutil.copytree(tiny_models, tmp_path / "models")
    with (tmp_path / "models" / "stubborn" / "model.onnx").open("ab") as target:
        target.write(b"\0")
    monkeypatch.setattr("miad_cli.models.bank.models_directory", lambda: tmp_path / "models")

    refused(11, "is not the file its manifest describes", "study", "--logo", logo)


def test_a_gpu_that_is_not_there(refused, study, logo, monkeypatch):
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])

    refused(
        9,
        "error: a GPU was asked for, but ONNX Runtime offers none on this machine",
        "study",
        "--logo",
        logo,
        "--device",
        "cuda",
    )


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cpu:1", ""])
def test_a_device_that_is_no_device(refused, study, logo, device):
    refused(2, "device", "study", "--logo", logo, "--device", device)


# --- The target ---------------------------------------------------------------------------


def test_a_target_that_is_not_met_is_five_and_the_files_are_there(
    miad, make, logo, work, left, heads
):
    make.dicom(work / "study" / "black.dcm", black=True)

    said = miad(
        "protect", "study", "--logo", logo, "--profile", heads, "--models", "stubborn",
        "--search", "random", "--require-fooled",
    )  # fmt: skip

    assert said.code == 5
    assert left(work / "study-protected") == ["black.dcm", "black.dcm.miad"]


def test_a_target_that_is_met_is_zero(miad, make, logo, work, heads):
    make.dicom(work / "study" / "black.dcm", black=True)

    said = miad(
        "protect", "study", "--logo", logo, "--profile", heads, "--models", "responsive",
        "--search", "random", "--require-fooled",
    )  # fmt: skip

    assert said.code == 0


# --- Output -------------------------------------------------------------------------------


def test_an_output_with_files_in_it(miad, study, logo, work, left):
    (work / "study-protected").mkdir()
    (work / "study-protected" / "mine.txt").write_text("keep me")

    said = miad("protect", "study", "--logo", logo)

    assert said.code == 8
    assert "error: study-protected: there are files in it already" in said.err
    assert "--on-exists skip or replace" in said.err
    assert left(work / "study-protected") == ["mine.txt"]


def test_an_empty_output_folder_is_fine(miad, study, logo, work):
    (work / "study-protected").mkdir()

    assert miad("protect", "study", "--logo", logo, "--search", "random").code == 0


@pytest.mark.parametrize("output", ["study/out", "study", "."])
def test_output_and_input_inside_each_other(miad, study, logo, left, output):
    before = left(study)

    said = miad("protect", "study", "--logo", logo, "-o", output)

    assert said.code == 2
    assert f"error: the output {output} and the input study lie inside each other" in said.err
    assert left(study) == before


def test_an_output_inside_the_input_behind_a_link(miad, study, logo, work, left):
    (work / "door").symlink_to(study, target_is_directory=True)
    before = left(study)

    said = miad("protect", "study", "--logo", logo, "-o", "door/out")

    assert said.code == 2
    assert left(study) == before


def test_an_output_that_is_a_file(miad, study, logo, work):
    (work / "out").write_text("mine")

    said = miad("protect", "study", "--logo", logo, "-o", "out")

    assert said.code == 2
    assert "error: out: the output must be a folder" in said.err
    assert (work / "out").read_text() == "mine"


def test_an_output_that_cannot_be_written(miad, study, logo, work):
    # A file where a folder would have to be is refused to root as well.
    (work / "place").write_text("mine")

    said = miad("protect", "study", "--logo", logo, "-o", "place/out", "--search", "random")

    assert said.code == 3
    assert "failed one.dcm: cannot be written" in said.err
    assert "internal error" not in said.err
    assert (work / "place").read_text() == "mine"


@pytest.mark.parametrize(
    ("number", "sentence"),
    [(errno.EROFS, "Read-only file system"), (errno.ENOSPC, "No space left on device")],
)
def test_a_disk_that_takes_nothing_leaves_nothing(
    miad, study, logo, work, left, monkeypatch, number, sentence
):
    def refuse(path, content):
        path.write_bytes(content[: len(content) // 2])
        raise OSError(number, sentence)

    monkeypatch.setattr("miad_cli.files._write_synced", refuse)

    said = miad("protect", "study", "--logo", logo, "--search", "random")

    assert said.code == 3
    assert f"failed one.dcm: cannot be written ({sentence})" in said.err
    assert left(work / "study-protected") == []


# --- Keys ---------------------------------------------------------------------------------


def test_a_recipient_that_is_none(refused, study, logo):
    said = refused(
        7, "error: This is not a recipient", "study", "--logo", logo, "--to", "age1nonsense"
    )

    assert "age1nonsense" not in said.err


def test_a_secret_key_given_as_a_recipient_is_not_repeated(refused, study, logo, sealed):
    secret = sealed.key.read_text().splitlines()[-1]

    said = refused(7, "secret identity", "study", "--logo", logo, "--to", secret)

    assert secret not in said.err


def test_unlock_without_a_key(miad, sealed, work):
    said = miad("unlock", "protected")

    assert said.code == 2
    assert "error: unlocking needs a key" in said.err
    assert not (work / "protected-unlocked").exists()


def test_unlock_with_a_key_that_is_not_there(miad, sealed, work):
    said = miad("unlock", "protected", "--key", "no.txt")

    assert said.code == 7
    assert "error: The key file no.txt cannot be read" in said.err


def test_unlock_with_a_public_key(miad, sealed, work):
    said = miad("unlock", "protected", "--key", sealed.owner)

    assert said.code == 7
    assert "holds a public key where a private one is needed" in said.err


def test_unlock_with_somebody_elses_key(miad, sealed, work, left):
    from miad_cli.seal.identities import new_identity

    new_identity(work / "other.txt")

    said = miad("unlock", "protected", "--key", "other.txt", "-o", "out")

    assert said.code == 7
    assert said.err.count("failed ") == 3
    assert left(work / "out") == []


def test_unlock_of_nothing_protected(miad, sealed, work, left):
    said = miad("unlock", "originals", "--key", sealed.key)

    assert said.code == 3
    assert "failed one.dcm: not protected by miad" in said.err
    assert left(work / "originals-unlocked") == []


def test_unlock_into_an_output_with_files_in_it(miad, sealed, work):
    said = miad("unlock", "protected", "--key", sealed.key, "-o", "originals")

    assert said.code == 8
    assert "error: originals: there are files in it already" in said.err


def test_verify_of_nothing(miad, work):
    (work / "study").mkdir()

    said = miad("verify", "study")

    assert said.code == 4
    assert "error: study: the folder is empty" in said.err


def test_verify_with_a_private_key_as_owner(miad, sealed):
    said = miad("verify", "protected", "--owner", sealed.home / "owner.pem")

    assert said.code == 7
    assert "holds a private key, not an owner's public key" in said.err
