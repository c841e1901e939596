"""Write a protected DICOM instance: new identity, derivation attributes, our private block.

Altered pixels are a derived image and get new UIDs (PS3.3 C.7.6.1.1.2); what each attribute
becomes is listed in docs/dicom.md.
"""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Callable, Collection, Iterator, Set
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from struct import pack

from pydicom import DataElement, Dataset, dcmwrite
from pydicom.dataelem import RawDataElement
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag
from pydicom.uid import (
    PYDICOM_IMPLEMENTATION_UID,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    NuclearMedicineImageStorage,
    PositronEmissionTomographyImageStorage,
    RLELossless,
)

from miad_cli import __version__
from miad_cli.errors import PictureFailed
from miad_cli.imaging.dicom import DicomPicture, pixel_element, read_dataset
from miad_cli.imaging.words import Values

PRIVATE_GROUP = 0x4D49
PRIVATE_CREATOR = "MIAD"
_VERSION_ELEMENT, _CONTAINER_ELEMENT = 0x01, 0x02

CREATOR_UID = "2.25.199735466022936706087113245361480226157"
"""Instance Creator UID (0008,0014) of everything miad writes."""

SERIES_NUMBER_OFFSET = 9000
DESCRIPTION_PREFIX = "[PROTECTED, NOT FOR DIAGNOSIS] "

_KEEPS_SYNTAX = (RLELossless, JPEGLSLossless, JPEG2000Lossless)
"""Lossless syntaxes that pydicom's maintained plugins can write again."""

_SMALLEST_JPEG_2000 = 32
"""Rows and columns that the encoder needs for its six resolutions."""

NO_DATA = (0x0000, 0x0002, 0xFFFE)
"""Groups of commands (PS3.7), of file headers and of delimiters that lie about in some files."""

_PALETTE = tuple(
    f"{colour}PaletteColorLookupTable{part}"
    for colour in ("Red", "Green", "Blue", "Alpha")
    for part in ("Descriptor", "Data")
) + tuple(f"Segmented{c}PaletteColorLookupTableData" for c in ("Red", "Green", "Blue"))


_ONLY_OF_ORIGINALS = (
    "PulseSequenceName",
    "MRAcquisitionType",
    "EchoPulseSequence",
    "MultipleSpinEcho",
    "MultiPlanarExcitation",
    "PhaseContrast",
    "TimeOfFlightContrast",
    "SteadyStatePulseSequence",
    "EchoPlanarPulseSequence",
    "SaturationRecovery",
    "SpectrallySelectedSuppression",
    "OversamplingPhase",
    "GeometryOfKSpaceTraversal",
    "RectilinearPhaseEncodeReordering",
    "SegmentedKSpaceTraversal",
    "CoverageOfKSpace",
    "NumberOfKSpaceTrajectories",
    "BulkMotionCompensationTechnique",
)
"""Attributes of Enhanced MR that PS3.3 C.8.13.4 and C.7.6.25 ask of an ORIGINAL or MIXED image.
In a DERIVED one a validator takes them for an error; the sealed original keeps them."""

_SHORTEST_UID = 8
_UID = re.compile(rb"[0-9]+(?:[.][0-9]+){3,}")

_TEXT = ("AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UT")
"""VRs that are padded with a space (PS3.5 6.2)."""

_REFERENCES = (
    "ReferencedSOPInstanceUID",
    "SOPInstanceUIDOfConcatenationSource",
    "MultiFrameSourceSOPInstanceUID",
    "ConcatenationUID",
)
_NAMES_BELOW = ("SOPInstanceUID", "SeriesInstanceUID")
"""What names other instances and series too, but inside of sequences only."""

Buffer = bytes | memoryview

_ITEM_TAG = b"\xfe\xff\x00\xe0"
"""What compressed Pixel Data begins with (PS3.5 A.4)."""


@dataclass(frozen=True)
class NewIdentity:
    """The UIDs of the protected instance.

    `reference` gives what stands for the UID of another instance or series that this one refers
    to: the original's would lead back to it. `originals` are UIDs that must not be left anywhere.
    """

    sop_instance_uid: str
    series_instance_uid: str
    reference: Callable[[str], str] = str
    originals: Collection[str] = ()


