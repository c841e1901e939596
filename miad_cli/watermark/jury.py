"""The models in front of several shots that get the same mark."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from miad_cli.errors import ModelUnusable, NoRoomForLogo
from miad_cli.imaging.image import MedicalImage
from miad_cli.models.bank import Bank
from miad_cli.watermark.blend import Mark
from miad_cli.watermark.delta import Delta
from miad_cli.watermark.ensemble import Ensemble
from miad_cli.watermark.lesions import Box, Lesions
from miad_cli.watermark.panel import Panel
from miad_cli.watermark.perturbation import Attack, perturb
from miad_cli.watermark.placement import Placement
from miad_cli.watermark.scenes import scene_of
from miad_cli.watermark.search import Score
from miad_cli.watermark.segmentation import beside_segmentation, lesion_map

SCORED = 3
"""How many of several slices or frames the search asks the models about."""

WATCHED = 9
"""How many slices or frames are asked for what the models attend to."""

PEAKS = (220.0, 240.0, 250.0, 255.0)
"""Thresholds of 255 for the heat map where the profile's leaves no room for the logo."""


@dataclass(frozen=True)
class Shot:
    """One frame of one picture."""

    image: MedicalImage
    frame: int


def spread(length: int, count: int) -> list[int]:
    """Up to `count` of `length` indices, evenly spread, the middle one among them."""
    if length <= count:
        return list(range(length))
    return [int((2 * i + 1) * length / (2 * count)) for i in range(count)]


class Jury:
    """The bank in front of several shots that get the same mark.

    A few of them are scored. `label` is the class that is to be lost, None where nobody named one.
    `delta` is what was added to the pictures before; what counts as their label and as their clean
    features was asked without it.
    """

    def __init__(self, shots: Sequence[Shot], bank: Bank, label: int | None) -> None:
        self.bank = bank
        self.shots, self.label = shots, label
        chosen = [shots[index] for index in spread(len(shots), SCORED)]
        self._clean = [Ensemble(bank, shot.image, shot.frame) for shot in chosen]
        self._scored = self._clean
        self.delta: Delta | None = None

    def perturb(
        self,
        attack: Attack,
        mark: Mark | None,
        boxes: Sequence[Box],
        generator: np.random.Generator,
    ) -> int:
        """Make a δ for the scored shots under `mark`, beginning with the one there is; from here
        on everything is asked about pictures with it. Returns how many gradients it took; none,
        and no δ, where no model gives any."""
        scenes = [scene_of(one.image, one.frame, mark, boxes, one.tone) for one in self._clean]
        label = None if self.bank.task is None else self._usual_label()
        try:
            made = perturb(
                scenes, self.bank.surrogates, self.bank.removers, self.bank.task, label,
                attack, generator, self.delta,
            )  # fmt: skip
        except ModelUnusable:
            return 0
        self.delta = made.delta
        self._scored = [one.over(made.delta) for one in self._clean]
        return made.gradients

    def clean_of(self, image: MedicalImage, frame: int) -> Ensemble | None:
        """The bank in front of a frame without δ; None where it is not among the scored shots."""
        there = (one for one in self._clean if one.image is image and one.frame == frame)
        return next(there, None)

    def panel(self, models: int, generator: np.random.Generator) -> Panel:
        """For the guided search: each model on each scored shot a voice; so many of the models,
        drawn at random, or with 0 all."""
        count = len(self.bank.surrogates)
        if not 0 < models < count:
            return Panel(self._scored, self.label)
        chosen = sorted(generator.choice(count, models, replace=False).tolist())
        return Panel(self._scored, self.label, chosen)

    def score(self, mark: Mark) -> Score:
        """For the paper's searches: the mean over the scored shots, fooled where all of them
        are."""
        scores = [one.score(mark, self.label) for one in self._scored]
        fitness = float(np.mean([one.fitness for one in scores]))
        return Score(fitness, all(one.fooled for one in scores))

    def sees(self, mark: Mark, share: float) -> bool:
        """True where the logo shows on one of the shots at least."""
        return any(one.shows(mark, share) for one in self._scored)

    def beside_attention(
        self, threshold: float, top_share: float, place: Callable[[Sequence[Box]], Placement]
    ) -> tuple[Lesions, Placement]:
        """Boxes of what the models attend to, and a placement beside them.

        Attention is a guess, so where it leaves no room only its peaks count; a mask is a limit.

        Raises:
            NoRoomForLogo: not even the peaks leave any.
        """
        for least in (threshold, *(one for one in PEAKS if one > threshold)):
            lesions = Lesions(tuple(self._attended(least, top_share)), self.bank.attention_by)
            try:
                return lesions, place(lesions.boxes)
            except NoRoomForLogo as error:
                refusal = error
        raise refusal

    def beside_segmentation(
        self, probability: float, margin: float, place: Callable[[Sequence[Box]], Placement]
    ) -> tuple[Lesions, Placement] | None:
        """Boxes around what the bank's segmentation network takes for lesion in any shot, and a
        placement beside them; None without such a network, or where it finds nothing or leaves no
        room."""
        if self.bank.segmentation is None:
            return None
        shots = ((shot.image, shot.frame) for shot in self.shots)
        likely = lesion_map(shots, self.bank.segmentation)
        return beside_segmentation(likely, probability, margin, place)

    def _attended(self, threshold: float, top_share: float) -> Iterator[Box]:
        """Boxes of all shots, each box once."""
        known = {(id(one.image), one.frame): one for one in self._clean}
        boxes: dict[Box, None] = {}
        for shot in self.shots:
            ensemble = known.get((id(shot.image), shot.frame))
            ensemble = ensemble or Ensemble(self.bank, shot.image, shot.frame)
            boxes |= dict.fromkeys(ensemble.attention(threshold, top_share).boxes)
        yield from boxes

    def _usual_label(self) -> int:
        """The class that is to be lost; on slices that show different ones, that of most."""
        if self.label is not None:
            return self.label
        return Counter(one.clean.label for one in self._clean).most_common(1)[0][0]
