"""Where the logo may not be: what a segmentation network takes for lesion (MedLocker).

MIAD-MARK's boxes are where a classifier looks, MedLocker's around what a network trained on
outlines finds. Both are guesses: where this one leaves no room for the logo, only what the network
is surer of counts, and where it finds nothing somebody else has to be asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from miad_cli.errors import NoRoomForLogo
from miad_cli.imaging.image import MedicalImage
from miad_cli.models.bank import Surrogate
from miad_cli.models.view import view_for
from miad_cli.watermark.lesions import Box, Lesions, boxes_above, runs_of

Float = NDArray[np.float32]
Placed = TypeVar("Placed")

SURER = (0.7, 0.9, 0.99)
"""Probabilities that count where what is likely at all leaves no room for the logo."""


def lesion_map(shots: Iterable[tuple[MedicalImage, int]], network: Surrogate) -> Float:
    """How likely each pixel is lesion in any of `shots`, frames of pictures of one size.

    Returns (rows, columns), float32 in 0..1.

    Raises:
        ModelUnusable: the network cannot be run.
    """
    maps = [_map_of(image, frame, network) for image, frame in shots]
    likeliest: Float = np.maximum.reduce(maps)
    return likeliest


def _map_of(image: MedicalImage, frame: int, network: Surrogate) -> Float:
    eye = view_for(network.manifest.input, image.rows, image.columns)
    view = eye.of(image.windowed(image.stored[frame]))
    (planes,) = network.session.masks(network.session.run(view[None]))
    # The first label is the background; a single plane is the second label's.
    lesion = planes[0] if len(planes) == 1 else 1 - planes[0]
    return np.clip(eye.back(lesion), 0, 1)


def lesions_above(likely: Float, probability: float, margin: float = 0.0) -> Lesions | None:
    """Boxes around the connected parts of a map (rows, columns) of at least `probability`, and
    those parts themselves; None where there are none.

    On every side boxes reach `margin` farther, a share of the picture's longer side.
    """
    rows, columns = likely.shape
    reach = round(margin * max(rows, columns))
    boxes = boxes_above(likely, probability)
    if not boxes:
        return None
    wide = tuple(box.widened(reach, rows, columns) for box in boxes)
    return Lesions(wide, "segmentation", runs_of(likely >= probability))


def surer_and_surer(likely: Float, probability: float, margin: float) -> Iterator[Lesions]:
    """What is lesion with at least `probability`, and then only what is ever more likely to be;
    ends where nothing is left."""
    for least in (probability, *(one for one in SURER if one > probability)):
        lesions = lesions_above(likely, least, margin)
        if lesions is None:
            return
        yield lesions


def beside_segmentation(
    likely: Float,
    probability: float,
    margin: float,
    place: Callable[[Sequence[Box]], Placed],
) -> tuple[Lesions, Placed] | None:
    """What is lesion in a map, and what `place` gives for a logo beside it.

    `place` raises NoRoomForLogo where boxes leave no room; then the parts inside them count, and
    then only what is surer. None where nothing is lesion, or whatever is leaves no room.
    """
    for lesions in surer_and_surer(likely, probability, margin):
        for boxes in (lesions.boxes, lesions.exact):
            try:
                return lesions, place(boxes)
            except NoRoomForLogo:
                continue
    return None
