"""How stored values are shown: window, polarity, padding and the shape of a pixel.

What a viewer does with a value is a chain (PS3.3 C.11.1, C.11.2, C.7.6.3.1.2): modality table or
rescale, then window or VOI table, then the photometric interpretation. A logo is blended into
stored values, so the chain is described here by the one thing that blending needs: a window in
stored values. Where frames differ (Enhanced objects) the key frame's chain counts for all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.multival import MultiValue

from miad_cli.imaging.image import Window, percentile_window, window_of
from miad_cli.imaging.words import Values, WordLayout

Numbers = NDArray[np.float64]

_FOOT, _SHOULDER = 0.05, 0.95
"""Where a curve is measured: the line through these two points stands for it."""

_SIGMOID = math.log(_SHOULDER / _FOOT) / 4 / (_SHOULDER - _FOOT)
"""Half the width of the line that stands for a sigmoid of width 1 (PS3.3 C.11.2.1.3.1)."""

_LARGEST_TABLE = 1 << 16

_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")


def display_window(
    dataset: Dataset, layout: WordLayout, values: Values, frame: int
) -> tuple[Window, bool]:
    """The stored values shown as black and as white, and whether low values are bright.

    In this order: the first window that can be used, in the data set or in the functional groups
    of `frame`; the first VOI table; the 0.5 to 99.5 percentile of what is no padding. A window
    has the LINEAR, LINEAR_EXACT or SIGMOID function. What is no straight line, a table or a
    sigmoid, is taken for the line through the points where it passes 5 % and 95 %.
    Colour is shown over its whole range.
    """
    inverted = str(dataset.PhotometricInterpretation) == "MONOCHROME1"
    if layout.samples > 1:
        return Window(*layout.bounds), inverted
    found = _through_tables(dataset, layout, values, frame)
    if found is None:
        found = _through_rescale(dataset, frame)
    window, falls = found
    if window is None:
        window = percentile_window(values, padding_range(dataset, layout))
    return window, inverted != falls


def padding_range(dataset: Dataset, layout: WordLayout) -> tuple[int, int] | None:
    """Pixel Padding Value and Range Limit (PS3.3 C.7.5.1.1.2) as an inclusive range.

    Some writers give them the wrong sign for the pixels; what fits the bits is meant.
    """
    if layout.samples > 1:
        return None
    value = _padding_value(dataset.get("PixelPaddingValue"), layout)
    if value is None:
        return None
    limit = _padding_value(dataset.get("PixelPaddingRangeLimit"), layout)
    first, last = sorted((value, value if limit is None else limit))
    return first, last


def pixel_aspect(dataset: Dataset, frame: int) -> float:
    """Height of a pixel over its width, as it is to be shown; 1 where nothing usable is said."""
    measures = _group(dataset, "PixelMeasuresSequence", frame)
    for holder, keywords in ((dataset, _SPACINGS), (measures, _SPACINGS)):
        for keyword in keywords:
            aspect = _ratio(holder.get(keyword)) if holder is not None else None
            if aspect:
                return aspect
    return _ratio(dataset.get("PixelAspectRatio")) or 1.0


def _ratio(value: Any) -> float | None:
    """The first number of two over the second, where that can be the shape of a pixel."""
    height, width = _numbers(value)[:2] if len(_numbers(value)) == 2 else (0.0, 0.0)
    usable = height > 0 and width > 0 and 0.1 <= height / width <= 10
    return height / width if usable else None


def _padding_value(value: Any, layout: WordLayout) -> int | None:
    if not isinstance(value, int):
        return None
    low, high = layout.bounds
    meant = (value, value - (1 << 16), value + (1 << 16))
    return next((one for one in meant if low <= one <= high), None)


def _through_rescale(dataset: Dataset, frame: int) -> tuple[Window | None, bool]:
    """The window in stored values (None: there is none to use), and whether the slope falls."""
    slope, intercept = _rescale(dataset, frame)
    if slope == 0:
        return None, False
    for low, high in _windows(dataset, frame):
        return window_of((low - intercept) / slope, (high - intercept) / slope), slope < 0
    return None, slope < 0


def _rescale(dataset: Dataset, frame: int) -> tuple[float, float]:
    holder = _group(dataset, "PixelValueTransformationSequence", frame)
    for one in (holder, dataset):
        if one is not None and _numbers(one.get("RescaleSlope")):
            intercept = _numbers(one.get("RescaleIntercept"))
            return _numbers(one.RescaleSlope)[0], intercept[0] if intercept else 0.0
    return 1.0, 0.0


def _windows(dataset: Dataset, frame: int) -> Iterator[tuple[float, float]]:
    """The usable windows in modality units, (black, white)."""
    for holder in (_group(dataset, "FrameVOILUTSequence", frame), dataset):
        if holder is None:
            continue
        function = str(holder.get("VOILUTFunction") or "LINEAR").strip().upper()
        centres, widths = (_numbers(holder.get(key)) for key in ("WindowCenter", "WindowWidth"))
        for centre, width in zip(centres, widths, strict=False):
            if function == "SIGMOID" and width > 0:
                yield centre - _SIGMOID * width, centre + _SIGMOID * width
            elif function == "LINEAR_EXACT" and width > 0:
                yield centre - width / 2, centre + width / 2
            elif function not in ("SIGMOID", "LINEAR_EXACT") and width >= 1:
                yield centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2


def _through_tables(
    dataset: Dataset, layout: WordLayout, values: Values, frame: int
) -> tuple[Window | None, bool] | None:
    """The same where a modality or VOI table decides; None where none does, or none can be read."""
    modality, voi = (bool(dataset.get(key)) for key in ("ModalityLUTSequence", "VOILUTSequence"))
    window = next(_windows(dataset, frame), None)
    if not modality and (window is not None or not voi):
        return None
    try:
        stored = _every_value(layout, values)
        if modality:
            shown = _looked_up(stored, dataset.ModalityLUTSequence[0], dataset)
        else:
            slope, intercept = _rescale(dataset, frame)
            shown = stored * slope + intercept
        falls = bool(shown[-1] < shown[0])
        if window is not None:
            return _transition(stored, np.clip(shown, *window), falls)
        if voi:
            return _transition(stored, _looked_up(shown, dataset.VOILUTSequence[0], dataset), falls)
        return None, falls
    except Exception:  # a broken table makes pydicom raise anything, and is no table
        return None


def _every_value(layout: WordLayout, values: Values) -> Numbers:
    """Stored values that can occur, ascending: all of them, or some between the extremes."""
    low, high = layout.bounds
    if high - low >= _LARGEST_TABLE:
        low, high = int(values.min()), int(values.max())
    every: Numbers = np.linspace(low, high, min(high - low + 1, _LARGEST_TABLE)).round()
    return every


def _looked_up(numbers: Numbers, item: Dataset, dataset: Dataset) -> Numbers:
    """Numbers through a table: LUT Descriptor and LUT Data (PS3.3 C.11.1.1.1, C.11.2.1.1)."""
    entries, first, _ = (int(one) for one in item.LUTDescriptor)
    entries = entries or 1 << 16
    if first >= 1 << 15 and numbers.min() < 0:
        first -= 1 << 16  # it was written as unsigned
    data = item.LUTData
    if isinstance(data, bytes):
        order = "<" if dataset.original_encoding[1] else ">"
        table = np.frombuffer(data, np.uint8 if len(data) < 2 * entries else f"{order}u2", entries)
    else:
        table = np.atleast_1d(np.asarray(data, np.float64))
    places = np.clip(np.rint(numbers) - first, 0, len(table) - 1).astype(np.int64)
    found: Numbers = table[places].astype(np.float64)
    return found


def _transition(stored: Numbers, shown: Numbers, falls: bool) -> tuple[Window | None, bool]:
    """The window of a curve, and whether it falls; `falls` decides for a curve that is flat."""
    least, most = float(shown.min()), float(shown.max())
    if most <= least:
        return None, falls
    share = (shown - least) / (most - least)
    falls = bool(share[-1] < share[0])
    if falls:
        share = 1 - share
    foot = float(stored[int(np.argmax(share >= _FOOT))])
    shoulder = float(stored[int(np.argmax(share >= _SHOULDER))])
    beyond = (shoulder - foot) * _FOOT / (_SHOULDER - _FOOT)
    return window_of(foot - beyond, shoulder + beyond), falls


def _group(dataset: Dataset, keyword: str, frame: int) -> Dataset | None:
    """The item of a functional group macro that holds for `frame` (PS3.3 C.7.6.16)."""
    frames = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    for groups in (frames[frame : frame + 1], shared[:1]):
        for group in groups:
            items = group.get(keyword)
            if items:
                item: Dataset = items[0]
                return item
    return None


def _numbers(value: Any) -> list[float]:
    """The finite numbers among one or several values."""
    items = value if isinstance(value, list | tuple | MultiValue) else [value]
    found = []
    for item in items:
        try:
            number = float(item)
        except (TypeError, ValueError):
            continue
        if math.isfinite(number):
            found.append(number)
    return found
