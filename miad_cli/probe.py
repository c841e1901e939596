"""The probe of `pacs-check`: a small protected study of nobody, and what became of it.

Its pictures are generated, its patient says that it is none, and its keys live as long as the
check. It is protected the way every picture is, so what happens to it happens to others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from pydicom import DataElement, Dataset, dcmwrite
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence as Items
from pydicom.tag import BaseTag
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)
from pyrage import x25519

from miad_cli.errors import KeyUnusable, PictureFailed, VerificationFailed
from miad_cli.imaging.derivation import PRIVATE_CREATOR, PRIVATE_GROUP
from miad_cli.imaging.dicom import DicomPicture, read_dicom
from miad_cli.imaging.picture import Identity, container_in, identify
from miad_cli.instance import Sealing, write_instance
from miad_cli.pacs.outcome import Instance
from miad_cli.restoration import restore
from miad_cli.seal.carriers import parse_copies, read_sidecar
from miad_cli.seal.container import check_signature, open_payload
from miad_cli.seal.identities import Recipient
from miad_cli.seal.owner import OwnerKey, OwnerPublicKey
from miad_cli.seal.payload import decode
from miad_cli.watermark.blend import Bytes, Mark, blend, tone_for
from miad_cli.watermark.ensemble import Opinion
from miad_cli.watermark.lesions import Lesions
from miad_cli.watermark.logo import UNCHANGED
from miad_cli.watermark.marking import Decision, Marking

PATIENT_NAME, PATIENT_ID = "PROBE^MIAD^SYNTHETIC", "MIAD-PROBE"
SIDE = 64
"""Rows and columns of a picture."""

PICTURES: Mapping[str, UID] = {
    "uncompressed, explicit": ExplicitVRLittleEndian,
    "uncompressed, implicit": ImplicitVRLittleEndian,
    "JPEG-LS": JPEGLSLossless,
    "RLE": RLELossless,
}
"""The pictures of a probe, all of 16-bit grey, and the transfer syntax of each."""

_OPAQUE = 255
_BULK = ("OB", "OD", "OF", "OL", "OV", "OW", "UN")
_UIDS = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
_ADDED = ("InstanceAvailability", "RetrieveURL", "RetrieveAETitle")
"""What a server adds to metadata without having changed anything."""

Container = Literal["whole", "by reference", "changed", "dropped"]
Content = Literal["file", "data set", "rewritten", ""]


@dataclass(frozen=True, eq=False)
class ProbePicture:
    """One picture of the probe: before and after it was protected, and its container."""

    label: str
    instance: Instance
    original: bytes = field(repr=False)
    protected: bytes = field(repr=False)
    container: bytes = field(repr=False)
    identity: Identity


@dataclass(frozen=True, eq=False)
class Probe:
    """A protected study, and the throw-away keys that verify and open it."""

    study_instance_uid: str
    pictures: tuple[ProbePicture, ...]
    owner: OwnerPublicKey
    key: x25519.Identity = field(repr=False)


@dataclass(frozen=True)
class Finding:
    """What became of one picture on one way back.

    Attributes:
        came_back: whether anything did; `reason` says why not.
        restores: whether the original comes out of what came back alone, byte for byte, and
            `restores_with_sidecar` with the sidecar beside it; None where no file came.
        container: our private block: `whole` is byte for byte, `by reference` is named only.
        content: how much of the file is the same bytes.
        pixels: whether all pixels are the same; None where none came.
        syntax_kept, uids_kept: whether the transfer syntax and the UIDs are those sent.
        changed: attributes that were changed, dropped or added; never their values.
    """

    picture: str
    way: str
    came_back: bool
    reason: str = ""
    restores: bool | None = None
    restores_with_sidecar: bool | None = None
    container: Container = "dropped"
    content: Content = ""
    pixels: bool | None = None
    transfer_syntax_uid: str = ""
    syntax_kept: bool | None = None
    uids_kept: bool | None = None
    changed: tuple[str, ...] = ()


def new_study_uid() -> str:
    """A Study Instance UID that nobody had before."""
    return str(generate_uid(prefix=None))


def make_probe(folder: Path, study_instance_uid: str) -> Probe:
    """Make the pictures, protect them into `folder`, and keep the keys in memory only."""
    owner, key = OwnerKey.generate(), x25519.Identity.generate()
    recipient = Recipient(str(key.to_public()))
    sealing = Sealing(owner, [recipient], (b"probe",), "0" * 64, "auto", "both")
    series = new_study_uid()
    pictures = []
    for number, (label, syntax) in enumerate(PICTURES.items(), 1):
        original = _original(number, label, syntax, study_instance_uid, series)
        path = folder / f"probe-{number}.dcm"
        picture = _read(original)
        write_instance(path, path.name, picture, _marking(picture), sealing)
        pictures.append(_protected(label, path, original))
    return Probe(study_instance_uid, tuple(pictures), owner.public, key)


def judge(probe: Probe, picture: ProbePicture, way: str, content: bytes) -> Finding:
    """What survived in a file that came back."""
    try:
        back = _read(content)
        identity = identify(back)
    except PictureFailed as error:
        reason = f"what came back cannot be read: {error.message}"
        return Finding(picture.label, way, False, reason)
    syntax = str(back.dataset.file_meta.get("TransferSyntaxUID", ""))
    embedded = container_in(back)
    return Finding(
        picture.label,
        way,
        True,
        restores=_restores(probe, picture, content, embedded),
        restores_with_sidecar=_restores(probe, picture, content, picture.container),
        container=_container_state(picture, embedded),
        content=_content_state(picture, content),
        pixels=identity.pixels_sha256 == picture.identity.pixels_sha256,
        transfer_syntax_uid=syntax,
        syntax_kept=syntax == picture.instance.transfer_syntax_uid,
        uids_kept=_uids(back.dataset) == _uids(_read(picture.protected).dataset),
        changed=tuple(_differences(_read(picture.protected).dataset, back.dataset)),
    )


def judge_metadata(
    picture: ProbePicture, way: str, facts: dict[str, Any], container: bytes | None
) -> Finding:
    """What survived in metadata (DICOM JSON). `container` is ours where it could be had; the
    metadata may name it only by reference."""
    try:
        back = Dataset.from_json(facts, bulk_data_uri_handler=lambda *reference: b"")
        changed = tuple(_differences(_read(picture.protected).dataset, back))
    except Exception as error:  # what a server makes up makes pydicom raise anything
        reason = f"its metadata cannot be read ({type(error).__name__})"
        return Finding(picture.label, way, False, reason)
    tag = container_tag(facts)
    state: Container = "by reference" if tag else "dropped"
    if container is not None:
        state = _container_state(picture, container)
    kept = _uids(back) == _uids(_read(picture.protected).dataset)
    return Finding(
        picture.label, way, True, container=state, uids_kept=kept, changed=changed
    )  # fmt: skip


def container_tag(facts: Mapping[str, Any]) -> str:
    """The tag of our container in DICOM JSON, found by our private creator, or nothing."""
    for block in range(0x10, 0x100):
        creator = facts.get(f"{PRIVATE_GROUP:04X}{block:04X}")
        if isinstance(creator, dict) and creator.get("Value") == [PRIVATE_CREATOR]:
            tag = f"{PRIVATE_GROUP:04X}{block:02X}02"
            return tag if tag in facts else ""
    return ""


# --- The pictures ---------------------------------------------------------------------------


def _original(number: int, label: str, syntax: UID, study: str, series: str) -> bytes:
    """A secondary capture of a generated picture: rings, a step wedge and texture."""
    now = datetime.now(UTC)
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SpecificCharacterSet = "ISO_IR 192"
    made.SOPClassUID = SecondaryCaptureImageStorage
    made.SOPInstanceUID = generate_uid(prefix=None)
    made.StudyInstanceUID, made.SeriesInstanceUID = study, series
    made.PatientName, made.PatientID = PATIENT_NAME, PATIENT_ID
    made.PatientBirthDate = made.PatientSex = ""
    made.StudyDate, made.StudyTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    made.StudyID = made.AccessionNumber = made.ReferringPhysicianName = ""
    made.StudyDescription = "miad pacs-check: synthetic, may be deleted"
    made.SeriesDescription = "Probe"
    made.Modality, made.ConversionType = "OT", "SYN"
    made.Manufacturer = "miad"
    made.ImageType = ["ORIGINAL", "PRIMARY"]
    made.SeriesNumber, made.InstanceNumber = 1, number
    made.ImageComments = f"Generated picture, {label}"
    made.PatientOrientation = made.Laterality = ""
    made.Rows = made.Columns = SIDE
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = 16
    made.HighBit, made.PixelRepresentation = 15, 0
    made.WindowCenter, made.WindowWidth = 32768, 65536
    made.PixelData = _pattern(number).astype("<u2").tobytes()
    made["PixelData"].VR = "OW"
    if syntax.is_encapsulated:
        made.compress(syntax, generate_instance_uid=False)
    made.file_meta.TransferSyntaxUID = syntax
    target = DicomBytesIO()
    dcmwrite(target, made, enforce_file_format=True)
    return bytes(target.getvalue())


def _pattern(number: int) -> Any:
    """(SIDE, SIDE) values of all 16 bits."""
    y, x = np.mgrid[:SIDE, :SIDE]
    rings = (np.sin(np.hypot(x - SIDE / 2, y - SIDE / 2) * 0.8 + number) + 1) * 0.35
    wedge = (x // 8) / 7 * 0.25
    texture = np.random.default_rng(number).random((SIDE, SIDE)) * 0.05
    return np.round((rings + wedge + texture) * 65535).astype(np.uint16)


def _marking(picture: DicomPicture) -> Marking:
    """A white square on the picture, put where no model was asked."""
    image = picture.image
    logo: Bytes = np.full((SIDE // 4, SIDE // 4, 4), _OPAQUE, np.uint8)
    mark = Mark(SIDE // 8, SIDE // 8, 128, logo)
    window = (image.window.low, image.window.high)
    tone = tone_for(window, image.bounds, image.inverted, image.padding)
    nobody = Opinion((), ())
    decision = Decision(mark, UNCHANGED, 4, Lesions((), "none"), queries=0)
    return Marking(blend(image.stored, mark, tone), decision, tone, nobody, nobody, None)


def _protected(label: str, path: Path, original: bytes) -> ProbePicture:
    content = path.read_bytes()
    picture = _read(content)
    dataset = picture.dataset
    instance = Instance(
        path,
        PurePosixPath(path.name),
        hashlib.sha256(content).hexdigest(),
        str(dataset.SOPClassUID),
        str(dataset.SOPInstanceUID),
        str(dataset.file_meta.TransferSyntaxUID),
        str(dataset.StudyInstanceUID),
        str(dataset.SeriesInstanceUID),
    )
    sidecar = read_sidecar(path) or b""
    return ProbePicture(label, instance, original, content, sidecar, identify(picture))


def _read(content: bytes) -> DicomPicture:
    picture = read_dicom(content)
    if not isinstance(picture, DicomPicture):
        raise PictureFailed("it holds no picture")
    return picture


# --- What survived --------------------------------------------------------------------------


def _restores(probe: Probe, picture: ProbePicture, content: bytes, container: bytes | None) -> bool:
    """Whether `container` is the owner's, opens, and gives the original back from `content`."""
    try:
        for one in parse_copies([container]):
            check_signature(one, [probe.owner])
            payload = decode(open_payload(one, [probe.key]))
            return restore(payload, content) == picture.original
    except (VerificationFailed, KeyUnusable, PictureFailed):
        pass
    return False