@dataclass(frozen=True, eq=False)
class Derived:
    """A new instance. `dataset` holds no pixels: their value is `pixel_data`, so that it need not
    be copied as often as the file is encoded."""

    dataset: Dataset
    pixel_data: Buffer

    def encode(self) -> bytes:
        """The file's bytes (PS3.10).

        Raises:
            PictureFailed: the original holds an attribute that cannot be written as DICOM.
        """
        return encode_instance(self.dataset, self.pixel_data)


def derive_instance(
    picture: DicomPicture, values: Values, identity: NewIdentity, method: str
) -> Derived:
    """The protected instance, without its container. It may share memory with `values`.

    Args:
        picture: the original.
        values: (frames, rows, columns, samples), what is to be written.
        method: how the picture was changed, for Derivation Description.
    """
    dataset = read_dataset(picture.content)
    original_vr = pixel_element(dataset).VR
    del dataset["PixelData"]
    _describe_pixels(dataset, picture, values)
    _drop_what_shows_the_original(dataset)
    _mark_as_derived(dataset, method)
    left = _replace_uids(
        dataset,
        {
            str(picture.dataset.get("SOPInstanceUID") or ""): identity.sop_instance_uid,
            str(picture.dataset.get("SeriesInstanceUID") or ""): identity.series_instance_uid,
        },
        identity.reference,
    )
    dataset.SOPInstanceUID = identity.sop_instance_uid
    dataset.file_meta.MediaStorageSOPInstanceUID = UID(identity.sop_instance_uid)
    dataset.SeriesInstanceUID = identity.series_instance_uid
    _drop_traces(dataset, left.union(identity.originals))
    _mark_series(dataset)
    _write_meta(dataset)
    return _with_pixels(dataset, picture, values, original_vr)


def encode_instance(dataset: Dataset, pixel_data: Buffer | None = None) -> bytes:
    """The file's bytes (PS3.10), with `pixel_data`, if given, as the value of Pixel Data.

    Raises:
        PictureFailed: the original holds an attribute that cannot be written as DICOM.
    """
    element = (
        dataset["PixelData"] if "PixelData" in dataset else DataElement("PixelData", "OB", b"")
    )
    value = element.value if pixel_data is None else pixel_data
    # pydicom copies values several times while it writes, so it gets something short to write.
    token = _ITEM_TAG + secrets.token_bytes(28)
    target = BytesIO()
    deflated = dataset.file_meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian
    try:
        element.value = bytes(value) if deflated else token
        # A file's header has to name a SOP class; one that never did goes on without.
        named = dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID")
        dataset.preamble = bytes(128)
        dcmwrite(target, dataset, enforce_file_format=bool(named))
        return _with_value(target.getvalue(), None if deflated else token, value, dataset)
    except Exception as error:  # a value that breaks its VR makes pydicom raise anything
        raise PictureFailed(
            f"an attribute of the original cannot be written as DICOM ({type(error).__name__})"
        ) from error
    finally:
        element.value = value if pixel_data is None else b""


def _with_value(written: bytes, token: bytes | None, value: Buffer, dataset: Dataset) -> bytes:
    """A file with `value` in place of the token, and with its length in front of it."""
    if token is None or "PixelData" not in dataset:
        return written
    start, file = written.index(token), memoryview(written)
    order = ">" if dataset.file_meta.TransferSyntaxUID == ExplicitVRBigEndian else "<"
    undefined = dataset["PixelData"].is_undefined_length
    length = file[start - 4 : start] if undefined else pack(f"{order}I", len(value))
    return b"".join([file[: start - 4], length, value, file[start + len(token) :]])


def embed_container(dataset: Dataset, container: bytes) -> None:
    """Put `container` into our private block (PS3.5 7.8.1), padded to even length."""
    block = dataset.private_block(PRIVATE_GROUP, PRIVATE_CREATOR, create=True)
    block.add_new(_VERSION_ELEMENT, "LO", "1")
    block.add_new(_CONTAINER_ELEMENT, "OB", container + b"\0" * (len(container) % 2))


def embedded_container(dataset: Dataset) -> bytes | None:
    """The container in our private block, found by its creator, or None.

    Nothing that can be a container (no bytes) where the block itself is broken.
    """
    try:
        element = dataset.private_block(PRIVATE_GROUP, PRIVATE_CREATOR)[_CONTAINER_ELEMENT]
    except KeyError:
        return None
    except Exception:  # a broken block makes pydicom raise anything
        return b""
    return bytes(element.value) if isinstance(element.value, bytes) else b""


