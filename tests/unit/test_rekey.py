"""Rekey: other people can open, nothing else changes, and no moment is a bad one to die in."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from helpers import (
    OWNER,
    build_dataset,
    build_png,
    encode,
    marking_of,
    noisy_logo,
    picture_of,
    ramp,
    sealing_for,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.uid import RLELossless
from pyrage import x25519

from miad_cli import rekey as room
from miad_cli.errors import UsageError
from miad_cli.files import PART_PREFIX
from miad_cli.imaging.picture import container_in, read_picture
from miad_cli.imaging.raster import read_raster, without_container
from miad_cli.instance import write_instance
from miad_cli.rekey import Change, Report, rekey
from miad_cli.restoration import restore
from miad_cli.seal.carriers import parse_copies, read_sidecar, sidecar_of
from miad_cli.seal.container import Container, open_payload, parse, seal
from miad_cli.seal.identities import Recipient
from miad_cli.seal.owner import OwnerKey
from miad_cli.seal.payload import decode
from miad_cli.seal.payload import encode as encode_payload
from miad_cli.unlock import unlock
from miad_cli.verify import Verdict, verify_file
from miad_cli.watermark.blend import Mark

OLD, NEW, GONE = (x25519.Identity.generate() for _ in range(3))
MARK = Mark(3, 2, 200, noisy_logo(8, 10))
KINDS = ("native", "compressed", "png")
ORIGINALS = {
    "native": encode(build_dataset(ramp(), bits_stored=12)),
    "png": build_png(np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)),
}
_compressed = build_dataset(ramp(), bits_stored=12)
_compressed.compress(RLELossless, generate_instance_uid=False)
ORIGINALS["compressed"] = encode(_compressed)


def of(identity: x25519.Identity) -> Recipient:
    return Recipient(str(identity.to_public()))


def protected(
    folder: Path,
    kind: str = "native",
    carrier: str = "both",
    name: str = "p",
    payload: str = "auto",
) -> Path:
    target = folder / (f"{name}.png" if kind == "png" else f"{name}.dcm")
    original = ORIGINALS[kind]
    picture = read_raster(original) if kind == "png" else picture_of(dcmread(BytesIO(original)))
    sealing = sealing_for(OLD.to_public(), payload, carrier)
    write_instance(target, f"{name}-original", picture, marking_of(picture.image, MARK), sealing)
    return target


def opens(path: Path, identity: x25519.Identity, to: Path) -> bool:
    report = unlock([path], to, [identity], on_exists="replace")
    return report.count("unlocked") == 1


def containers_of(path: Path) -> list[Container]:
    return parse_copies([read_sidecar(path), container_in(read_picture(path.read_bytes(), path))])


def only(report: Report) -> room.Outcome:
    (outcome,) = report.outcomes
    return outcome


def pixel_data(path: Path) -> bytes:
    if path.suffix == ".png":
        return without_container(path.read_bytes())
    return bytes(dcmread(path).PixelData)


TO_NEW = Change(to=(of(NEW),))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("carrier", ["both", "embed", "sidecar"])
def test_new_key_opens_and_the_old_one_does_not(tmp_path: Path, kind: str, carrier: str) -> None:
    path = protected(tmp_path / "in", kind, carrier)
    before, verdict = pixel_data(path), verify_file(path, [OWNER.public]).verdict
    files = sorted((tmp_path / "in").iterdir())

    report = rekey([tmp_path / "in"], TO_NEW, [OLD, NEW], OWNER)

    assert (only(report).state, report.exit_code) == ("rekeyed", 0)
    assert opens(path, NEW, tmp_path / "out")
    assert not opens(path, OLD, tmp_path / "out2")
    assert sorted((tmp_path / "in").iterdir()) == files
    assert pixel_data(path) == before
    assert verify_file(path, [OWNER.public]).verdict is verdict is Verdict.AUTHENTIC
    unlocked = (tmp_path / "out" / "p-original").read_bytes()
    source = protected(tmp_path / "again", kind)
    opens(source, OLD, tmp_path / "out3")
    assert unlocked == (tmp_path / "out3" / "p-original").read_bytes()


@settings(deadline=None, max_examples=25)
@given(
    st.sampled_from(KINDS),
    st.sampled_from(["both", "embed", "sidecar"]),
    st.lists(st.sampled_from("ABC"), min_size=1, max_size=4),
)
def test_after_any_changes_exactly_the_named_open(
    tmp_path_factory: pytest.TempPathFactory, kind: str, carrier: str, steps: list[str]
) -> None:
    """Every step names one of three people as the only one beside a keeper of all keys."""
    people = {"A": OLD, "B": NEW, "C": GONE}
    folder = tmp_path_factory.mktemp("in")
    path = protected(folder, kind, carrier)
    pixels = pixel_data(path)
    for step in steps:
        everybody = list(people.values())
        report = rekey([path], Change(to=(of(people[step]),)), everybody, OWNER)
        assert report.exit_code == 0
        for name, identity in people.items():
            for container in containers_of(path):
                try:
                    payload = decode(open_payload(container, [identity]))
                except Exception:
                    assert name != step
                else:
                    assert name == step
                    assert len(restore(payload, path.read_bytes())) == payload.original_length
    assert pixel_data(path) == pixels


def test_adding_and_removing_by_what_the_seal_records(tmp_path: Path) -> None:
    path = protected(tmp_path)
    rekey([path], Change(add=(of(NEW), of(GONE))), [OLD], OWNER)
    assert all(opens(path, one, tmp_path / "out") for one in (OLD, NEW, GONE))

    report = rekey([path], Change(remove=(of(GONE),)), [OLD], OWNER)

    assert only(report).removed == (of(GONE).text,)
    assert set(only(report).recipients) == {of(OLD).text, of(NEW).text}
    assert opens(path, OLD, tmp_path / "out") and opens(path, NEW, tmp_path / "out")
    assert not opens(path, GONE, tmp_path / "out2")


def test_second_run_finds_nothing_to_do(tmp_path: Path) -> None:
    path = protected(tmp_path)
    rekey([path], TO_NEW, [OLD, NEW], OWNER)
    before = path.read_bytes(), sidecar_of(path).read_bytes()
    assert only(rekey([path], TO_NEW, [OLD, NEW], OWNER)).state == "unchanged"
    assert (path.read_bytes(), sidecar_of(path).read_bytes()) == before


def test_removing_somebody_unknown_is_reported(tmp_path: Path) -> None:
    path = protected(tmp_path)
    report = rekey([path], Change(remove=(of(GONE),)), [OLD], OWNER)
    assert (only(report).state, report.unmet) == ("unchanged", (of(GONE).text,))


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    path = protected(tmp_path)
    before = path.read_bytes(), sidecar_of(path).read_bytes()
    report = rekey([path], Change(add=(of(NEW),)), [OLD], OWNER, dry_run=True)
    assert only(report).state == "planned"
    assert set(only(report).recipients) == {of(OLD).text, of(NEW).text}
    assert (path.read_bytes(), sidecar_of(path).read_bytes()) == before


def test_a_sidecar_alone_is_rekeyed(tmp_path: Path) -> None:
    path = protected(tmp_path, payload="original")
    path.unlink()
    rekey([tmp_path], TO_NEW, [OLD, NEW], OWNER)
    assert opens(sidecar_of(path), NEW, tmp_path / "out")
    assert not opens(sidecar_of(path), OLD, tmp_path / "out2")


def test_file_modes_stay(tmp_path: Path) -> None:
    path = protected(tmp_path)
    path.chmod(0o640)
    sidecar_of(path).chmod(0o604)
    rekey([path], TO_NEW, [OLD, NEW], OWNER)
    assert path.stat().st_mode & 0o777 == 0o640
    assert sidecar_of(path).stat().st_mode & 0o777 == 0o604


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    path = protected(tmp_path / "in")
    (tmp_path / "link.dcm").symlink_to(path)
    rekey([tmp_path / "link.dcm"], TO_NEW, [OLD, NEW], OWNER)
    assert (tmp_path / "link.dcm").is_symlink()
    assert opens(path, NEW, tmp_path / "out")


def _unchanged(path: Path, before: tuple[bytes, bytes]) -> bool:
    return (path.read_bytes(), sidecar_of(path).read_bytes()) == before


@pytest.mark.parametrize(
    ("identities", "owner", "change", "code", "sentence"),
    [
        ([GONE], OWNER, TO_NEW, 7, "None of the keys given opens"),
        ([OLD, NEW], OwnerKey.generate(), TO_NEW, 7, "signed by another owner"),
        ([OLD], OWNER, TO_NEW, 2, "would open it any more"),
        ([OLD], OWNER, Change(remove=(of(OLD),)), 2, "nobody would be left"),
    ],
)
def test_what_is_refused_leaves_the_file_alone(
    tmp_path: Path, identities: list, owner: OwnerKey, change: Change, code: int, sentence: str
) -> None:
    path = protected(tmp_path)
    before = path.read_bytes(), sidecar_of(path).read_bytes()
    report = rekey([path], change, identities, owner)
    assert (only(report).state, report.exit_code) == ("failed", code)
    assert sentence in only(report).reason
    assert _unchanged(path, before)


def test_a_forged_seal_is_not_signed_anew(tmp_path: Path) -> None:
    path = protected(tmp_path, carrier="sidecar")
    content = bytearray(sidecar_of(path).read_bytes())
    content[content.index(b'"pixels_sha256":"') + 20] ^= 1
    sidecar_of(path).write_bytes(content)
    report = rekey([path], TO_NEW, [OLD, NEW], OWNER)
    assert (only(report).state, report.exit_code) == ("failed", 6)
    assert sidecar_of(path).read_bytes() == content


def test_the_sidecar_of_another_picture_is_told(tmp_path: Path) -> None:
    path, other = protected(tmp_path), protected(tmp_path, "compressed", name="q")
    shutil.copyfile(sidecar_of(other), sidecar_of(path))
    report = rekey([path], TO_NEW, [OLD, NEW], OWNER)
    assert report.exit_code == 6
    assert "different pictures" in only(report).reason


def test_a_seal_without_a_list_needs_the_whole_one(tmp_path: Path) -> None:
    path = protected(tmp_path, carrier="sidecar")
    container = parse(sidecar_of(path).read_bytes())
    payload = decode(open_payload(container, [OLD]))
    bare = encode_payload(replace(payload, recipients=()))
    sidecar_of(path).write_bytes(seal(container.manifest, bare, [OLD.to_public()], OWNER))

    refused = rekey([path], Change(add=(of(NEW),)), [OLD], OWNER)
    done = rekey([path], Change(to=(of(NEW),)), [OLD, NEW], OWNER)

    assert refused.exit_code == 2
    assert "does not say who can open it" in only(refused).reason
    assert only(done).state == "rekeyed"
    assert only(rekey([path], Change(add=(of(OLD),)), [NEW], OWNER)).state == "rekeyed"


def test_what_is_not_protected_is_told(tmp_path: Path) -> None:
    (tmp_path / "plain.dcm").write_bytes(ORIGINALS["native"])
    (tmp_path / "notes.txt").write_text("nothing")
    report = rekey([tmp_path], TO_NEW, [OLD, NEW], OWNER)
    assert {one.name.name: one.state for one in report.outcomes} == {
        "plain.dcm": "failed",
        "notes.txt": "left out",
    }
    assert report.exit_code == 3
    assert rekey([tmp_path / "notes.txt"], TO_NEW, [OLD], OWNER).exit_code == 4


@pytest.mark.parametrize(
    "settings_of_change",
    [{}, {"to": (of(OLD),), "add": (of(NEW),)}, {"add": (of(NEW),), "remove": (of(NEW),)}],
)
def test_change_that_cannot_be_meant(settings_of_change: dict) -> None:
    with pytest.raises(UsageError):
        Change(**settings_of_change)


@pytest.mark.parametrize("failing", ["sidecar", "file"])
def test_between_sidecar_and_file_both_seals_are_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = protected(tmp_path / "in")
    rename = Path.replace

    def stop(self: Path, target: Path) -> Path:
        if (target == path) == (failing == "file"):
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", stop)
    assert only(rekey([path], TO_NEW, [OLD, NEW], OWNER)).exit_code == 3
    monkeypatch.setattr(Path, "replace", rename)

    assert verify_file(path, [OWNER.public]).verdict is Verdict.AUTHENTIC
    assert opens(path, OLD, tmp_path / "out")
    assert opens(path, NEW, tmp_path / "out") == (failing == "file")
    assert only(rekey([path], TO_NEW, [OLD, NEW], OWNER)).state == "rekeyed"
    assert not opens(path, OLD, tmp_path / "out2")
    assert opens(path, NEW, tmp_path / "out")


def test_a_copy_that_was_left_behind_follows_whoever_opens(
    tmp_path: Path,
) -> None:
    path = protected(tmp_path / "in")
    before = path.read_bytes()
    rekey([path], TO_NEW, [OLD, NEW], OWNER)
    path.write_bytes(before)  # as after a kill between sidecar and file

    assert only(rekey([path], TO_NEW, [NEW], OWNER)).state == "rekeyed"

    assert not opens(path, OLD, tmp_path / "out")


_KILLED = """
import sys
from pathlib import Path
from miad_cli.rekey import Change, rekey
from miad_cli.seal.identities import load_identities, parse_recipient
from miad_cli.seal.owner import OwnerKey
folder = Path(sys.argv[1])
identities = load_identities(folder / "keys.txt")
owner = OwnerKey.load(folder / "owner.pem")
print("ready", flush=True)
rekey([folder / "in"], Change(to=(parse_recipient(sys.argv[2]),)), identities, owner)
"""


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_any_moment_a_rerun_converges(tmp_path: Path, seed: int) -> None:
    count = 24
    first = protected(tmp_path / "in", name="0")
    for number in range(1, count):
        copy = first.with_name(f"{number}.dcm")
        shutil.copyfile(first, copy)
        shutil.copyfile(sidecar_of(first), sidecar_of(copy))
    pixels = pixel_data(first)
    (tmp_path / "keys.txt").write_text(f"{OLD}\n{NEW}\n")
    OWNER.save(tmp_path / "owner.pem")
    process = subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(tmp_path), of(NEW).text],
        stdout=subprocess.PIPE,
        cwd=Path(room.__file__).parents[1],
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    time.sleep(random.Random(seed).uniform(0.0, 0.3))
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()

    files = [first.with_name(f"{number}.dcm") for number in range(count)]
    for path in files:
        assert verify_file(path, [OWNER.public], [OLD, NEW]).exit_code == 0
    report = rekey([tmp_path / "in"], TO_NEW, [OLD, NEW], OWNER)

    assert report.exit_code == 0
    assert report.count("rekeyed") + report.count("unchanged") == count
    assert not [path for path in (tmp_path / "in").iterdir() if path.name.startswith(PART_PREFIX)]
    for path in files:
        assert (
            len(parse_copies([read_sidecar(path), room._body_of(path.read_bytes()).container])) == 1
        )
        assert verify_file(path, [OWNER.public], [NEW]).restorable
        assert not verify_file(path, [OWNER.public], [OLD]).restorable
        assert pixel_data(path) == pixels
