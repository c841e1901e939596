"""Getting the originals back, from whatever copies are left and whoever holds a key."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydicom import dcmread
from pydicom.uid import RLELossless

from miad_cli.files import PART_PREFIX
from miad_cli.seal.identities import new_identity


def _strip(path):
    dataset = dcmread(path)
    dataset.remove_private_tags()
    dataset.save_as(path)


@pytest.fixture
def undo(miad, sealed, work, digests):
    """Unlock `protected` into `out` and say whether everything came back."""

    def call(*options):
        said = miad("unlock", "protected", "--key", sealed.key, "-o", "out", *options)
        return said, digests(work / "out") == digests(sealed.study)

    return call


def test_from_file_and_sidecar(undo):
    said, identical = undo()

    assert (said.code, identical) == (0, True)


def test_from_the_file_alone(undo, sealed):
    for sidecar in sealed.protected.glob("*.miad"):
        sidecar.unlink()

    said, identical = undo()

    assert (said.code, identical) == (0, True)


def test_from_the_sidecar_where_the_private_block_is_gone(undo, sealed):
    for name in ("one.dcm", "two.dcm"):
        _strip(sealed.protected / name)

    said, identical = undo()

    assert (said.code, identical) == (0, True)


def test_from_the_sidecar_alone_where_it_holds_the_original(sealed_whole, undo):
    for name in ("one.dcm", "two.dcm", "photo.png"):
        (sealed_whole.protected / name).unlink()

    said, identical = undo()

    assert (said.code, identical) == (0, True)


def test_a_compact_sidecar_alone_says_what_is_missing(undo, sealed, work, left):
    for name in ("one.dcm", "two.dcm"):
        (sealed.protected / name).unlink()

    said, _ = undo()

    assert said.code == 6
    assert "failed one.dcm.miad: only the sidecar is there" in said.err
    assert "Put the protected file beside its sidecar." in said.err
    assert left(work / "out") == ["photo.png"]


def test_from_a_picture_that_was_damaged_where_the_original_was_sealed(sealed_whole, undo):
    path = sealed_whole.protected / "one.dcm"
    path.write_bytes(path.read_bytes()[:-100])

    said, identical = undo()

    assert (said.code, identical) == (0, True)


def test_after_compression_without_loss(undo, sealed):
    dataset = dcmread(sealed.protected / "one.dcm")
    dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.save_as(sealed.protected / "one.dcm")

    said, identical = undo()

    assert (said.code, identical) == (0, True)


def test_under_another_name(undo, sealed, work, digests):
    for name in ("one.dcm", "one.dcm.miad"):
        (sealed.protected / name).rename(sealed.protected / name.replace("one", "renamed"))

    said, identical = undo()

    assert (said.code, identical) == (0, True)


def test_changed_pixels_give_no_wrong_original(undo, sealed, work, left):
    dataset = dcmread(sealed.protected / "one.dcm")
    pixels = bytearray(dataset.PixelData)
    pixels[1000] ^= 1
    dataset.PixelData = bytes(pixels)
    dataset.save_as(sealed.protected / "one.dcm")

    said, _ = undo()

    assert said.code == 6
    assert "failed one.dcm: the original cannot be rebuilt" in said.err
    assert left(work / "out") == ["photo.png", "two.dcm"]


def test_without_trust_in_the_owner(undo, monkeypatch, tmp_path):
    monkeypatch.setenv("MIAD_HOME", str(tmp_path / "elsewhere"))

    said, identical = undo("--json")

    assert (said.code, identical) == (0, True)
    assert not [one for one in said.json["files"] if "signed_by" in one]


def test_the_owner_is_named_where_it_is_trusted(undo):
    said, _ = undo("--json")

    assert {len(one["signed_by"]) for one in said.json["files"]} == {64}


def test_each_of_two_recipients_opens(miad, study, logo, work, digests):
    recipients = [new_identity(work / name) for name in ("a.txt", "b.txt")]
    said = miad(
        "protect", "study", "--logo", logo, "--search", "random",
        "--to", recipients[0], "--to", recipients[1],
    )  # fmt: skip
    assert said.code == 0

    for key in ("a.txt", "b.txt"):
        assert miad("unlock", "study-protected", "--key", key, "-o", f"out-{key}").code == 0
        assert digests(work / f"out-{key}") == digests(study)


def test_recipients_from_a_file(miad, study, logo, work, digests):
    recipient = new_identity(work / "a.txt")
    (work / "team.txt").write_text(f"# the team\n\n{recipient}\n")

    said = miad("protect", "study", "--logo", logo, "--search", "random", "--to-file", "team.txt")

    assert said.code == 0
    assert miad("unlock", "study-protected", "--key", "a.txt").code == 0
    assert digests(work / "study-unlocked") == digests(study)


def test_one_of_several_keys_is_enough(miad, sealed, work, digests):
    new_identity(work / "other.txt")

    said = miad("unlock", "protected", "--key", "other.txt", "--key", sealed.key, "-o", "out")

    assert said.code == 0
    assert digests(work / "out") == digests(sealed.study)


def test_a_key_that_others_can_read_is_named(miad, sealed):
    sealed.key.chmod(0o644)

    said = miad("unlock", "protected", "--key", "key.txt", "-o", "out")

    assert said.code == 0
    assert "warning: key.txt can be reached by other users (mode 0644)" in said.err


def test_a_disk_that_loses_what_was_written_leaves_nothing(miad, sealed, work, left, monkeypatch):
    def lose(path, content):
        path.write_bytes(content[:-1])

    monkeypatch.setattr("miad_cli.files._write_synced", lose)

    said = miad("unlock", "protected", "--key", sealed.key, "-o", "out")

    assert said.code == 6
    assert "failed one.dcm: the disk did not keep what was written" in said.err
    assert left(work / "out") == []
    assert not [name for name in left(work) if PART_PREFIX in name]


WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "onnx", "onnxruntime", "onnx2fx", "SimpleITK"}:
            raise ImportError(f"{name} is not installed")

sys.meta_path.insert(0, Absent())
from miad_cli.app import run
sys.exit(run(sys.argv[1:]))
"""


@pytest.fixture
def bare(environment):
    """Run `miad` where torch, ONNX Runtime and SimpleITK are not installed."""

    def call(*arguments):
        return subprocess.run(
            [sys.executable, "-c", WITHOUT, *map(str, arguments)],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )

    return call


def test_unlock_needs_no_model_library(bare, sealed, work, digests):
    done = bare("unlock", "protected", "--key", sealed.key, "-o", "out")

    assert done.returncode == 0, done.stderr
    assert digests(work / "out") == digests(sealed.study)


@pytest.mark.parametrize("kind", ["grey", "colour"])
def test_unlock_of_16_bit_png_needs_no_model_library(bare, miad, make, logo, work, digests, kind):
    make.raster(work / "wide" / "picture.png", getattr(make, kind)(16))
    said = miad("protect", "wide", "--logo", logo, "--key-out", "key.txt", "--search", "random")
    assert said.code == 0

    done = bare("unlock", "wide-protected", "--key", "key.txt")

    assert done.returncode == 0, done.stderr
    assert digests(work / "wide-unlocked") == digests(work / "wide")


def test_verify_needs_no_model_library(bare, sealed):
    done = bare("verify", "protected", "--key", sealed.key)

    assert done.returncode == 0, done.stderr


def test_protect_says_which_library_is_missing(bare, sealed, logo):
    done = bare("protect", "originals", "--logo", logo)

    assert done.returncode == 11
    assert "ONNX Runtime is not installed" in done.stderr
