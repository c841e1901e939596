"""The same pixels in another transfer syntax, for a PACS that refuses the one a file has."""

from __future__ import annotations

from io import BytesIO

from pydicom import dcmread, dcmwrite
from pydicom.uid import UID

from miad_cli.errors import PictureFailed
from miad_cli.imaging.dicom import DicomPicture, read_dicom
from miad_cli.imaging.picture import container_in, identify
from miad_cli.pacs.wire import IMPLICIT_LITTLE

EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
_EXPLICIT_BIG = "1.2.840.10008.1.2.2"

FALLBACKS = (EXPLICIT_LITTLE, IMPLICIT_LITTLE)
"""What is offered where a syntax is refused; every PACS takes the last (PS3.5 10.1)."""


def transcoded(content: bytes, transfer_syntax_uid: str) -> bytes:
    """A file of PS3.10 with the same pixels, attributes and container, uncompressed.

    Raises:
        PictureFailed: that is not possible without loss.
    """
    before = _picture(content)
    dataset = dcmread(BytesIO(content))
    source, target = UID(dataset.file_meta.TransferSyntaxUID), UID(transfer_syntax_uid)
    if source == _EXPLICIT_BIG:
        raise PictureFailed("big endian pixels are not sent in another encoding")
    try:
        if source.is_compressed and source.is_encapsulated:
            dataset.decompress(generate_instance_uid=False)
        dataset.file_meta.TransferSyntaxUID = target
        written = BytesIO()
        dcmwrite(
            written,
            dataset,
            enforce_file_format=True,
            implicit_vr=target.is_implicit_VR,
            little_endian=True,
        )
    except Exception as error:  # decoders and encoders raise without a common base
        raise PictureFailed(f"it cannot be decoded for sending ({type(error).__name__})") from None
    after = _picture(written.getvalue())
    same = identify(before), identify(after)
    if (
        same[0].pixels_sha256 != same[1].pixels_sha256
        or same[0].attributes_sha256 != same[1].attributes_sha256
        or same[0].subject != same[1].subject
        or container_in(before) != container_in(after)
    ):
        raise PictureFailed("in another encoding it would not be the same picture")
    return written.getvalue()


def _picture(content: bytes) -> DicomPicture:
    picture = read_dicom(content)
    if not isinstance(picture, DicomPicture):
        raise PictureFailed("it holds no picture")
    return picture
