"""Lesion masks: read them, find those of a picture, and say which of its pixels are marked.

Masks that lie in the patient (DICOM SEG and RTSTRUCT, NIfTI, NRRD, MetaImage) are laid over a
picture by patient geometry, never by array index. PNG masks have no geometry: they belong to a
picture by name, and have its size.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from miad_cli.errors import MaskUnusable, PictureFailed
from miad_cli.imaging.dicom import LARGEST_DECODED, DicomPicture, is_dicom
from miad_cli.imaging.mask_objects import read_object
from miad_cli.imaging.mask_sources import (
    MaskSource,
    Misfit,
    NotAMask,
    OtherKind,
    Subject,
    VolumeMask,
    differing_sizes,
    marks_of,
)
from miad_cli.imaging.mask_volumes import read_volume, volume_kind
from miad_cli.imaging.raster import RasterPicture, raster_format, read_raster
from miad_cli.imaging.voxels import Marks

_HEAD = 1024

_PROMISING = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".png", ".dcm")
"""Names that promise a mask: one that is none is refused, in a folder too."""

_KINDS = (
    (b"%PDF", "a PDF file"), (b"PK\3\4", "a ZIP archive"), (b"GIF8", "a GIF picture"),
    (b"BM", "a BMP picture"), (b"\x89HDF", "an HDF5 file"), (b"\x1f\x8b", "a gzip file"),
    (b"<", "an XML file"), (b"{", "a JSON file"),
)  # fmt: skip

_MARKED = re.compile(r"(.+)_(?:mask|segmentation)(?:_\d+)?", re.IGNORECASE)
"""NAME_mask, NAME_segmentation; several of a picture as NAME_mask_1, NAME_mask_2."""

_FITTING_PNG = (
    "Name a PNG mask like its picture: NAME.png, NAME_mask.png or NAME_segmentation.png, "
    "in the same folders."
)


@dataclass(frozen=True, eq=False)
class Lesions:
    """What the masks mark in one picture.

    Attributes:
        pixels: (frames, rows, columns) bool; all False where the masks that belong to the
            picture mark nothing in it.
        source: the formats that it was read from, such as `DICOM SEG`.
    """

    pixels: Marks
    source: str


@dataclass(frozen=True, eq=False)
class Masks:
    """The masks of a run.

    Attributes:
        placed: those that lie in the patient.
        drawn: PNG files, as (path relative to the folder, path).
        is_one_file: a file was named, not a folder.
        digest: SHA-256 over all of them, to know them by when a run goes on.
    """

    placed: tuple[MaskSource, ...]
    drawn: tuple[tuple[PurePosixPath, Path], ...]
    is_one_file: bool
    digest: bytes = field(repr=False, default=b"")

    @property
    def of_no_patient(self) -> str:
        """The formats among them that name neither a patient nor a frame of reference."""
        kinds = (one.kind for one in self.placed if isinstance(one, VolumeMask))
        return " and ".join(dict.fromkeys(kinds))

    def lesions_on(self, picture: DicomPicture | RasterPicture, name: PurePosixPath) -> Lesions:
        """What is marked in a picture; `name` is its path relative to the input.

        Raises:
            MaskUnusable: no mask belongs to it, or one that does contradicts it.
        """
        shape = _shape_of(picture)
        may_scale = isinstance(picture, RasterPicture)
        found = [("PNG", _from_png(path, shape, may_scale)) for path in self._drawn_for(name)]
        misfits = []
        subject = Subject.of(picture) if isinstance(picture, DicomPicture) else None
        for source in self.placed if subject else ():
            marks = source.on(subject)  # type: ignore[arg-type]
            if not isinstance(marks, Misfit):
                found.append((source.kind, marks))
            elif marks.certain:
                raise MaskUnusable(marks.reason, hint="Export the mask again for this series.")
            else:
                misfits.append(marks)
        if not found:
            raise self._missing(misfits, subject is not None)
        pixels = np.any([marks for _, marks in found], axis=0)
        return Lesions(pixels, " + ".join(dict.fromkeys(kind for kind, _ in found)))

    def check_names(self, names: Iterable[PurePosixPath]) -> None:
        """Refuse PNG masks that would serve several of the pictures of a run.

        Raises:
            MaskUnusable: it cannot be told which of them a mask belongs to.
        """
        served: dict[Path, PurePosixPath] = {}
        for name in names:
            for path in self._drawn_for(name):
                other = served.setdefault(path, name)
                if other != name:
                    raise MaskUnusable(
                        f"{path.name}: it cannot be told whether this mask belongs to "
                        f"{other} or {name}",
                        hint="Put PNG masks into a folder that is laid out like the input.",
                    )

    @cached_property
    def _by_name(self) -> dict[str, list[tuple[tuple[str, ...], bool, Path]]]:
        """PNG masks under the names of pictures that they could belong to: folders, whether the
        name says that it is a mask, path."""
        index = defaultdict(list)
        for relative, path in self.drawn:
            stem, folders = relative.stem, relative.parent.parts
            index[stem].append((folders, False, path))
            marked = _MARKED.fullmatch(stem)
            if marked:
                index[marked[1]].append((folders, True, path))
        return index

    def _drawn_for(self, name: PurePosixPath) -> list[Path]:
        """The PNG masks of a picture: those that share most of its folders, and of these the ones
        that are named masks."""
        if self.is_one_file:
            return [path for _, path in self.drawn]
        ranked: dict[tuple[int, bool], list[tuple[tuple[str, ...], Path]]] = defaultdict(list)
        for key in dict.fromkeys((name.name, name.stem)):
            for folders, is_named, path in self._by_name.get(key, ()):
                shared = _shared_end(folders, name.parent.parts)
                if shared is not None:
                    ranked[shared, is_named].append((folders, path))
        if not ranked:
            return []
        best = ranked[max(ranked)]
        if len({folders for folders, _ in best}) > 1:
            raise MaskUnusable(
                "several masks in different folders have the name of this picture",
                hint="Lay the folder of masks out like the input.",
            )
        return [path for _, path in best]

    def _missing(self, misfits: list[Misfit], in_patient: bool) -> MaskUnusable:
        reasons = list(dict.fromkeys(misfit.reason for misfit in misfits))
        if self.placed and not in_patient:
            return MaskUnusable(
                "no PNG mask belongs to this picture, and other masks need a DICOM picture",
                hint=_FITTING_PNG,
            )
        if not reasons:
            return MaskUnusable("no mask belongs to this picture", hint=_FITTING_PNG)
        if len(misfits) == 1:
            reason = reasons[0]
        else:
            reason = f"none of {len(misfits)} masks fits; the first: {reasons[0]}"
        return MaskUnusable(
            reason, hint="Name a mask that covers the whole picture, or run without --mask."
        )


def read_masks(path: Path) -> Masks:
    """The masks in a file, or in a folder with everything below it.

    In a folder, whole files of other kinds are passed over: a picture for which there is no mask
    is refused when its turn comes.

    Raises:
        MaskUnusable: there is none, or one of them cannot be used.
    """
    if path.is_file():
        files = [(PurePosixPath(path.name), path)]
    elif path.is_dir():
        files = list(_files_in(path))
    else:
        raise MaskUnusable(f"{path}: no such file or folder", hint="Name the lesion masks.")
    placed, drawn, digest = [], [], hashlib.sha256()
    for relative, file in files:
        try:
            source = _read(file)
            digest.update(_digest_of(relative, file, source))
        except OtherKind as error:
            if path.is_dir():
                continue
            raise MaskUnusable(f"{file}: {error}", hint=_KNOWN) from None
        except NotAMask as error:
            raise MaskUnusable(f"{file}: not a usable mask: {error}", hint=_KNOWN) from None
        except OSError as error:
            raise MaskUnusable(f"{file}: cannot be read ({error.strerror})") from None
        if source is None:
            drawn.append((relative, file))
        else:
            placed.append(source)
    if not placed and not drawn:
        raise MaskUnusable(f"{path}: there is no mask in this folder", hint=_KNOWN)
    return Masks(tuple(placed), tuple(drawn), path.is_file(), digest.digest())


_KNOWN = "Masks are DICOM SEG or RTSTRUCT, NIfTI, NRRD, MHA and PNG files."


def _files_in(folder: Path) -> Iterator[tuple[PurePosixPath, Path]]:
    """Regular files below a folder, in a stable order; neither hidden ones nor links."""

    def refuse(error: OSError) -> None:
        raise MaskUnusable(f"{folder}: a folder cannot be read ({error.strerror})")

    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders.sort()
        for name in sorted(names):
            path = Path(parent, name)
            if not name.startswith(".") and path.is_file() and not path.is_symlink():
                yield PurePosixPath(path.relative_to(folder).as_posix()), path


def _read(path: Path) -> MaskSource | None:
    """The mask in a file; None for a PNG, which is read with its picture.

    Raises:
        NotAMask, OSError: there is none.
    """
    with path.open("rb") as stream:
        head = stream.read(_HEAD)
    if path.stat().st_size > LARGEST_DECODED:
        raise NotAMask(f"the file is larger than {LARGEST_DECODED >> 20} MiB")
    if raster_format(head) == "png":
        return None
    if is_dicom(head):
        return read_object(path.read_bytes())
    kind = volume_kind(head)
    if kind:
        return read_volume(path, kind)
    if path.name.lower().endswith(_PROMISING) and not raster_format(head):
        raise NotAMask("its content is not what its name says")
    raise OtherKind(f"{_kind_of(head)}, not a mask")


def _kind_of(head: bytes) -> str:
    known = raster_format(head)
    if known:
        return f"a {known.upper()} picture"
    if not head:
        return "an empty file"
    return next((kind for start, kind in _KINDS if head.startswith(start)), "an unknown file")


def _digest_of(relative: PurePosixPath, path: Path, source: MaskSource | None) -> bytes:
    with path.open("rb") as stream:
        content = hashlib.file_digest(stream, "sha256")
    if isinstance(source, VolumeMask):  # a header may stand apart from its values
        content.update(np.packbits(source.voxels.marked).tobytes())
        content.update(source.voxels.corner.tobytes())
    return hashlib.sha256(relative.as_posix().encode()).digest() + content.digest()


def _shape_of(picture: DicomPicture | RasterPicture) -> tuple[int, int, int]:
    shown = picture.layout if isinstance(picture, DicomPicture) else picture.image
    return shown.frames, shown.rows, shown.columns


def _shared_end(folders: tuple[str, ...], other: tuple[str, ...]) -> int | None:
    """How many folders two paths have in common at their ends, where one is the end of the
    other; else None."""
    count = min(len(folders), len(other))
    same = not count or folders[-count:] == other[-count:]
    return count if same else None


def _from_png(path: Path, shape: tuple[int, int, int], may_scale: bool) -> Marks:
    """The marks of a PNG, for every frame of a picture: whatever is not black.

    Data sets publish pictures at several sizes and their masks at one, so for a picture without
    geometry (`may_scale`) one of another size and the same shape will do.

    Raises:
        MaskUnusable: it is no mask, or not of the picture's size.
    """
    try:
        marks = _png_marks(path.read_bytes())
    except OSError as error:
        raise MaskUnusable(f"its PNG mask cannot be read ({error.strerror})") from None
    except (PictureFailed, NotAMask) as error:
        raise MaskUnusable(f"its PNG mask cannot be used: {error}") from None
    rows, columns = shape[1:]
    if may_scale and marks.shape[0] * columns == marks.shape[1] * rows:
        marks = scaled_marks(marks, rows, columns)
    if marks.shape != shape[1:]:
        raise MaskUnusable(
            differing_sizes(marks.shape, shape[1:]), hint="Draw the mask on this very picture."
        )
    return np.broadcast_to(marks, shape)


def scaled_marks(marks: Marks, rows: int, columns: int) -> Marks:
    """(rows, columns) bool: marked is every pixel that covers a marked one, however little."""
    scaled = marks
    for axis, length in enumerate((rows, columns)):
        size = scaled.shape[axis]
        edges = np.arange(length + 1) * size
        first, last = edges[:-1] // length, -(-edges[1:] // length)
        count = np.cumsum(scaled, axis=axis, dtype=np.int64)
        count = np.concatenate([np.zeros_like(count.take([0], axis)), count], axis)
        scaled = count.take(last, axis) > count.take(first, axis)
    return scaled


def _png_marks(content: bytes) -> Marks:
    picture = read_raster(content)
    with Image.open(io.BytesIO(content)) as opened:
        palette = opened.getpalette() if opened.mode == "P" else None
        if palette:
            indices = np.unique(np.asarray(opened)).tolist()
            used = {tuple(palette[3 * index : 3 * index + 3]) for index in indices}
            if used <= {(0, 0, 0), (255, 255, 255)}:  # black and white, in whatever order
                return np.asarray(opened.convert("L")) > 0
            if any(palette[:3]):
                raise NotAMask("the first colour of its palette is not black")
            return np.asarray(opened) > 0
    samples = picture.image.stored[0]
    if (samples != samples[..., :1]).any():
        raise NotAMask("a picture in colour, not a mask")
    if picture.alpha is not None and (picture.alpha != picture.image.bounds[1]).any():
        raise NotAMask("parts of it are transparent, so it is not clear what is marked")
    return marks_of(samples[..., 0])
