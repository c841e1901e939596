"""Read lesion masks from NIfTI, NRRD and MetaImage files.

SimpleITK reads them, and brings the right-to-left coordinates of NIfTI to those of DICOM. What it
would guess (a file that names no place in the patient) or follow (a header that names another file)
is refused before it is asked.
"""

from __future__ import annotations

import gzip
import math
import re
import shutil
import struct
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from miad_cli.imaging.dicom import LARGEST_DECODED
from miad_cli.imaging.geometry import Vectors
from miad_cli.imaging.mask_sources import NotAMask, VolumeMask, marks_of
from miad_cli.imaging.voxels import Voxels

_HEADER = 1 << 16
"""Bytes in which a text header must end."""

_FARTHEST = 1e5
"""Millimetres beyond which a coordinate is no place in a patient."""

_SAME_PLACE = 0.5
"""Voxels by which the two positions that a NIfTI file may give can differ."""

_SUFFIXES = {"NIfTI": ".nii", "NRRD": ".nrrd", "MetaImage": ".mha"}
_PATIENT_SPACES = (
    "left-posterior-superior", "lps", "right-anterior-superior", "ras", "left-anterior-superior",
    "las",
)  # fmt: skip


def volume_kind(head: bytes) -> str | None:
    """`NIfTI`, `NRRD` or `MetaImage` by the first 1024 bytes of a file, else None."""
    start = inflated_head(head)
    if start[344:348] in (b"n+1\0", b"ni1\0") or start[4:8] in (b"n+2\0", b"ni2\0"):
        return "NIfTI"
    if head.startswith(b"NRRD000"):
        return "NRRD"
    if re.search(rb"^[ \t]*NDims[ \t]*=", head, re.MULTILINE):
        return "MetaImage"
    return None


def inflated_head(head: bytes) -> bytes:
    """The beginning of what a gzip file holds, from its own first bytes; others unchanged."""
    if not head.startswith(b"\x1f\x8b"):
        return head
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, 1024)
    except zlib.error:
        return head


def read_volume(path: Path, kind: str) -> VolumeMask:
    """The mask in one file of a kind that `volume_kind` names.

    Raises:
        NotAMask: it holds no mask, or does not say where in the patient it lies.
        OSError: it cannot be read.
    """
    if kind == "NRRD":
        _check_nrrd(path)
    # SimpleITK cannot open names in every script, and chooses the format by the suffix.
    with tempfile.TemporaryDirectory(prefix="miad-") as folder, _quietly() as simpleitk:
        copy = _copied(path, kind, Path(folder))
        given = _nifti_positions(copy) if kind == "NIfTI" else []
        reader = simpleitk.ImageFileReader()
        reader.SetFileName(str(copy))
        reader.ReadImageInformation()
        _check_header(reader)
        for position in given:
            _compare(reader, _geometry(reader), position)
        image = reader.Execute()
        marks = marks_of(simpleitk.GetArrayViewFromImage(image))
        origin, steps = _geometry(image)
    return VolumeMask(kind, Voxels.of(marks, origin, steps, np.full(3, 0.5)))


def _copied(path: Path, kind: str, folder: Path) -> Path:
    """The file under a plain name, with the file that holds its values where that is another."""
    if kind == "NIfTI":
        copy = folder / "mask.nii"
        _unpack(path, copy)
        return copy
    if kind != "MetaImage":
        return Path(shutil.copyfile(path, folder / f"mask{_SUFFIXES[kind]}"))
    named = _data_file(path)
    if named is None:
        return Path(shutil.copyfile(path, folder / "mask.mha"))
    header = path.read_bytes()[:_HEADER]
    suffix = ".zraw" if named.endswith(".zraw") else ".raw"
    plain = re.sub(
        rb"^([ \t]*ElementDataFile[ \t]*=).*$",
        b"\\1 mask" + suffix.encode(), header, flags=re.MULTILINE,
    )  # fmt: skip
    shutil.copyfile(path.parent / named, folder / f"mask{suffix}")
    (folder / "mask.mhd").write_bytes(plain)
    return folder / "mask.mhd"


