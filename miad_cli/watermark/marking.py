"""Decide on a mark for one picture and put it on: boxes, placement, search, blending."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from miad_cli.errors import PictureFailed
from miad_cli.imaging.image import MedicalImage, Stored
from miad_cli.models.bank import Bank
from miad_cli.watermark.blend import Bytes, Mark, Tone, blend
from miad_cli.watermark.ensemble import Attention, Ensemble, Opinion, feature_distance
from miad_cli.watermark.placement import Candidate
from miad_cli.watermark.search import Budget, Method, find_placement, search

ATTEMPTS = 5
"""How often a search is run whose outcome is a logo that is not there, as alpha near 0 gives."""

LEAST_CHANGED = 0.05
"""Share of the pixels under the logo that must change; less is a logo that nobody can see."""


@dataclass(frozen=True)
class Settings:
    """How to mark: the profile's numbers, under the paper's names where it has one."""

    method: Method = "he-sit"
    budget: Budget = field(default_factory=Budget)
    divisors: tuple[int, ...] = (2, 3, 4, 5, 6, 7, 8)
    threshold: float = 190
    top_share: float = 1.0


@dataclass(frozen=True, eq=False)
class Marking:
    """A picture's mark and what the models say of it.

    Attributes:
        stored: (frames, rows, columns, samples), the pixels to be written.
        clean, marked: the models' opinion before and after, of the pixels to be written.
        queries: how many candidates the search scored.
    """

    stored: Stored
    mark: Mark
    tone: Tone
    candidate: Candidate
    divisor: int
    attention: Attention
    clean: Opinion
    marked: Opinion
    queries: int
    label: int | None

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
) -> Marking:
    """Find the mark for `image` and blend it into every frame.

    `label` is the class that is to be lost; by default the ensemble's own prediction.

    Raises:
        NoRoomForLogo: the boxes leave no place for it.
        PictureFailed: nothing of it would be seen.
    """
    ensemble = Ensemble(bank, image)
    if bank.task is not None and label is None:
        label = ensemble.clean.label
    attention = ensemble.attention(settings.threshold, settings.top_share)
    placement = find_placement(logo, image.rows, image.columns, attention.boxes, settings.divisors)
    for _ in range(ATTEMPTS):
        found = search(
            settings.method,
            placement,
            lambda candidate: ensemble.score(placement.mark(candidate), label),
            settings.budget,
            generator,
        )
        mark = placement.mark(found.candidate)
        stored = blend(image.stored, mark, ensemble.tone)
        if _is_there(image, stored, mark):
            break
    else:
        raise PictureFailed(
            "the logo would change hardly any pixel (padding, or a window outside the values)"
        )
    return Marking(
        stored=stored,
        mark=mark,
        tone=ensemble.tone,
        candidate=found.candidate,
        divisor=placement.divisor,
        attention=attention,
        clean=ensemble.clean,
        marked=ensemble.opinion_of(stored[image.key_frame]),
        queries=found.queries,
        label=label,
    )


def _is_there(image: MedicalImage, stored: Stored, mark: Mark) -> bool:
    """True where enough pixels under the logo's visible part differ from the original's."""
    rows, columns = mark.region
    drawn = mark.logo[..., 3] > 0
    frame = image.key_frame
    changed = (stored[frame, rows, columns] != image.stored[frame, rows, columns]).any(axis=-1)
    return bool(changed[drawn].mean() >= LEAST_CHANGED)
