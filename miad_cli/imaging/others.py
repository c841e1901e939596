"""Copy a DICOM object without a picture (SR, KO, PR, SEG, RT, ECG …) under UIDs of its own.

A copy must not lead back to the originals: its UIDs and those it refers to follow the protected
instances, and where an original UID would be left in it, or where nobody can look inside, the
object is refused.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator, Set
from datetime import UTC, datetime

from pydicom import DataElement, Dataset
from pydicom.uid import (
    PYDICOM_IMPLEMENTATION_UID,
    UID,
    DeflatedExplicitVRLittleEndian,
    RawDataStorage,
)

from miad_cli import __version__
from miad_cli.errors import PictureFailed
from miad_cli.imaging.derivation import CREATOR_UID, NO_DATA, encode_instance
from miad_cli.imaging.dicom import NoPicture, read_dataset, read_dicom
from miad_cli.imaging.structure import read_file_meta

_KEPT = ("StudyInstanceUID", "FrameOfReferenceUID", "ReferencedFrameOfReferenceUID")
"""UIDs that the protected instances keep as well."""

_NAMES_INSTANCES = (
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "ReferencedSOPInstanceUID",
    "SOPInstanceUIDOfConcatenationSource",
    "MediaStorageSOPInstanceUID",
    "FailedSOPInstanceUIDList",
)
"""UIDs of instances and series, whether those are in the study or not."""

_DROPPED = ("IconImageSequence", "DigitalSignaturesSequence", "MACParametersSequence")
"""An icon shows the original; a signature is over what is no longer so."""

_SHORTEST = 5
"""Characters of the shortest UID that is looked for; shorter ones are no UIDs of an instance."""

_REFUSED = "it cannot be copied without leading back to the originals"
_HINT = "Leave --copy-others away, or leave this file out of the input."


def copy_other(
    content: bytes, new_uid: Callable[[str], str], originals: Set[str] = frozenset()
) -> bytes:
    """The file of the copy.

    Args:
        content: a DICOM file without a picture to protect.
        new_uid: what stands for the UID of an instance or a series; the protected one's for what
            was protected, and always the same for the same UID, so that copies that refer to each
            other still do.
        originals: SOP and Series Instance UIDs of everything in the input. The object's own and
            those it refers to need not be among them.

    Raises:
        PictureFailed: it holds a picture, is of a kind that nobody can look through, would still
            hold an original UID, or cannot be read or written.
    """
    found = read_dicom(content)
    if not isinstance(found, NoPicture):
        raise PictureFailed("it holds a picture, which is to be protected and not copied")
    try:
        dataset = read_dataset(content)
        _refuse_opaque(dataset)
        leaving = _rewrite(dataset, new_uid, originals)
    except PictureFailed:
        raise
    except Exception as error:  # a broken file makes pydicom raise anything
        raise PictureFailed(f"broken DICOM structure ({type(error).__name__})", _HINT) from None
    dataset.InstanceCreatorUID = CREATOR_UID
    now = datetime.now(UTC)
    dataset.InstanceCreationDate = now.strftime("%Y%m%d")
    dataset.InstanceCreationTime = now.strftime("%H%M%S")
    copy = encode_instance(dataset)
    _refuse_traces(copy, dataset, leaving)
    return copy


def _refuse_opaque(dataset: Dataset) -> None:
    """Refuse what can hold an original, or its UID, where it would not be seen."""
    sop_class = UID(dataset.get("SOPClassUID") or "")
    meta_class = dataset.file_meta.get("MediaStorageSOPClassUID")
    if "DirectoryRecordSequence" in dataset or str(meta_class) == "1.2.840.10008.1.3.10":
        raise PictureFailed("a DICOMDIR is made anew, not copied")
    if sop_class == RawDataStorage:
        raise PictureFailed("raw data, of which the original picture can be made again", _HINT)
    if sop_class.is_private or not sop_class:
        raise PictureFailed("an object of a private kind, which can hold anything", _HINT)
    if "EncapsulatedDocument" in dataset:
        raise PictureFailed(
            "an encapsulated document, which can show the original and which nobody looks through",
            _HINT,
        )
    for item in _all_items(dataset):
        if "EncryptedAttributesSequence" in item:
            raise PictureFailed("it holds encrypted attributes, which nobody can look into", _HINT)


def _rewrite(dataset: Dataset, new_uid: Callable[[str], str], originals: Set[str]) -> set[str]:
    """Put new UIDs wherever instances and series are named; the ones that stood there."""
    if not dataset.get("SOPInstanceUID"):
        raise PictureFailed("it does not say which instance it is", _HINT)
    for tag in list(dataset.keys()):
        if tag >> 16 in NO_DATA:
            del dataset[tag]
    for item in _all_items(dataset):
        for keyword in _DROPPED:
            if keyword in item:
                delattr(item, keyword)
    elements = list(_uid_elements(dataset))
    named = {
        value
        for element in elements
        if element.keyword in _NAMES_INSTANCES
        for value in _values(element.value)
    }
    leaving = (named | originals) - _kept_uids(dataset)
    for element in elements:
        values = _values(element.value)
        if element.keyword not in _KEPT and leaving.intersection(values):
            new = [new_uid(value) if value in leaving else value for value in values]
            element.value = new if len(new) > 1 else new[0]
    meta = dataset.file_meta
    meta.MediaStorageSOPInstanceUID = UID(dataset.SOPInstanceUID)
    meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    meta.ImplementationVersionName = f"MIAD {__version__}"[:16]
    for keyword in ("SourceApplicationEntityTitle", "PrivateInformation"):
        if keyword in meta:
            delattr(meta, keyword)
    return leaving


def _kept_uids(dataset: Dataset) -> set[str]:
    """The study's UID stays, also where a reference to the study names it as an instance."""
    return {str(dataset.get("StudyInstanceUID") or "")} - {""}


