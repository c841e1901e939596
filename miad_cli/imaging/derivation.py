"""Write a protected DICOM instance: new identity, derivation attributes, our private block.

Altered pixels are a derived image and get new UIDs (PS3.3 C.7.6.1.1.2); what each attribute
becomes is listed in docs/format.md.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO

from pydicom import DataElement, Dataset, dcmread, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag
from pydicom.uid import (
    PYDICOM_IMPLEMENTATION_UID,
    UID,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from miad_cli import __version__
from miad_cli.errors import PictureFailed
from miad_cli.imaging.dicom import DicomPicture
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

_PALETTE = tuple(
    f"{colour}PaletteColorLookupTable{part}"
    for colour in ("Red", "Green", "Blue", "Alpha")
    for part in ("Descriptor", "Data")
) + tuple(f"Segmented{c}PaletteColorLookupTableData" for c in ("Red", "Green", "Blue"))


_REFERENCES = (
    "ReferencedSOPInstanceUID",
    "SOPInstanceUIDOfConcatenationSource",
    "SeriesInstanceUID",
)


@dataclass(frozen=True)
class NewIdentity:
    """The UIDs of the protected instance.

    `reference` gives what stands for the UID of another instance or series that this one refers
    to: the original's would lead back to it.
    """

    sop_instance_uid: str
    series_instance_uid: str
    reference: Callable[[str], str] = str


def derive_instance(
    picture: DicomPicture, values: Values, identity: NewIdentity, method: str
) -> Dataset:
    """The protected instance, without its container.

    Args:
        picture: the original.
        values: (frames, rows, columns, samples), what is to be written.
        method: how the picture was changed, for Derivation Description.
    """
    dataset = dcmread(BytesIO(picture.content))
    _write_pixels(dataset, picture, values)
    _mark_as_derived(dataset, method)
    _replace_uids(
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
    _mark_series(dataset)
    _drop_what_shows_the_original(dataset)
    _write_meta(dataset.file_meta)
    _keep_syntax(dataset, picture)
    return dataset


def encode_instance(dataset: Dataset) -> bytes:
    """The file's bytes (PS3.10).

    Raises:
        PictureFailed: the original holds an attribute that cannot be written as DICOM.
    """
    target = BytesIO()
    try:
        dcmwrite(target, dataset, enforce_file_format=True)
    except Exception as error:  # a value that breaks its VR makes pydicom raise anything
        raise PictureFailed(
            f"an attribute of the original cannot be written as DICOM ({type(error).__name__})"
        ) from error
    return target.getvalue()


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


def _write_pixels(dataset: Dataset, picture: DicomPicture, values: Values) -> None:
    layout = picture.layout
    words = layout.with_values(picture.words, values)
    pixel_data_vr = dataset["PixelData"].VR
    if not picture.is_native:
        pixel_data_vr = "OB" if layout.bits_allocated == 8 else "OW"
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.PhotometricInterpretation = (
            "RGB" if layout.samples == 3 else str(dataset.PhotometricInterpretation)
        )
        dataset.SamplesPerPixel = layout.samples
        if layout.samples == 3:
            dataset.PlanarConfiguration = 0
        dataset.BitsAllocated = layout.bits_allocated
        dataset.BitsStored, dataset.HighBit = layout.bits_stored, layout.high_bit
        dataset.PixelRepresentation = int(layout.signed)
        _delete(dataset, *_PALETTE, "ExtendedOffsetTable", "ExtendedOffsetTableLengths")
    dataset.PixelData = layout.pixel_data(words)
    dataset["PixelData"].VR = pixel_data_vr
    dataset["PixelData"].is_undefined_length = False
    for keyword, value in (
        ("SmallestImagePixelValue", int(values.min())),
        ("LargestImagePixelValue", int(values.max())),
    ):
        if keyword in dataset:
            setattr(dataset, keyword, value)


def _mark_as_derived(dataset: Dataset, method: str) -> None:
    now = datetime.now(UTC)
    for holder in _image_type_holders(dataset):
        keyword = "ImageType" if holder is dataset else "FrameType"
        kept = _values(holder.get(keyword))[2:]
        setattr(holder, keyword, ["DERIVED", "SECONDARY", *kept])
    dataset.DerivationDescription = method
    dataset.DerivationCodeSequence = Sequence(
        [
            *dataset.get("DerivationCodeSequence", []),
            _code("ADVWM", "99MIAD", "Visible adversarial watermark"),
        ]
    )
    _declare_scheme(dataset)
    dataset.ContributingEquipmentSequence = Sequence(
        [*dataset.get("ContributingEquipmentSequence", []), _equipment(now)]
    )
    dataset.InstanceCreationDate = now.strftime("%Y%m%d")
    dataset.InstanceCreationTime = now.strftime("%H%M%S")
    dataset.InstanceCreatorUID = CREATOR_UID


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


def _replace_uids(dataset: Dataset, new: dict[str, str], reference: Callable[[str], str]) -> None:
    """Put the new UIDs wherever, at any depth, the data set names its own old ones, and
    references in place of those of other instances and series."""
    for item in _all_items(dataset):
        for tag in list(item.keys()):
            element = _readable(item, tag)
            if element is None or element.VR != "UI":
                continue
            values = _values(element.value)
            refers = element.keyword in _REFERENCES and not (
                item is dataset and element.keyword == "SeriesInstanceUID"
            )
            replaced = [
                new.get(value) or (reference(value) if refers else value) if value else value
                for value in values
            ]
            if replaced != values:
                element.value = replaced if len(replaced) > 1 else replaced[0]


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
    for item in _all_items(dataset):
        _delete(
            item,
            "IconImageSequence",
            "DigitalSignaturesSequence",
            "MACParametersSequence",
            "SourceImageSequence",
        )


def _delete(dataset: Dataset, *keywords: str) -> None:
    for keyword in keywords:
        if keyword in dataset:
            delattr(dataset, keyword)


def _write_meta(meta: FileMetaDataset) -> None:
    meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    meta.ImplementationVersionName = f"MIAD {__version__}"[:16]


def _keep_syntax(dataset: Dataset, picture: DicomPicture) -> None:
    """Compress again where the original was compressed without loss and we can write it."""
    syntax = UID(picture.dataset.file_meta.TransferSyntaxUID)
    if picture.is_native or syntax not in _KEEPS_SYNTAX:
        return
    native = str(dataset.PhotometricInterpretation)
    if syntax == JPEG2000Lossless and native == "RGB":
        # RGB goes in, and this is what it becomes there (PS3.5 8.2.4).
        dataset.PhotometricInterpretation = "YBR_RCT"
    try:
        dataset.compress(syntax, generate_instance_uid=False)
    except (ValueError, RuntimeError, NotImplementedError):
        # Encoders refuse some layouts (16-bit RGB in RLE, say) before they change anything;
        # such a picture stays native.
        dataset.PhotometricInterpretation = native