def _describe_pixels(dataset: Dataset, picture: DicomPicture, values: Values) -> None:
    layout = picture.layout
    if not picture.is_native:
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.PhotometricInterpretation = (
            "RGB" if layout.samples == 3 else str(dataset.PhotometricInterpretation)
        )
        dataset.SamplesPerPixel = layout.samples
        if layout.samples == 3:
            dataset.PlanarConfiguration = 0
        if str(picture.dataset.PhotometricInterpretation) == "PALETTE COLOR":
            _delete(dataset, *_PALETTE)  # others may have tables to be shown with beside the pixels
        dataset.BitsAllocated = layout.bits_allocated
        dataset.BitsStored, dataset.HighBit = layout.bits_stored, layout.high_bit
        dataset.PixelRepresentation = int(layout.signed)
        _delete(dataset, "ExtendedOffsetTable", "ExtendedOffsetTableLengths")
    for keyword, value in (
        ("SmallestImagePixelValue", int(values.min())),
        ("LargestImagePixelValue", int(values.max())),
    ):
        if keyword in dataset:
            setattr(dataset, keyword, value)


def _with_pixels(
    dataset: Dataset, picture: DicomPicture, values: Values, original_vr: str | None
) -> Derived:
    """The instance with its pixels, compressed where the original was compressed without loss
    and we can write that."""
    vr = "OB" if picture.layout.bits_allocated == 8 else "OW"  # PS3.5 A.2
    if picture.is_native:
        if vr == "OB" and (picture.layout.swapped or original_vr == "OW"):
            vr = "OW"
        dataset.add_new("PixelData", vr, b"")
        words = picture.layout.with_values(picture.words, values)
        return Derived(dataset, picture.layout.pixel_buffer(words))
    syntax = UID(picture.dataset.file_meta.TransferSyntaxUID)
    dataset.add_new("PixelData", vr, b"")
    if syntax in _KEEPS_SYNTAX and _compressed(dataset, syntax, values):
        compressed = dataset["PixelData"].value
        dataset["PixelData"].value = b""
        return Derived(dataset, compressed)
    words = picture.layout.with_values(picture.words, values)
    return Derived(dataset, picture.layout.pixel_buffer(words))


def _mark_as_derived(dataset: Dataset, method: str) -> None:
    now = datetime.now(UTC)
    for holder in _image_type_holders(dataset):
        keyword = "ImageType" if holder is dataset else "FrameType"
        before = _values(holder.get(keyword))
        second = (before[1:2] or ["PRIMARY"])[0] if _is_always_primary(dataset) else "SECONDARY"
        setattr(holder, keyword, ["DERIVED", second, *before[2:]])
    if "Enhanced MR" in UID(dataset.get("SOPClassUID") or "").name:
        _delete(dataset, *_ONLY_OF_ORIGINALS)
    _describe_derivation(dataset, method)
    for holder in _derivation_image_holders(dataset):
        item = Dataset()
        _describe_derivation(item, method)
        item.SourceImageSequence = Sequence([])
        holder.DerivationImageSequence = Sequence(
            [*holder.get("DerivationImageSequence", []), item]
        )
    _declare_scheme(dataset)
    dataset.ContributingEquipmentSequence = Sequence(
        [*dataset.get("ContributingEquipmentSequence", []), _equipment(now)]
    )
    dataset.InstanceCreationDate = now.strftime("%Y%m%d")
    dataset.InstanceCreationTime = now.strftime("%H%M%S")
    dataset.InstanceCreatorUID = CREATOR_UID


def _is_always_primary(dataset: Dataset) -> bool:
    """Objects that allow no SECONDARY in Image Type (PS3.3 C.8.4.9.1.1, C.8.9.4.1.3, C.8.16.1):
    those of nuclear medicine, and those with functional groups, which keep what they say."""
    grouped = any(f"{kind}FunctionalGroupsSequence" in dataset for kind in ("Shared", "PerFrame"))
    kind = UID(dataset.get("SOPClassUID") or "")
    nuclear = (NuclearMedicineImageStorage, PositronEmissionTomographyImageStorage)
    return grouped or kind in nuclear or "Enhanced" in kind.name