def _all_items(dataset: Dataset) -> Iterator[Dataset]:
    """The data set and every sequence item below it."""
    waiting = [dataset]
    while waiting:
        item = waiting.pop()
        yield item
        for tag in list(item.keys()):
            if item.get_item(tag).VR in (None, "SQ", "UN") and item[tag].VR == "SQ":
                waiting.extend(item[tag].value)


def _uid_elements(dataset: Dataset) -> Iterator[DataElement]:
    """Every element with UIDs in it, at any depth."""
    for item in _all_items(dataset):
        for tag in list(item.keys()):
            if item.get_item(tag).VR in (None, "UI", "UN"):
                element = item[tag]
                if element.VR == "UI" and element.value:
                    yield element


def _values(value: object) -> list[str]:
    return [str(value)] if isinstance(value, str) else [str(one) for one in value]  # type: ignore[attr-defined]


def _refuse_traces(copy: bytes, dataset: Dataset, originals: Set[str]) -> None:
    """Refuse a copy in which an original UID stands: in text, in private or unreadable elements.

    What is looked through is the file as it is written, so nothing is left out. A UID that was
    kept can be longer than an original one and begin like it; such places are no trace.
    """
    seen = _inflated(copy)
    for kept in _longer_uids(dataset, originals):
        seen = seen.replace(kept, b"\0" * len(kept))
    wanted = {one.encode("ascii", "replace") for one in originals if len(one) >= _SHORTEST}
    lengths = sorted({len(one) for one in wanted})
    runs = re.finditer(rb"[0-9.]{%d,}" % lengths[0], seen) if lengths else ()
    for run in (found.group() for found in runs):
        for length in lengths:
            if any(run[at : at + length] in wanted for at in range(len(run) - length + 1)):
                raise PictureFailed(
                    f"{_REFUSED}: a UID of theirs stands in a text or a private element of it",
                    _HINT,
                )


def _longer_uids(dataset: Dataset, originals: Set[str]) -> list[bytes]:
    """UIDs in the copy that are no original ones and hold one all the same."""
    values = {one for element in _uid_elements(dataset) for one in _values(element.value)}
    longer = {value for value in values - originals if any(one in value for one in originals)}
    return [value.encode("ascii", "replace") for value in sorted(longer, key=len, reverse=True)]


def _inflated(content: bytes) -> bytes:
    """The file with its data set inflated where that is deflated (PS3.5 A.5)."""
    meta = read_file_meta(content)
    if meta is None or meta.transfer_syntax != DeflatedExplicitVRLittleEndian:
        return content
    return content[: meta.end] + zlib.decompress(content[meta.end :], -zlib.MAX_WBITS)