def _unpack(path: Path, copy: Path) -> None:
    """Copy a file; what gzip packed is unpacked, up to the size that a mask may have."""
    with path.open("rb") as stream, copy.open("wb") as target:
        packed = stream.read(2) == b"\x1f\x8b"
        stream.seek(0)
        source: BinaryIO = gzip.GzipFile(fileobj=stream) if packed else stream  # type: ignore[assignment]
        size = 0
        while block := source.read(1 << 20):
            size += len(block)
            if size > LARGEST_DECODED + _HEADER:
                raise NotAMask(f"it unpacks to more than {LARGEST_DECODED >> 20} MiB")
            target.write(block)


def _nifti_positions(path: Path) -> list[Vectors]:
    """The one or two (3, 4) from voxel to millimetres that a NIfTI file gives, left to right.

    SimpleITK passes over what nifti1.h asks for: it fills missing voxels with zeros, makes up a
    position where there is none, and takes one of two that differ.
    """
    with path.open("rb") as stream:
        header = stream.read(348)
    if header[344:348] != b"n+1\0":
        raise NotAMask("only NIfTI-1 in one file is read; save it as .nii or .nii.gz")
    order = "<" if struct.unpack_from("<i", header)[0] == 348 else ">"

    def numbers(kind: str, offset: int, count: int) -> Any:
        return struct.unpack_from(f"{order}{count}{kind}", header, offset)

    lengths, quaternion, rows = numbers("f", 76, 4), numbers("f", 256, 6), numbers("f", 280, 12)
    start = numbers("f", 108, 1)
    if not np.isfinite([*lengths, *quaternion, *rows, *start]).all():
        raise NotAMask("its position, direction or spacing is unusable")
    size = numbers("h", 40, 8)
    if not 1 <= size[0] <= 7 or min(size[1 : size[0] + 1]) < 1:
        raise NotAMask("its header names no usable size")
    needed = int(start[0]) + math.prod(size[1 : size[0] + 1]) * numbers("h", 72, 1)[0] // 8
    if path.stat().st_size < needed <= LARGEST_DECODED:
        raise NotAMask(f"it is cut short: {path.stat().st_size} bytes where {needed} belong")
    if header[123] & 7 not in (0, 2):
        raise NotAMask("its lengths are not in millimetres")
    codes = numbers("h", 252, 2)
    if not any(codes):
        raise NotAMask("it does not say where in the patient it lies (qform and sform code 0)")
    if any(code not in (0, 1, 2) for code in codes):
        raise NotAMask("it lies in the space of a template, not in the patient")
    given = (_from_quaternion(lengths, quaternion), np.array(rows).reshape(3, 4))
    return [position for code, position in zip(codes, given, strict=True) if code]


def _data_file(path: Path) -> str | None:
    """The file beside a MetaImage header that holds its values; None where they follow it.

    Raises:
        NotAMask: it is elsewhere or several files, or the header names no place in the patient.
    """
    with path.open("rb") as stream:
        head = stream.read(_HEADER)
    found: dict[bytes, bytes] = dict(
        re.findall(rb"^[ \t]*(\w+)[ \t]*=[ \t]*(.*?)[ \t\r]*$", head, re.MULTILINE)
    )
    if not {b"Offset", b"Origin", b"Position"} & set(found):
        raise NotAMask("it does not say where in the patient it lies (no Offset)")
    if not {b"TransformMatrix", b"Orientation", b"Rotation"} & set(found):
        raise NotAMask("it does not say how it lies in the patient (no TransformMatrix)")
    named = found.get(b"ElementDataFile", b"").decode("utf-8", "replace")
    if named.upper() == "LOCAL":
        return None
    if named in ("", ".", "..") or re.search(r"[/\\%:\0]", named) or named.upper() == "LIST":
        raise NotAMask("its values must be in one file beside it")
    data = path.parent / named
    if data.is_symlink() or not data.is_file():
        raise NotAMask("the file with its values is not beside it")
    return named


