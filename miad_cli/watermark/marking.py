"""Decide on a mark and put it on: boxes, placement, perturbation, search, blending.

One decision serves one picture, or every slice of a series and every frame of a cine, so that
scrolling does not make the logo jump.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from miad_cli.errors import InvisibleLogo, NoRoomForLogo
from miad_cli.imaging.image import MedicalImage, Stored
from miad_cli.models.bank import Bank
from miad_cli.watermark.blend import Bytes, Mark, Tone, blend
from miad_cli.watermark.delta import Delta, add
from miad_cli.watermark.ensemble import Ensemble, Opinion, feature_distance
from miad_cli.watermark.guided import Plan, guided
from miad_cli.watermark.jury import WATCHED, Jury, Shot, spread
from miad_cli.watermark.lesions import Box, Lesions
from miad_cli.watermark.logo import Sit
from miad_cli.watermark.perturbation import Attack
from miad_cli.watermark.placement import Placement
from miad_cli.watermark.search import Budget, Found, Method, find_placement, search

ATTEMPTS = 5
"""How often a search is run whose outcome is a logo that is not there, as alpha near 0 gives."""

LEAST_CHANGED = 0.05
"""Share of the pixels under the logo that must change; less is a logo that nobody can see."""


@dataclass(frozen=True)
class Perturbing:
    """How much work δ is, in steps of `attack`: before the search, around the logo that was found,
    and again for each picture of a series that shares a mark."""

    attack: Attack = field(default_factory=Attack)
    before: int = 6
    around: int = 14
    shared: int = 8


@dataclass(frozen=True)
class Settings:
    """How to mark: the profile's numbers, under the paper's names where it has one.

    `budget` is for the paper's searches, `plan` for the guided one. Without `perturbing` there is
    the logo alone. `probability` is what a segmentation network must say of a lesion's pixels,
    `margin` how much farther its boxes reach, as a share of the picture's longer side.
    """

    method: Method = "guided"
    budget: Budget = field(default_factory=Budget)
    plan: Plan = field(default_factory=Plan)
    perturbing: Perturbing | None = field(default_factory=Perturbing)
    divisors: tuple[int, ...] = (2, 3, 4, 5, 6, 7, 8)
    threshold: float = 190
    top_share: float = 1.0
    probability: float = 0.5
    margin: float = 0.0


@dataclass(frozen=True, eq=False)
class Decision:
    """A mark that was settled on.

    Attributes:
        lesions: the boxes it keeps off.
        queries: how many candidates the search scored.
        gradients: how often a model was differentiated for the perturbation.
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
    gradients: int = 0


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
    def largest_change(self) -> int:
        """The strongest step of δ, in 1/255 of the display window."""
        return 0 if self.delta is None else int(np.abs(self.delta.grid.astype(int)).max())

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
    jury = Jury(shots_of(image), bank, label)
    decision = _decided(jury, logo, settings, generator, lesions)
    return apply_mark(decision, image, bank, jury.clean_of(image, image.key_frame))


def shots_of(image: MedicalImage) -> list[Shot]:
    """The frames that stand for a picture: all of them, or some evenly spread."""
    return [Shot(image, frame) for frame in spread(image.frames, WATCHED)]


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
    return _decided(Jury(shots, bank, label), logo, settings, generator, lesions)


def _decided(
    jury: Jury,
    logo: Bytes,
    settings: Settings,
    generator: np.random.Generator,
    lesions: Lesions | None,
) -> Decision:
    image = jury.shots[0].image

    def place(boxes: Sequence[Box]) -> Placement:
        return find_placement(
            logo, image.rows, image.columns, boxes, settings.divisors, image.pixel_aspect
        )

    lesions, placement = _beside(lesions, jury, settings, place)
    gradients = _perturb(jury, settings, "before", None, lesions, generator)
    for _ in range(ATTEMPTS):
        found = _search(placement, jury, settings, generator)
        mark = placement.mark(found.candidate)
        if jury.sees(mark, LEAST_CHANGED):
            break
    else:
        raise InvisibleLogo(
            "the logo would change hardly any pixel (padding, or a window outside the values)"
        )
    gradients += _perturb(jury, settings, "around", mark, lesions, generator)
    return Decision(
        mark=mark,
        sit=found.candidate.sit,
        divisor=placement.divisor,
        lesions=lesions,
        queries=found.queries,
        shared=any(shot.image is not image for shot in jury.shots),
        label=jury.label,
        delta=jury.delta,
        gradients=gradients,
    )


def fitted(
    decision: Decision,
    image: MedicalImage,
    bank: Bank,
    settings: Settings,
    generator: np.random.Generator,
    lesions: Lesions | None = None,
) -> Decision:
    """A decision for a whole series with its δ fitted to one picture of it; `lesions` are what
    this one's own mask marks."""
    if decision.delta is None or settings.perturbing is None:
        return decision
    kept = decision.lesions
    if lesions is not None:
        kept = replace(kept, boxes=(*kept.boxes, *lesions.boxes))
    jury = Jury(shots_of(image), bank, decision.label)
    jury.delta = decision.delta
    gradients = _perturb(jury, settings, "shared", decision.mark, kept, generator)
    return replace(decision, delta=jury.delta, gradients=gradients)


def apply_mark(
    decision: Decision, image: MedicalImage, bank: Bank, ensemble: Ensemble | None = None
) -> Marking:
    """Blend a decided mark into every frame of `image`, and ask the models about it; `ensemble` is
    the bank in front of its key frame, where that is there already.

    Raises:
        InvisibleLogo: nothing of it would be seen on this picture.
    """
    ensemble = ensemble or Ensemble(bank, image)
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


def _beside(
    lesions: Lesions | None,
    jury: Jury,
    settings: Settings,
    place: Callable[[Sequence[Box]], Placement],
) -> tuple[Lesions, Placement]:
    """What the logo keeps off, and a placement beside it: a mask's word counts before a
    segmentation network's, and that before the models' attention."""
    if lesions is not None:
        try:
            return lesions, place(lesions.boxes)
        except NoRoomForLogo:
            if not lesions.exact:
                raise
            return lesions, place(lesions.exact)
    found = jury.beside_segmentation(settings.probability, settings.margin, place)
    return found or jury.beside_attention(settings.threshold, settings.top_share, place)


def _perturb(
    jury: Jury,
    settings: Settings,
    when: Literal["before", "around", "shared"],
    mark: Mark | None,
    lesions: Lesions,
    generator: np.random.Generator,
) -> int:
    """Go on with δ; how many gradients it took."""
    if settings.perturbing is None:
        return 0
    steps: int = getattr(settings.perturbing, when)
    if not steps and when != "shared":  # without a step it is still brought into its bounds
        return 0
    attack = replace(settings.perturbing.attack, steps=steps)
    return jury.perturb(attack, mark, lesions.boxes, generator)


def _search(
    placement: Placement, jury: Jury, settings: Settings, generator: np.random.Generator
) -> Found:
    if settings.method == "guided":
        panel = jury.panel(settings.plan.models, generator)
        return guided(placement, panel, settings.plan, generator)
    return search(
        settings.method,
        placement,
        lambda candidate: jury.score(placement.mark(candidate)),
        settings.budget,
        generator,
    )
