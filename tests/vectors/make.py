"""Golden vectors: protected files and containers whose names begin with what has to come out.

`python tests/vectors/make.py` makes them again; `--check` verifies those that are there and that
what would be made today has the same manifest and the same payload. (Encryption is randomised, so
containers themselves never come out the same.) `--missing` protects only what is not there yet,
so that the others, which must open for ever, stay as they are. The originals and the keys are
kept: a newer library may write the former differently, and the latter are for these files alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pyrage
from cryptography.hazmat.primitives.asymmetric import ed25519
from helpers import (
    build_dicom,
    build_png,
    encode,
    marking_of,
    noisy_logo,
    ramp,
    sealing_for,
    tone_of,
)
from pydicom import Dataset, dcmread
from pydicom.uid import RLELossless
from pyrage import x25519

from miad_cli.errors import (
    ContainerDamaged,
    KeyUnusable,
    MiadError,
    OwnerUnknown,
    SignatureInvalid,
)
from miad_cli.imaging.dicom import DicomPicture
from miad_cli.imaging.image import MedicalImage
from miad_cli.imaging.picture import container_in, read_picture
from miad_cli.imaging.raster import RasterPicture
from miad_cli.instance import write_instance
from miad_cli.restoration import restore
from miad_cli.seal.container import (
    SIGNED_PREFIX,
    Container,
    check_signature,
    open_payload,
    parse,
    seal,
)
from miad_cli.seal.identities import load_identities, new_identity
from miad_cli.seal.owner import OwnerKey, OwnerPublicKey
from miad_cli.seal.payload import Payload, decode
from miad_cli.verify import Verdict, verify_file
from miad_cli.watermark.blend import Mark
from miad_cli.watermark.delta import Delta, add, grid_size
from miad_cli.watermark.marking import Marking

HERE = Path(__file__).resolve().parent
MARK = Mark(3, 2, 200, noisy_logo(8, 10))
CONTAINER = (0x4D49, 0x1002)

VERDICTS = {
    Verdict.AUTHENTIC: "ok",
    Verdict.RE_ENCODED: "re-encoded",
    Verdict.ATTRIBUTES_CHANGED: "attributes-changed",
    Verdict.PIXELS_CHANGED: "pixels-changed",
    Verdict.MOVED: "moved",
    Verdict.OTHER_RECIPE: "other-recipe",
    Verdict.DAMAGED: "container-damaged",
    Verdict.SIGNATURE_INVALID: "signature-invalid",
    Verdict.OWNER_UNKNOWN: "owner-unknown",
    Verdict.NOT_PROTECTED: "not-protected",
}
ERRORS = {
    ContainerDamaged: "container-damaged",
    SignatureInvalid: "signature-invalid",
    OwnerUnknown: "owner-unknown",
    KeyUnusable: "key-unusable",
}
SOURCES = {
    "ok-compact-ct.dcm": ("original-ct.dcm", "compact"),
    "ok-original-ct.dcm": ("original-ct.dcm", "original"),
    "ok-compact-rgb.dcm": ("original-rgb.dcm", "compact"),
    "ok-original-photo.png": ("original-photo.png", "original"),
    "ok-delta-compact-wide.dcm": ("original-wide.dcm", "compact"),
    "ok-delta-compact-rgb.dcm": ("original-rgb.dcm", "compact"),
    "ok-delta-original-photo.png": ("original-photo.png", "original"),
}
"""What is protected from which original, over a perturbation where the name says delta; all other
vectors are made from these."""


def files() -> list[Path]:
    """The vectors that are there."""
    expected = (*VERDICTS.values(), *ERRORS.values())
    return sorted(path for path in HERE.iterdir() if path.name.startswith(expected))


def expected_of(path: Path) -> str:
    """What the name of a vector says."""
    return next(
        word for word in (*VERDICTS.values(), *ERRORS.values()) if path.name.startswith(f"{word}-")
    )


def found_in(path: Path) -> str:
    """What comes out, in the words of the names."""
    owner, identities = OwnerPublicKey.load(HERE / "owner.pub.pem"), _identities()
    if path.suffix == ".miad":
        try:
            container = parse(path.read_bytes())
            check_signature(container, [owner])
            decode(open_payload(container, identities))
        except MiadError as error:
            return ERRORS[type(error)]
        return "ok"
    found = verify_file(path, [owner], identities)
    if found.restorable is False and found.verdict is Verdict.AUTHENTIC:
        return "key-unusable"
    if found.verdict is Verdict.AUTHENTIC and not found.recipe_holds:
        return "other-recipe"
    return VERDICTS[found.verdict]


def restored_from(path: Path) -> bytes:
    """The original that a protected vector gives back."""
    payload = _payload_in(path)
    return restore(payload, path.read_bytes())


def check(folder: Path) -> list[str]:
    """Everything that is wrong with the vectors, in sentences; `folder` is for what is made."""
    wrong = [
        f"{path.name}: {found_in(path)}" for path in files() if found_in(path) != expected_of(path)
    ]
    for name, (source, mode) in SOURCES.items():
        if restored_from(HERE / name) != (HERE / source).read_bytes():
            wrong.append(f"{name}: does not give {source} back")
        _protect(folder / name, HERE / source, mode)
        if _structure(folder / name) != _structure(HERE / name):
            wrong.append(f"{name}: would be made with another manifest or payload today")
    return wrong


def _structure(path: Path) -> tuple[dict[str, Any], Payload]:
    """Manifest and payload without what may differ: encryption, program, PNG compression."""
    manifest = dataclasses.asdict(_container_in(path).manifest)
    payload = _payload_in(path)
    loose = ["age_sha256", "tool", "payload_length"]
    if path.suffix == ".png":
        loose += ["subject", "pixel_data_sha256"]
        payload = dataclasses.replace(payload, subject="sha256:" + "0" * 64)
    return {key: value for key, value in manifest.items() if key not in loose}, payload


def make_missing() -> None:
    """Write what is protected from an original and is not there; originals and keys likewise."""
    if not (HERE / "owner.pem").exists():
        _owner(b"v").save(HERE / "owner.pem")
        _owner(b"v").public.save(HERE / "owner.pub.pem")
        new_identity(HERE / "identity.txt")
    _make_originals()
    for name, (source, mode) in SOURCES.items():
        if not (HERE / name).exists():
            _protect(HERE / name, HERE / source, mode)


def make() -> None:
    """Write all vectors; originals and keys only where there are none."""
    for path in files():
        path.unlink()
    make_missing()
    _make_damaged_files()
    _make_containers()


def _make_originals() -> None:
    ct = build_dicom(ramp(24, 32), bits_stored=12, PatientName="Vector^Golden", PatientID="0",
                     WindowCenter=2000, WindowWidth=4000, PixelSpacing=[0.5, 0.5])  # fmt: skip
    generator = np.random.default_rng(2023)
    colours = generator.integers(0, 256, (1, 24, 32, 3), np.uint8)
    wide = build_dicom(ramp(20, 300), bits_stored=12, signed=True, photometric="MONOCHROME1",
                       SOPInstanceUID="1.2.3.4.5.8", PixelPaddingValue=300,
                       WindowCenter=40, WindowWidth=900)  # fmt: skip
    originals = {
        "original-ct.dcm": ct,
        "original-rgb.dcm": build_dicom(colours, SOPInstanceUID="1.2.3.4.5.7"),
        "original-photo.png": build_png(colours[0]),
        "original-wide.dcm": wide,
    }
    for name, content in originals.items():
        if not (HERE / name).exists():
            (HERE / name).write_bytes(content)


def _make_damaged_files() -> None:
    def changed(name: str, source: str, change: Any) -> None:
        dataset = dcmread(BytesIO((HERE / source).read_bytes()))
        change(dataset)
        (HERE / name).write_bytes(encode(dataset))

    def one_pixel(dataset: Dataset) -> None:
        pixels = bytearray(dataset.PixelData)
        pixels[100] ^= 1
        dataset.PixelData = bytes(pixels)

    def donated(dataset: Dataset) -> None:
        donor = dcmread(HERE / "ok-compact-rgb.dcm")
        dataset[CONTAINER].value = donor[CONTAINER].value

    ok = "ok-compact-ct.dcm"
    changed("pixels-changed-one-pixel.dcm", ok, one_pixel)
    changed("attributes-changed-window.dcm", ok, lambda d: setattr(d, "WindowWidth", 80))
    changed(
        "re-encoded-rle.dcm", ok, lambda d: d.compress(RLELossless, generate_instance_uid=False)
    )
    changed("moved-from-another-instance.dcm", ok, donated)
    changed("not-protected-stripped.dcm", ok, lambda d: d.remove_private_tags())


def _make_containers() -> None:
    good = _container_in(HERE / "ok-compact-ct.dcm")
    other = _container_in(HERE / "ok-compact-rgb.dcm")
    whole = good.to_bytes()
    start = 9 + int.from_bytes(whole[5:9], "big")
    owner, (identity,) = _owner(b"v"), _identities()
    plaintext = open_payload(good, [identity])
    stranger = x25519.Identity.generate().to_public()
    damaged = {
        "ok-compact": whole,
        "ok-padded-to-even-length": _padded(good, plaintext, owner, identity.to_public()),
        "container-damaged-truncated": whole[:-1],
        "container-damaged-trailing-garbage": whole + b"\0x",
        "container-damaged-newer-version": whole[:4] + b"\2" + whole[5:],
        "container-damaged-manifest-with-blanks": _with_blank(whole),
        "container-damaged-passphrase-stanza": _signed_over(good, _under_passphrase(plaintext)),
        "container-damaged-payload-of-zeros": seal(
            good.manifest, bytes(64), [identity.to_public()], owner
        ),
        "signature-invalid-flipped-bit": _flipped(whole, start + 1),
        "signature-invalid-flipped-bit-in-payload": _flipped(whole, len(whole) - 1),
        "signature-invalid-removed": whole[:start] + b"\0" + whole[start + 65 :],
        "signature-invalid-payload-of-another": dataclasses.replace(
            good, age_file=other.age_file
        ).to_bytes(),
        "signature-invalid-manifest-of-another": dataclasses.replace(
            good, manifest=other.manifest
        ).to_bytes(),
        "owner-unknown-stranger": seal(
            good.manifest, plaintext, [identity.to_public()], _owner(b"w")
        ),
        "key-unusable-other-recipient": seal(good.manifest, plaintext, [stranger], owner),
    }
    for name, content in damaged.items():
        (HERE / f"{name}.miad").write_bytes(content)


def _padded(good: Container, plaintext: bytes, owner: OwnerKey, recipient: Any) -> bytes:
    """A container of odd length and its pad byte; how long age files get is drawn by chance."""
    while True:
        content = seal(good.manifest, plaintext, [recipient], owner)
        if len(content) % 2:
            return content + b"\0"


def _flipped(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


def _with_blank(whole: bytes) -> bytes:
    end = 9 + int.from_bytes(whole[5:9], "big")
    manifest = json.dumps(json.loads(whole[9:end]), sort_keys=True).encode()
    return whole[:5] + len(manifest).to_bytes(4, "big") + manifest + whole[end:]


def _under_passphrase(plaintext: bytes) -> bytes:
    return bytes(pyrage.passphrase.encrypt(plaintext, "vector"))


def _signed_over(good: Container, age_file: bytes) -> bytes:
    """A container whose owner really signed for this age file."""
    import hashlib

    digest = hashlib.sha256(age_file).hexdigest()
    manifest = dataclasses.replace(good.manifest, age_sha256=digest)
    signature = _owner(b"v").sign(SIGNED_PREFIX + manifest.to_bytes())
    return Container(manifest, signature, age_file).to_bytes()


def _protect(target: Path, source: Path, mode: str) -> None:
    picture = _picture(source)
    (identity,) = _identities()
    sealing = sealing_for(identity.to_public(), mode, "embed")
    sealing = dataclasses.replace(sealing, owner=_owner(b"v"))
    marking = _marking_over_delta if "delta" in target.name else marking_of
    write_instance(target, source.name, picture, marking(picture.image, MARK), sealing)


def _marking_over_delta(image: MedicalImage, mark: Mark) -> Marking:
    shape = (*grid_size(image.rows, image.columns), image.stored.shape[-1])
    cells = np.arange(np.prod(shape)) * 29 % 17 - 8
    delta = Delta(cells.reshape(shape).astype(np.int8))
    moved = add(image.stored, delta, tone_of(image))
    marking = marking_of(dataclasses.replace(image, stored=moved), mark)
    decision = dataclasses.replace(marking.decision, delta=delta)
    return dataclasses.replace(marking, decision=decision)


def _picture(path: Path) -> DicomPicture | RasterPicture:
    picture = read_picture(path.read_bytes(), path)
    assert isinstance(picture, DicomPicture | RasterPicture)
    return picture


def _container_in(path: Path) -> Container:
    container = container_in(_picture(path))
    assert container is not None
    return parse(container)


def _payload_in(path: Path) -> Payload:
    return decode(open_payload(_container_in(path), _identities()))


def _identities() -> list[Any]:
    return list(load_identities(HERE / "identity.txt"))


def _owner(letter: bytes) -> OwnerKey:
    return OwnerKey(ed25519.Ed25519PrivateKey.from_private_bytes(letter * 32))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing")
    parser.add_argument("--missing", action="store_true", help="make only what is not there")
    options = parser.parse_args()
    if options.missing:
        make_missing()
    elif not options.check:
        make()
    with tempfile.TemporaryDirectory() as folder:
        wrong = check(Path(folder))
    print("\n".join([*wrong, f"{len(files())} vectors, {len(wrong)} wrong"]))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
