"""What an image is, whatever file it came from."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Stored = NDArray[np.integer]
Float = NDArray[np.float32]


@dataclass(frozen=True)
class Window:
    """The stored values that are shown as black and as white; `low < high`."""

    low: int
    high: int


@dataclass(frozen=True)
class StudyFacts:
    """The attributes that profiles are chosen by; empty where the file has none."""

    modality: str = ""
    body_part: str = ""
    sop_class_uid: str = ""
    photometric_interpretation: str = ""


@dataclass(frozen=True, eq=False)
class MedicalImage:
    """Stored values, and how they are shown.

    Attributes:
        stored: (frames, rows, columns, samples), samples 1 (grey) or 3 (RGB); integers of any
            width, sign already extended; often unsigned and a read-only view of the file.
        bounds: the smallest and the largest value that the file can hold.
        window: what is shown as black and as white.
        inverted: low values are bright (MONOCHROME1).
        padding: inclusive range of values that mark pixels without a picture, or None.
        pixel_aspect: height of a pixel over its width, as it is to be shown.
    """

    stored: Stored
    bounds: tuple[int, int]
    window: Window
    inverted: bool = False
    padding: tuple[int, int] | None = None
    facts: StudyFacts = field(default_factory=StudyFacts)
    pixel_aspect: float = 1.0

    @property
    def frames(self) -> int:
        return int(self.stored.shape[0])

    @property
    def rows(self) -> int:
        return int(self.stored.shape[1])

    @property
    def columns(self) -> int:
        return int(self.stored.shape[2])

    @property
    def is_grey(self) -> bool:
        return bool(self.stored.shape[3] == 1)

    @property
    def key_frame(self) -> int:
        """The frame that stands for the whole: the middle one."""
        return self.frames // 2

    def windowed(self, values: Stored) -> Float:
        """Stored values (..., samples) as shown: (..., 3), float32 in 0..1, black to white."""
        span = self.window.high - self.window.low
        shown = values.astype(np.float32)
        shown -= np.float32(self.window.low)
        shown /= np.float32(span)
        np.clip(shown, 0.0, 1.0, out=shown)
        if self.inverted:
            np.subtract(np.float32(1), shown, out=shown)
        return np.broadcast_to(shown, (*shown.shape[:-1], 3))


def percentile_window(values: Stored, padding: tuple[int, int] | None) -> Window:
    """The 0.5 to 99.5 percentile of what is not padding, for files that name no window."""
    flat = _thinned(values)
    if padding is not None:
        kept = flat[(flat < padding[0]) | (flat > padding[1])]
        flat = kept if kept.size else flat
    low, high = np.percentile(flat, (0.5, 99.5))
    return window_of(float(low), float(high))


def _thinned(values: Stored) -> Stored:
    """All values, or those of every so many frames and rows: a few million are enough."""
    frames = min(max(1, values.size // 4_000_000), values.shape[0])
    some = values[::frames]
    return some[:, :: max(1, some.size // 4_000_000)].reshape(-1)


def window_of(low: float, high: float) -> Window:
    """A window on whole stored values, at least one value wide."""
    first = round(min(low, high))
    return Window(first, max(round(max(low, high)), first + 1))