def _container_state(picture: ProbePicture, found: bytes | None) -> Container:
    if found is None:
        return "dropped"
    whole = found.removesuffix(b"\0") == picture.container.removesuffix(b"\0")
    return "whole" if whole else "changed"


def _content_state(picture: ProbePicture, content: bytes) -> Content:
    if content == picture.protected:
        return "file"
    mine, back = _data_set(picture.protected), _data_set(content)
    return "data set" if mine is not None and mine == back else "rewritten"


def _data_set(content: bytes) -> bytes | None:
    """What follows the file meta information (PS3.10 7.1), or None."""
    if content[128:140] != b"DICM\x02\x00\x00\x00UL\x04\x00":
        return None
    return content[144 + int.from_bytes(content[140:144], "little") :]


def _uids(dataset: Dataset) -> list[str]:
    return [str(dataset.get(keyword) or "") for keyword in _UIDS]


def _differences(sent: Dataset, back: Dataset) -> Iterator[str]:
    """Names of the attributes that are not the same in both; pixels and private ones left out."""
    for tag in sorted({*sent.keys(), *back.keys()}):
        if tag.is_private or tag.element == 0 or tag.group in (0x0002, 0x7FE0):
            continue
        name = keyword_for_tag(tag) or str(tag)
        if name not in _ADDED and not _same(_element(sent, tag), _element(back, tag)):
            yield name


def _element(dataset: Dataset, tag: BaseTag) -> DataElement | None:
    """An element, or None where it is missing or cannot be read."""
    try:
        return dataset.get(tag)
    except Exception:  # a value that breaks its VR makes pydicom raise anything
        return None


def _same(one: DataElement | None, other: DataElement | None) -> bool:
    """Whether two elements say the same; one that is empty is as good as none."""
    if one is not None and other is not None:
        if isinstance(one.value, Items) and isinstance(other.value, Items):
            pairs = list(zip(one.value, other.value, strict=False))
            alike = len(one.value) == len(other.value)
            return alike and not any(list(_differences(item, its)) for item, its in pairs)
        if one.VR in _BULK:
            return True  # metadata give such values by reference
    return _plain(one) == _plain(other)


def _plain(element: DataElement | None) -> list[float | str]:
    """The values of an element, numbers as numbers however they are written."""
    value = None if element is None else element.value
    if value is None or value == "":
        return []
    values = value if isinstance(value, MultiValue | list) else [value]
    return [float(one) if isinstance(one, int | float | Decimal) else str(one) for one in values]
