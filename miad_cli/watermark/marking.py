"""Decide on a mark and put it on: boxes, placement, search, blending.

One decision serves one picture, or every slice of a series and every frame of a cine, so that
scrolling does not make the logo jump.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from miad_cli.errors import InvisibleLogo, NoRoomForLogo
from miad_cli.imaging.image import MedicalImage, Stored
from miad_cli.models.bank import Bank
from miad_cli.watermark.blend import Bytes, Mark, Tone, blend
from miad_cli.watermark.delta import Delta, add
from miad_cli.watermark.ensemble import Ensemble, Opinion, feature_distance
from miad_cli.watermark.lesions import Box
from miad_cli.watermark.logo import Sit
from miad_cli.watermark.placement import Placement
from miad_cli.watermark.search import (
    Budget,
    Found,
    Method,
    Score,
    find_placement,
    search,
)

ATTEMPTS = 5
"""How often a search is run whose outcome is a logo that is not there, as alpha near 0 gives."""

LEAST_CHANGED = 0.05
"""Share of the pixels under the logo that must change; less is a logo that nobody can see."""

SCORED = 3
"""How many of several slices or frames the search asks the models about."""

WATCHED = 9
"""How many slices or frames are asked for what the models attend to."""

PEAKS = (220.0, 240.0, 250.0, 255.0)
"""Thresholds of 255 for the heat map where the profile's leaves no room for the logo."""

BoxSource = Literal["grad-cam", "occlusion", "mask", "none"]


@dataclass(frozen=True)
class Settings:
    """How to mark: the profile's numbers, under the paper's names where it has one."""

    method: Method = "he-sit"
    budget: Budget = field(default_factory=Budget)
    divisors: tuple[int, ...] = (2, 3, 4, 5, 6, 7, 8)
    threshold: float = 190
    top_share: float = 1.0


@dataclass(frozen=True)
class Shot:
    """One frame of one picture."""

    image: MedicalImage
    frame: int


@dataclass(frozen=True)
class Lesions:
    """Where the logo may not be, and who says so.

    Attributes:
        boxes: rectangles around it; none at all where nothing is to be kept off.
        exact: rectangles that cover it and nothing else; what counts where the boxes leave no
            room. None of them where that is not known.
    """

    boxes: tuple[Box, ...]
    source: BoxSource
    exact: tuple[Box, ...] = ()


@dataclass(frozen=True, eq=False)
class Decision:
    """A mark that was settled on.

    Attributes:
        lesions: the boxes it keeps off.
        queries: how many candidates the search scored.
        shared: whether it was made for several pictures together.
        label: the class that was to be lost, where the caller named one.
        delta: the perturbation under the mark, where there is one.
    """

    mark: Mark
    sit: Sit
    divisor: int
    lesions: Lesions
    queries: int
    shared: bool = False
    label: int | None = None
    delta: Delta | None = None


@dataclass(frozen=True, eq=False)
class Marking:
    """A picture's mark and what the models say of it.

    Attributes:
        stored: (frames, rows, columns, samples), the pixels to be written.
        clean, marked: the models' opinion of the key frame before and after, as it is written.
    """

    stored: Stored
    decision: Decision
    tone: Tone
    clean: Opinion
    marked: Opinion
    label: int | None

    @property
    def mark(self) -> Mark:
        return self.decision.mark

    @property
    def delta(self) -> Delta | None:
        return self.decision.delta

    @property
    def fooled(self) -> bool | None:
        """Whether the ensemble's prediction changed; None where no model knows the task."""
        return None if self.label is None else self.marked.label != self.label

    @property
    def models_fooled(self) -> int:
        """How many models, asked one by one, no longer give the label."""
        return sum(int(one.argmax()) != self.label for one in self.marked.probabilities)

    @property
    def feature_distance(self) -> float:
        """How far the features moved, relative to their length."""
        return feature_distance(self.clean, self.marked)


def mark_picture(
    image: MedicalImage,
    bank: Bank,
    logo: Bytes,
    settings: Settings,
    generator: np.random.Generator,
    label: int | None = None,
    lesions: Lesions | None = None,
) -> Marking:
    """Find the mark for `image` and blend it into every frame.

    `label` is the class that is to be lost; by default the ensemble's own prediction. Without
    `lesions` the models' attention says where the logo may not be.

    Raises:
        NoRoomForLogo: the boxes leave no place for it.
        InvisibleLogo: nothing of it would be seen.
    """
    shots = shots_of(image)
    return apply_mark(decide(shots, bank, logo, settings, generator, label, lesions), image, bank)


def shots_of(image: MedicalImage) -> list[Shot]:
    """The frames that stand for a picture: all of them, or some evenly spread."""
    return [Shot(image, frame) for frame in spread(image.frames, WATCHED)]


def spread(length: int, count: int) -> list[int]:
    """Up to `count` of `length` indices, evenly spread, the middle one among them."""
    if length <= count:
        return list(range(length))
    return [int((2 * i + 1) * length / (2 * count)) for i in range(count)]


