"""Read lesion masks from DICOM objects: segmentations and radiotherapy structure sets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from pydicom import Dataset
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import UID

from miad_cli.errors import PictureFailed
from miad_cli.imaging.dicom import LARGEST_DECODED, read_attributes
from miad_cli.imaging.geometry import NoGeometry, Plane, Vectors, planes_of
from miad_cli.imaging.mask_sources import (
    ContourMask,
    NotAMask,
    OtherKind,
    SegmentFrame,
    SegmentMask,
    marks_of,
)
from miad_cli.imaging.voxels import Marks, Voxels

_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
_LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"
_STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"

_NO_LESION = (
    "EXTERNAL", "ORGAN", "AVOIDANCE", "BOLUS", "SUPPORT", "FIXATION", "CONTRAST_AGENT", "MARKER",
    "REGISTRATION", "ISOCENTER", "DOSE_REGION", "DOSE_MEASUREMENT", "IRRAD_VOLUME",
    "TREATED_VOLUME", "BRACHY_CHANNEL", "BRACHY_ACCESSORY", "BRACHY_SRC_APP",
    "BRACHY_CHNL_SHLD",
)  # fmt: skip
"""Interpreted types of a region (3006,00A4) that are no finding."""

_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
_FINEST = 0.5
"""Millimetres of a pixel in which contours are filled, where they are not too large for that."""

_MOST_PIXELS = 2048
"""Pixels along a side in which a contour is filled."""

_UNEVEN = 1.0
"""Millimetres by which the points of a planar contour may leave its plane."""

_LONE_SLAB = 1.0
"""Millimetres of thickness of a contour that has no neighbour and names none."""


def read_object(content: bytes) -> SegmentMask | ContourMask:
    """The mask in one DICOM file.

    Raises:
        OtherKind: it is another object.
        NotAMask: it is broken, or too large.
    """
    try:
        dataset = read_attributes(content)
        stored_as = dataset.file_meta.get("MediaStorageSOPClassUID")
        sop_class = UID(dataset.get("SOPClassUID") or stored_as or "")
        if sop_class in (_SEGMENTATION, _LABEL_MAP):
            return _segmentation(dataset)
        if sop_class == _STRUCTURE_SET:
            return _structure_set(dataset)
    except NotAMask:
        raise
    except PictureFailed as error:
        raise NotAMask(error.message) from None
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # decoders written in Rust panic past Exception
        raise NotAMask(f"broken DICOM ({type(error).__name__})") from None
    raise OtherKind(f"a DICOM object of the class {sop_class.name or 'unknown'}, not a mask")


# --- Segmentations ----------------------------------------------------------------------------


def _segmentation(dataset: Dataset) -> SegmentMask:
    frames = int(dataset.get("NumberOfFrames") or 1)
    _check_pixels(dataset, frames)
    if str(dataset.get("DimensionOrganizationType") or "").startswith("TILED"):
        raise NotAMask("a segmentation of a slide in tiles")
    groups = list(dataset.get("PerFrameFunctionalGroupsSequence") or ())
    shared = next(iter(dataset.get("SharedFunctionalGroupsSequence") or ()), Dataset())
    if len(groups) not in (0, frames):
        raise NotAMask("its functional groups are not as many as its frames")
    planes = planes_of(dataset)
    slabs = (None,) * frames if isinstance(planes, NoGeometry) else _as_thick_as_apart(planes)
    made = [
        SegmentFrame(plane, _slab(marked, plane), _shown(group) or _shown(shared))
        for marked, plane, group in zip(
            _marked_frames(dataset), slabs, groups or [Dataset()] * frames, strict=True
        )
    ]
    instances, series = _references(dataset)
    from_frames = {uid for frame in made for uid, _ in frame.shows}
    return SegmentMask(
        "DICOM SEG",
        str(dataset.get("FrameOfReferenceUID") or ""),
        tuple(made),
        frozenset(instances | from_frames),
        frozenset(series),
    )


def _check_pixels(dataset: Dataset, frames: int) -> None:
    rows, columns = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
    bits = int(dataset.get("BitsAllocated") or 0)
    if "PixelData" not in dataset or min(rows, columns, frames) < 1 or bits not in (1, 8, 16):
        raise NotAMask("a segmentation without usable pixels")
    if int(dataset.get("SamplesPerPixel") or 1) != 1:
        raise NotAMask("a segmentation in colour")
    count = rows * columns * frames
    size = count * max(bits, 8) // 8
    if size > LARGEST_DECODED:
        raise NotAMask(f"its header announces {size >> 20} MiB of pixels; the limit is 2048 MiB")
    needed = -(-count * bits // 8)
    encapsulated = UID(dataset.file_meta.TransferSyntaxUID).is_encapsulated
    if not encapsulated and len(dataset.PixelData) < needed:
        raise NotAMask(
            f"Pixel Data is cut short: {len(dataset.PixelData)} bytes where {needed} belong"
        )


def _marked_frames(dataset: Dataset) -> Iterator[Marks]:
    """(rows, columns) bool, frame by frame: any segment, any fraction above 0.

    In a label map the background may have another number than 0 (PS3.3 C.8.20.2).
    """
    background = dataset.get("PixelPaddingValue")
    for values in iter_pixels(dataset, raw=True):
        if dataset.get("SegmentationType") == "LABELMAP" and isinstance(background, int):
            yield values != background
        else:
            yield marks_of(values)


def _as_thick_as_apart(planes: Sequence[Plane]) -> tuple[Plane, ...]:
    """Planes as thick as they are apart where that is more: nothing of a lesion lies in a gap."""
    normal = planes[0].normal
    places = np.unique([round(float(plane.origin @ normal), 3) for plane in planes])
    step = float(np.diff(places).min()) if len(places) > 1 else 0.0
    thick = []
    for plane in planes:
        thickness = max(plane.thickness, plane.spacing)
        if thickness <= 0 or thickness < step <= 2 * thickness:
            thickness = step
        if thickness <= 0:
            raise NotAMask("its frames say nothing of their thickness")
        thick.append(replace(plane, thickness=thickness))
    return tuple(thick)


def _slab(marked: Marks, plane: Plane | None) -> Voxels:
    if plane is None:
        return Voxels.of(marked[None], np.zeros(3), np.eye(3), np.zeros(3))
    steps = np.column_stack([plane.steps, plane.normal * plane.thickness])
    return Voxels.of(marked[None], plane.origin, steps, np.array([0.5, 0.5, 0.0]))


def _shown(group: Dataset) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """The frames that a frame was made from (Derivation Image macro, PS3.3 C.7.6.16.2.6)."""
    shown = []
    for derivation in group.get("DerivationImageSequence") or ():
        for source in derivation.get("SourceImageSequence") or ():
            numbers = source.get("ReferencedFrameNumber")
            several = np.atleast_1d([] if numbers is None else numbers)
            uid = str(source.get("ReferencedSOPInstanceUID") or "")
            shown.append((uid, tuple(int(number) for number in several)))
    return tuple(shown)


def _references(dataset: Dataset) -> tuple[set[str], set[str]]:
    """SOP and Series Instance UIDs of what was segmented (PS3.3 C.12.4)."""
    instances, series = set(), set()
    for one in dataset.get("ReferencedSeriesSequence") or ():
        series.add(str(one.get("SeriesInstanceUID") or ""))
        for instance in one.get("ReferencedInstanceSequence") or ():
            instances.add(str(instance.get("ReferencedSOPInstanceUID") or ""))
    for source in dataset.get("SourceImageSequence") or ():
        instances.add(str(source.get("ReferencedSOPInstanceUID") or ""))
    return instances - {""}, series - {""}


# --- Structure sets ---------------------------------------------------------------------------


def _structure_set(dataset: Dataset) -> ContourMask:
    """All regions that are not said to be something else than a finding, each filled."""
    spaces = {
        int(roi.ROINumber): str(roi.get("ReferencedFrameOfReferenceUID") or "")
        for roi in dataset.get("StructureSetROISequence") or ()
    }
    kinds = {
        int(seen.ReferencedROINumber): str(seen.get("RTROIInterpretedType") or "").upper()
        for seen in dataset.get("RTROIObservationsSequence") or ()
    }
    slabs: list[Voxels] = []
    used = set()
    for region in dataset.get("ROIContourSequence") or ():
        number = int(region.ReferencedROINumber)
        if kinds.get(number, "") in _NO_LESION:
            continue
        used.add(spaces.get(number, ""))
        slabs += _filled(region)
    if not slabs:
        raise NotAMask("a structure set without a closed contour of a finding")
    if len(used) != 1 or "" in used:
        raise NotAMask("a structure set that does not name one frame of reference")
    return ContourMask("DICOM RTSTRUCT", used.pop(), tuple(slabs))


def _filled(region: Dataset) -> Iterator[Voxels]:
    """The slabs of one region, each as thick as its contours are apart."""
    contours = []
    for contour in region.get("ContourSequence") or ():
        points = np.array(contour.get("ContourData") or (), dtype=np.float64)
        if contour.get("ContourGeometricType") not in _CLOSED or len(points) < 9:
            continue
        points = points.reshape(-1, 3)
        if not (np.abs(points) < 1e5).all():
            raise NotAMask("a structure set with points that are no numbers")
        normal = _normal(points)
        if normal is not None:
            given = float(contour.get("ContourSlabThickness") or 0)
            contours.append((points, normal, given))
    places = np.unique([round(float(points[0] @ normal), 2) for points, normal, _ in contours])
    step = float(np.diff(places).min()) if len(places) > 1 else _LONE_SLAB
    for points, normal, given in contours:
        yield _filled_contour(points, normal, max(given, step))


def _normal(points: Vectors) -> Vectors | None:
    """Of the plane of a polygon (Newell), towards the head; None where it has no area."""
    following = np.roll(points, -1, axis=0)
    summed: Vectors = np.cross(points, following).sum(axis=0) / 2
    area = float(np.linalg.norm(summed))
    if area < 1e-3:
        return None
    normal = summed / area
    if np.abs((points - points.mean(axis=0)) @ normal).max() > _UNEVEN:
        raise NotAMask("a structure set with closed contours that are not planar")
    largest = normal[int(np.argmax(np.abs(normal)))]
    return normal if largest > 0 else -normal


def _filled_contour(points: Vectors, normal: Vectors, thickness: float) -> Voxels:
    """A contour as pixels of its plane, its line and a pixel around it included; holes too."""
    across = np.cross((0.0, 1.0, 0.0) if abs(normal[1]) < 0.9 else (0.0, 0.0, 1.0), normal)
    across /= np.linalg.norm(across)
    down = np.cross(normal, across)
    flat = np.column_stack([points @ across, points @ down])
    low = flat.min(axis=0)
    side = max(_FINEST, float((flat.max(axis=0) - low).max()) / _MOST_PIXELS)
    placed = (flat - low) / side + 2
    width, height = (int(length) + 4 for length in np.ceil(placed.max(axis=0)))
    picture = Image.new("L", (width, height))
    ImageDraw.Draw(picture).polygon([(x, y) for x, y in placed], fill=1, outline=1)
    marked = np.asarray(picture.filter(ImageFilter.MaxFilter(3))) > 0
    middle = float((points @ normal).mean())
    corner = low - 2 * side
    origin = across * corner[0] + down * corner[1] + normal * middle
    steps = np.column_stack([across * side, down * side, normal * thickness])
    return Voxels.of(marked[None], origin, steps, np.zeros(3))