def _describe_derivation(holder: Dataset, method: str) -> None:
    holder.DerivationDescription = method
    holder.DerivationCodeSequence = Sequence(
        [
            *holder.get("DerivationCodeSequence", []),
            _code("ADVWM", "99MIAD", "Visible adversarial watermark"),
        ]
    )


def _derivation_image_holders(dataset: Dataset) -> list[Dataset]:
    """Where an Enhanced object says how frames were derived (PS3.3 C.7.6.16.2.6): in the groups
    of every frame, or in the shared ones.

    Only where it does so already or names its evidence: this macro holds a list of sources, for
    an empty one dciodvfy wants evidence, and evidence would lead to the original.
    """
    frames = list(dataset.get("PerFrameFunctionalGroupsSequence", []))
    if any("DerivationImageSequence" in frame for frame in frames):
        return frames
    shared = list(dataset.get("SharedFunctionalGroupsSequence", []))[:1]
    told = any("DerivationImageSequence" in group for group in shared)
    return shared if told or dataset.get("SourceImageEvidenceSequence") else []


def _values(value: object) -> list[str]:
    """The values of an attribute, whether it has none, one or several."""
    if value is None or value == "":
        return []
    return [value] if isinstance(value, str) else [str(one) for one in value]  # type: ignore[attr-defined]


def _image_type_holders(dataset: Dataset) -> Iterator[Dataset]:
    """The data set, and every functional group that holds a Frame Type (PS3.3 C.8.13.5.1)."""
    yield dataset
    groups = list(dataset.get("SharedFunctionalGroupsSequence", []))
    groups += list(dataset.get("PerFrameFunctionalGroupsSequence", []))
    for group in groups:
        for element in group:
            if element.VR == "SQ":
                yield from (item for item in element.value if "FrameType" in item)


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _declare_scheme(dataset: Dataset) -> None:
    declared = list(dataset.get("CodingSchemeIdentificationSequence", []))
    if any(item.get("CodingSchemeDesignator") == "99MIAD" for item in declared):
        return
    item = Dataset()
    item.CodingSchemeDesignator = "99MIAD"
    item.CodingSchemeName = "miad private codes"
    item.CodingSchemeResponsibleOrganization = "miad"
    dataset.CodingSchemeIdentificationSequence = Sequence([*declared, item])


def _equipment(now: datetime) -> Dataset:
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = Sequence([_code("109103", "DCM", "Modifying Equipment")])
    item.Manufacturer = "miad"
    item.ManufacturerModelName = "miad"
    item.SoftwareVersions = __version__
    item.ContributionDateTime = now.strftime("%Y%m%d%H%M%S+0000")
    item.ContributionDescription = "Visible watermark over the picture; the original is sealed"
    return item


def _mark_series(dataset: Dataset) -> None:
    if dataset.get("SeriesNumber") is not None:
        with contextlib.suppress(TypeError, ValueError):  # not a number: it stays as it is
            number = int(dataset.SeriesNumber) + SERIES_NUMBER_OFFSET
            dataset.SeriesNumber = min(number, 2**31 - 1)  # all that an IS holds (PS3.5 6.2)
    described = str(dataset.get("SeriesDescription") or "")
    dataset.SeriesDescription = (DESCRIPTION_PREFIX + described)[:64].strip()


def _replace_uids(
    dataset: Dataset, new: dict[str, str], reference: Callable[[str], str]
) -> set[str]:
    """Put the new UIDs wherever, at any depth, the data set names its own old ones, and
    references in place of those of other instances and series. The study stays.

    Returns the UIDs that were replaced.
    """
    kept = ("", str(dataset.get("StudyInstanceUID") or ""))
    left = set(new) - {*kept}
    for item in _all_items(dataset):
        for tag in list(item.keys()):
            element = _readable(item, tag)
            if element is None or element.VR != "UI":
                continue
            values = _values(element.value)
            below = item is not dataset and element.keyword in _NAMES_BELOW
            refers = below or element.keyword in _REFERENCES
            replaced = [
                new.get(value) or (reference(value) if refers and value not in kept else value)
                for value in values
            ]
            if replaced != values:
                left |= {*values} - {*replaced}
                element.value = replaced if len(replaced) > 1 else replaced[0]
    return left