def decide(
    shots: Sequence[Shot],
    bank: Bank,
    logo: Bytes,
    settings: Settings,
    generator: np.random.Generator,
    label: int | None = None,
    lesions: Lesions | None = None,
) -> Decision:
    """Find one mark for all of `shots`, which have the same size.

    Boxes are the union over all shots; the search's score is the mean over a few of them, and
    they count as fooled when all of them are.

    Raises:
        NoRoomForLogo: the boxes leave no place for it.
        InvisibleLogo: nothing of it would be seen on any of them.
    """
    jury = _Jury(shots, bank, label)
    image = shots[0].image

    def place(boxes: Sequence[Box]) -> Placement:
        return find_placement(
            logo, image.rows, image.columns, boxes, settings.divisors, image.pixel_aspect
        )

    if lesions is not None:
        try:
            placement = place(lesions.boxes)
        except NoRoomForLogo:
            if not lesions.exact:
                raise
            placement = place(lesions.exact)
    else:
        lesions, placement = _beside_attention(jury, bank, settings, place)
    for _ in range(ATTEMPTS):
        found = _search(placement, jury, settings, generator)
        mark = placement.mark(found.candidate)
        if jury.sees(mark):
            sit = found.candidate.sit
            shared = any(shot.image is not image for shot in shots)
            return Decision(mark, sit, placement.divisor, lesions, found.queries, shared, label)
    raise InvisibleLogo(
        "the logo would change hardly any pixel (padding, or a window outside the values)"
    )


def apply_mark(decision: Decision, image: MedicalImage, bank: Bank) -> Marking:
    """Blend a decided mark into every frame of `image`, and ask the models about it.

    Raises:
        InvisibleLogo: nothing of it would be seen on this picture.
    """
    ensemble = Ensemble(bank, image)
    mark, key = decision.mark, image.key_frame
    beneath = image.stored
    if decision.delta is not None:
        beneath = add(beneath, decision.delta, ensemble.tone)
    stored = blend(beneath, mark, ensemble.tone)
    if not _shows(beneath[key], stored[key], mark):
        raise InvisibleLogo(
            "the logo would change hardly any pixel (padding, or a window outside the values)"
        )
    label = decision.label
    if bank.task is not None and label is None:
        label = ensemble.clean.label
    return Marking(
        stored, decision, ensemble.tone, ensemble.clean, ensemble.opinion_of(stored[key]), label
    )


def _shows(beneath: Stored, marked: Stored, mark: Mark) -> bool:
    """True where enough of the pixels under the logo's visible part differ from those beneath."""
    changed = (marked[mark.region] != beneath[mark.region]).any(axis=-1)
    return bool(changed[mark.logo[..., 3] > 0].mean() >= LEAST_CHANGED)


def _beside_attention(
    jury: _Jury, bank: Bank, settings: Settings, place: Callable[[Sequence[Box]], Placement]
) -> tuple[Lesions, Placement]:
    """Boxes of what the models attend to, and a placement beside them.

    Attention is a guess, so where it leaves no room only its peaks count; a mask is a limit.
    """
    for threshold in (settings.threshold, *(t for t in PEAKS if t > settings.threshold)):
        lesions = Lesions(jury.attention(settings, threshold), bank.attention_by)
        try:
            return lesions, place(lesions.boxes)
        except NoRoomForLogo as error:
            refusal = error
    raise refusal


class _Jury:
    """The bank in front of several shots that get the same mark."""

    def __init__(self, shots: Sequence[Shot], bank: Bank, label: int | None) -> None:
        self._shots, self._bank, self._label = shots, bank, label
        chosen = [shots[index] for index in spread(len(shots), SCORED)]
        self._scored = [Ensemble(bank, shot.image, shot.frame) for shot in chosen]

    def attention(self, settings: Settings, threshold: float) -> tuple[Box, ...]:
        """Grad-CAM boxes of all shots, each box once."""
        scored = {(id(one.image), one.frame): one for one in self._scored}
        boxes: dict[Box, None] = {}
        for shot in self._shots:
            known = scored.get((id(shot.image), shot.frame))
            ensemble = known or Ensemble(self._bank, shot.image, shot.frame)
            found = ensemble.attention(threshold, settings.top_share)
            boxes |= dict.fromkeys(found.boxes)
        return tuple(boxes)

    def score(self, mark: Mark) -> Score:
        scores = [one.score(mark, self._label) for one in self._scored]
        fitness = float(np.mean([one.fitness for one in scores]))
        return Score(fitness, all(one.fooled for one in scores))

    def sees(self, mark: Mark) -> bool:
        """True where the logo shows on one of the shots at least."""
        return any(one.shows(mark, LEAST_CHANGED) for one in self._scored)


def _search(
    placement: Placement, jury: _Jury, settings: Settings, generator: np.random.Generator
) -> Found:
    return search(
        settings.method,
        placement,
        lambda candidate: jury.score(placement.mark(candidate)),
        settings.budget,
        generator,
    )
