"""The age program and miad open each other's files: nobody is locked in."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from helpers import OWNER, build_dataset, marking_of, noisy_logo, picture_of, ramp, sealing_for

from miad_cli.imaging.picture import container_in, read_picture
from miad_cli.instance import write_instance
from miad_cli.restoration import restore
from miad_cli.seal.container import (
    SIGNED_PREFIX,
    Container,
    check_signature,
    open_payload,
    parse,
)
from miad_cli.seal.identities import load_identities, parse_recipient
from miad_cli.seal.payload import decode
from miad_cli.watermark.blend import Mark


def program(name: str, *arguments: object) -> bytes:
    """What the program writes. Where it is missing the test is skipped; in CI it fails."""
    if shutil.which(name) is None:
        message = f"{name} is not installed (Debian: age)"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    done = subprocess.run([name, *map(str, arguments)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """An identity that age-keygen made."""
    program("age-keygen", "-o", tmp_path / "key.txt")
    return tmp_path / "key.txt"


@pytest.fixture
def recipient(key: Path) -> str:
    return program("age-keygen", "-y", key).decode().strip()


@pytest.fixture
def protected(tmp_path: Path, recipient: str) -> tuple[bytes, bytes]:
    """A protected file and its original."""
    picture = picture_of(build_dataset(ramp(), bits_stored=12))
    sealing = sealing_for(parse_recipient(recipient).text)
    path = tmp_path / "p.dcm"
    marking = marking_of(picture.image, Mark(3, 2, 200, noisy_logo(8, 10)))
    write_instance(path, "original.dcm", picture, marking, sealing)
    return path.read_bytes(), picture.content


def container_of(content: bytes) -> Container:
    container = container_in(read_picture(content, Path("p.dcm")))
    assert container is not None
    return parse(container)


def test_age_opens_our_payload(tmp_path: Path, key: Path, protected: tuple[bytes, bytes]) -> None:
    content, original = protected
    container = container_of(content)
    (tmp_path / "payload.age").write_bytes(container.age_file)

    plaintext = program("age", "-d", "-i", key, tmp_path / "payload.age")

    assert plaintext == open_payload(container, load_identities(key))
    assert restore(decode(plaintext), content) == original


@pytest.mark.parametrize("length", [None, 0, 1, 65_536, 200_000])
def test_we_open_a_container_around_a_file_of_age(
    tmp_path: Path, key: Path, recipient: str, protected: tuple[bytes, bytes], length: int | None
) -> None:
    content, original = protected
    ours = container_of(content)
    plaintext = open_payload(ours, load_identities(key)) if length is None else bytes(length)
    (tmp_path / "plain").write_bytes(plaintext)
    age_file = program("age", "-r", recipient, "-o", "-", tmp_path / "plain")
    manifest = dataclasses.replace(
        ours.manifest,
        age_sha256=hashlib.sha256(age_file).hexdigest(),
        payload_length=len(plaintext),
    )
    signature = OWNER.sign(SIGNED_PREFIX + manifest.to_bytes())
    theirs = parse(Container(manifest, signature, age_file).to_bytes())

    check_signature(theirs, [OWNER.public])
    opened = open_payload(theirs, load_identities(key))

    assert opened == plaintext
    if length is None:
        assert restore(decode(opened), content) == original


def test_age_opens_a_payload_for_several(
    tmp_path: Path, key: Path, recipient: str, protected: tuple[bytes, bytes]
) -> None:
    program("age-keygen", "-o", tmp_path / "second.txt")
    second = program("age-keygen", "-y", tmp_path / "second.txt").decode().strip()
    picture = picture_of(build_dataset(ramp(), bits_stored=12))
    both = tuple(parse_recipient(text) for text in (recipient, second))
    sealing = dataclasses.replace(sealing_for(recipient), recipients=both)
    marking = marking_of(picture.image, Mark(3, 2, 200, noisy_logo(8, 10)))
    write_instance(tmp_path / "q.dcm", "original.dcm", picture, marking, sealing)
    container = container_of((tmp_path / "q.dcm").read_bytes())
    (tmp_path / "payload.age").write_bytes(container.age_file)

    opened = {
        program("age", "-d", "-i", one, tmp_path / "payload.age")
        for one in (key, tmp_path / "second.txt")
    }

    assert opened == {open_payload(container, load_identities(key))}