def _drop_traces(dataset: Dataset, uids: Set[str]) -> None:
    """Drop text and private elements in which one of `uids` stands: it would lead back to the
    original, and nobody can say what else the element means by it. The sealed original keeps
    them."""
    wanted = {uid.encode("ascii", "replace") for uid in uids if len(uid) >= _SHORTEST_UID}
    for item in _all_items(dataset):
        for tag in list(item.keys()):
            raw = item.get_item(tag)
            if raw.VR not in ("SQ", "UI") and _tokens(raw.value) & wanted:
                del item[tag]


def _tokens(value: object) -> set[bytes]:
    """Everything in a value that looks like a UID."""
    content = value if isinstance(value, bytes) else str(value).encode("ascii", "replace")
    return {run.strip(b".") for run in _UID.findall(content)}


def _all_items(dataset: Dataset) -> Iterator[Dataset]:
    """The data set and every sequence item below it."""
    waiting = [dataset]
    while waiting:
        item = waiting.pop()
        yield item
        for tag in list(item.keys()):
            element = _readable(item, tag)
            if element is not None and element.VR == "SQ":
                waiting.extend(element.value)


def _readable(item: Dataset, tag: BaseTag) -> DataElement | None:
    """An element that is a UID or a sequence, or None; what cannot be read is left as it is."""
    if item.get_item(tag).VR not in (None, "UI", "SQ", "UN"):
        return None
    try:
        return item[tag]
    except Exception:  # a broken value makes pydicom raise anything; it is written back raw
        return None


def _drop_what_shows_the_original(dataset: Dataset) -> None:
    derivations: list[Dataset] = []
    for item in _all_items(dataset):
        _delete(
            item,
            "IconImageSequence",
            "DigitalSignaturesSequence",
            "MACParametersSequence",
            "SourceImageSequence",
        )
        derivations += item.get("DerivationImageSequence") or []
    for item in derivations:
        item.SourceImageSequence = Sequence([])  # there it may be empty, but not missing


def _delete(dataset: Dataset, *keywords: str) -> None:
    for keyword in keywords:
        if keyword in dataset:
            delattr(dataset, keyword)


def _write_meta(dataset: Dataset) -> None:
    for tag in list(dataset.keys()):
        if tag >> 16 in NO_DATA:
            del dataset[tag]
    for item in _all_items(dataset):
        _pad_with_spaces(item)
    meta = dataset.file_meta
    _delete(meta, "PrivateInformation", "PrivateInformationCreatorUID")
    meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    meta.ImplementationVersionName = f"MIAD {__version__}"[:16]


def _pad_with_spaces(item: Dataset) -> None:
    """Text that ends in NUL, as some write it, ends in a space."""
    for tag in list(item.keys()):
        raw = item.get_item(tag)
        if isinstance(raw, RawDataElement) and raw.VR in _TEXT and raw.value:
            text = raw.value.rstrip(b"\0")
            if text != raw.value:
                padded = text + b" " * (len(text) % 2)
                item[tag] = raw._replace(value=padded, length=len(padded))


def _compressed(dataset: Dataset, syntax: UID, values: Values) -> bool:
    """Give a native data set `values`, compressed; False, and nothing is changed, where that
    cannot be done."""
    signed, width = int(dataset.PixelRepresentation), int(dataset.BitsAllocated) // 8
    pixels = values.astype(f"{'i' if signed else 'u'}{width}", copy=False)
    if pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if pixels.shape[0] == 1:
        pixels = pixels[0]
    native = str(dataset.PhotometricInterpretation)
    if syntax == JPEG2000Lossless and min(dataset.Rows, dataset.Columns) < _SMALLEST_JPEG_2000:
        return False
    if syntax == JPEG2000Lossless and native == "RGB":
        # RGB goes in, and this is what it becomes there (PS3.5 8.2.4).
        dataset.PhotometricInterpretation = "YBR_RCT"
    try:
        dataset.compress(syntax, pixels, generate_instance_uid=False)
    except (ValueError, RuntimeError, NotImplementedError):
        # Encoders refuse some layouts (16-bit RGB in RLE, say) before they change anything;
        # such a picture stays native.
        dataset.PhotometricInterpretation = native
        return False
    return True