def _check_nrrd(path: Path) -> None:
    with path.open("rb") as stream:
        head = re.split(rb"\r?\n\r?\n", stream.read(_HEADER), maxsplit=1)[0]
    lines = [line.strip().lower() for line in head.decode("latin-1").splitlines()]
    fields = dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))
    if "data file" in fields or "datafile" in fields:
        raise NotAMask("its values lie in another file; save it as one .nrrd file")
    space = fields.get("space", "").strip()
    if space not in _PATIENT_SPACES or "space origin" not in fields:
        raise NotAMask("it does not say where in the patient it lies (space, space origin)")


def _check_header(reader: Any) -> None:
    """Before anything is allocated."""
    size, dimensions = reader.GetSize(), reader.GetDimension()
    if dimensions != 3:
        raise NotAMask(f"it has {dimensions} dimensions where 3 belong")
    if reader.GetNumberOfComponents() != 1:
        raise NotAMask("it has several values for each voxel (colour, or vectors)")
    bits = re.search(r"(\d+)-bit", _type_name(reader))
    needed = int(np.prod([int(length) for length in size])) * int(bits[1] if bits else 64) // 8
    if needed > LARGEST_DECODED:
        raise NotAMask(f"its header announces {needed >> 20} MiB of voxels; the limit is 2048 MiB")


def _type_name(reader: Any) -> str:
    import SimpleITK

    return str(SimpleITK.GetPixelIDValueAsString(reader.GetPixelID()))  # type: ignore[no-untyped-call]


def _from_quaternion(lengths: tuple[float, ...], quaternion: tuple[float, ...]) -> Vectors:
    """(3, 4) by method 2 of nifti1.h, from pixdim 0 to 3 and quatern and qoffset."""
    b, c, d = quaternion[:3]
    a = np.sqrt(max(0.0, 1 - b * b - c * c - d * d))
    rotation = np.array([
        [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
        [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
        [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
    ])  # fmt: skip
    spacing = np.array(lengths[1:]) * (1, 1, -1 if lengths[0] < 0 else 1)
    return np.column_stack([rotation * spacing, quaternion[3:]])


def _compare(reader: Any, read: tuple[Vectors, Vectors], named: Vectors) -> None:
    """Refuse a NIfTI file whose corners lie elsewhere after a position that it gives."""
    origin, steps = read
    ends = np.array(reader.GetSize(), dtype=np.float64) - 1
    corners = np.array([ends * which for which in np.ndindex(2, 2, 2)])
    ours = origin + corners @ steps.T
    theirs = (named[:, 3] + corners @ named[:, :3].T) * (-1, -1, 1)
    apart = np.linalg.norm(ours - theirs, axis=1).max()
    if not apart <= _SAME_PLACE * np.linalg.norm(steps, axis=0).min():
        raise NotAMask(f"it gives two positions (qform and sform) that are {apart:.1f} mm apart")


def _geometry(image: Any) -> tuple[Vectors, Vectors]:
    """Origin and steps, mm, LPS; of an image or of the reader that has read its header."""
    origin = np.array(image.GetOrigin(), dtype=np.float64)
    directions = np.array(image.GetDirection(), dtype=np.float64).reshape(3, 3)
    spacing = np.array(image.GetSpacing(), dtype=np.float64)
    steps = directions * spacing
    reach = np.abs(origin) + np.abs(steps) @ np.array(image.GetSize(), dtype=np.float64)
    usable = bool((reach < _FARTHEST).all()) and bool((spacing > 0).all())
    if not usable or abs(np.linalg.det(directions)) < 0.1:
        raise NotAMask("its position, direction or spacing is unusable")
    return origin, steps


@contextmanager
def _quietly() -> Iterator[Any]:
    """SimpleITK without its warnings on stderr; its errors, which name paths, become NotAMask."""
    import SimpleITK

    shown = SimpleITK.ProcessObject.GetGlobalWarningDisplay()  # type: ignore[no-untyped-call]
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)  # type: ignore[no-untyped-call]
    try:
        yield SimpleITK
    except (RuntimeError, ValueError, EOFError, zlib.error, gzip.BadGzipFile, MemoryError) as error:
        kind = type(error).__name__
        raise NotAMask(f"it is damaged, or of a kind that cannot be read ({kind})") from None
    finally:
        SimpleITK.ProcessObject.SetGlobalWarningDisplay(shown)  # type: ignore[no-untyped-call]
