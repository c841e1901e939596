"""Which mark a picture gets: one of its own, or the one that its whole series shares."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from miad_cli.errors import InvisibleLogo, MiadError, NoRoomForLogo
from miad_cli.files import InputFile
from miad_cli.imaging.masks import Masks
from miad_cli.imaging.picture import Picture
from miad_cli.models.bank import Bank
from miad_cli.profiles import Perturbation, Profile
from miad_cli.study import Group
from miad_cli.watermark.effort import EFFORTS, Effort
from miad_cli.watermark.jury import WATCHED, Shot, spread
from miad_cli.watermark.lesions import Box, Lesions, boxes_above, runs_of
from miad_cli.watermark.logo import Bytes
from miad_cli.watermark.marking import (
    Decision,
    Marking,
    Perturbing,
    Settings,
    apply_mark,
    decide,
    fitted,
    mark_picture,
)
from miad_cli.watermark.perturbation import Attack, Weights
from miad_cli.watermark.search import Budget


@dataclass(frozen=True)
class Anywhere:
    """No lesion is kept free: `--mask none`."""


Avoid = Masks | Anywhere | None
"""Whom to ask where the lesions are; None: the models."""


class Decisions:
    """Decides, once for every group or picture, with the same logo and seed.

    `read` gives the picture in a file, or None where there is none.
    """

    def __init__(
        self, logo: Bytes, seed: int, avoid: Avoid, read: Callable[[InputFile], Picture | None]
    ) -> None:
        self._logo, self._seed, self._avoid, self._read = logo, seed, avoid, read
        self._shared: tuple[Group, str, Decision | None] | None = None
        self._ahead: dict[InputFile, Decision] = {}

    def marking(
        self, file: InputFile, picture: Picture, group: Group, profile: Profile, bank: Bank
    ) -> Marking:
        """The picture with its mark on.

        Raises:
            PictureFailed: there is no room for the logo, or nothing of it would be seen.
            MaskUnusable: the lesion mask is missing or does not fit.
        """
        own = self._lesions(file, picture)
        ahead = self._ahead.pop(file, None)
        if ahead is not None:
            return apply_mark(ahead, picture.image, bank)
        generator, settings = self._generator([picture.content]), settings_of(profile)
        shared = self._decision_of(group, profile, bank)
        if shared is not None and keeps_off(shared, own):
            try:
                decision = fitted(shared, picture.image, bank, settings, generator, own)
                return apply_mark(decision, picture.image, bank)
            except InvisibleLogo:
                pass  # nothing of it shows on this slice: it gets a mark of its own
        return mark_picture(picture.image, bank, self._logo, settings, generator, lesions=own)

    def remember(self, file: InputFile, marking: Marking) -> None:
        """Keep a decision that was made before the picture's turn."""
        self._ahead[file] = marking.decision

    def check(self, file: InputFile, picture: Picture) -> None:
        """Raise MaskUnusable where the lesion mask is missing or does not fit."""
        self._lesions(file, picture)

    def _decision_of(self, group: Group, profile: Profile, bank: Bank) -> Decision | None:
        """The mark of a whole group, or None where every picture gets its own."""
        if not shares_a_mark(group, profile):
            return None
        if self._shared is None or self._shared[:2] != (group, profile.name):
            self._shared = (group, profile.name, self._decide(group, profile, bank))
        return self._shared[2]

    def _decide(self, group: Group, profile: Profile, bank: Bank) -> Decision | None:
        chosen = [group.files[index] for index in spread(len(group.files), WATCHED)]
        pictures = [picture for file in chosen if (picture := self._readable(file)) is not None]
        shots = [Shot(one.image, one.image.key_frame) for one in pictures]
        if len(shots) < 2:
            return None
        generator = self._generator([one.content for one in pictures])
        try:
            return decide(
                shots, bank, self._logo, settings_of(profile), generator,
                lesions=self._lesions_of_all(group),
            )  # fmt: skip
        except (NoRoomForLogo, InvisibleLogo):
            return None

    def _readable(self, file: InputFile) -> Picture | None:
        try:
            picture = self._read(file)
            return picture if picture is not None and picture.image.frames else None
        except MiadError:
            return None  # said when its turn comes

    def _lesions(self, file: InputFile, picture: Picture) -> Lesions | None:
        """What this picture's mask says; None where the models' attention has to."""
        if self._avoid is None:
            return None
        if isinstance(self._avoid, Anywhere):
            return Lesions((), "none")
        return _around(_in_any_frame(self._avoid.lesions_on(picture, file.relative).pixels))

    def _lesions_of_all(self, group: Group) -> Lesions | None:
        """The boxes of every slice's mask together, each once."""
        if self._avoid is None or isinstance(self._avoid, Anywhere):
            return None if self._avoid is None else Lesions((), "none")
        union: NDArray[np.bool_] | None = None
        for file in group.files:
            picture = self._readable(file)
            if picture is None:
                continue
            try:
                there = _in_any_frame(self._avoid.lesions_on(picture, file.relative).pixels)
            except MiadError:
                continue  # said when its turn comes
            union = there if union is None else union | there
        return None if union is None else _around(union)

    def _generator(self, contents: Sequence[bytes]) -> np.random.Generator:
        """Random numbers that follow from the seed and from what is to be marked."""
        digests = b"".join(hashlib.sha256(content).digest() for content in contents)
        if len(contents) > 1:
            digests = hashlib.sha256(digests).digest()
        return np.random.default_rng([self._seed, int.from_bytes(digests[:8], "big")])


def _in_any_frame(lesions: NDArray[np.bool_]) -> NDArray[np.bool_]:
    union: NDArray[np.bool_] = np.logical_or.reduce(lesions, axis=0)
    return union


def _around(pixels: NDArray[np.bool_]) -> Lesions | None:
    """Boxes around the connected parts of (rows, columns) bool; None where nothing is marked."""
    boxes = boxes_above(np.asarray(pixels, np.float32), 1)
    return Lesions(boxes, "mask", runs_of(pixels)) if boxes else None


def shares_a_mark(group: Group, profile: Profile) -> bool:
    """True where the profile wants one mark for all pictures of a group."""
    coherent = profile.series.coherent
    wanted = coherent == "always" or (coherent == "volumes" and group.is_volume)
    return wanted and len(group.files) > 1


def keeps_off(decision: Decision, lesions: Lesions | None) -> bool:
    """True where no pixel of the mark's rectangle is one that a mask marks."""
    if lesions is None:
        return True
    height, width = decision.mark.logo.shape[:2]
    area = Box(decision.mark.x, decision.mark.y, width, height)
    return not any(area.meets(box) for box in lesions.exact or lesions.boxes)


def settings_of(profile: Profile) -> Settings:
    """A profile's numbers for the watermark."""
    searching, effort = profile.search, EFFORTS[profile.search.effort]
    return Settings(
        method=searching.method,
        plan=effort.plan,
        perturbing=_perturbing(profile.perturbation, effort),
        budget=Budget(
            parents=searching.parents,
            generations=searching.generations,
            alpha_step=searching.alpha_step,
            keep=searching.keep,
            density=searching.density,
        ),
        divisors=tuple(profile.logo.divisors),
        threshold=profile.lesions.threshold,
        top_share=profile.lesions.top_share,
        probability=profile.lesions.probability,
        margin=profile.lesions.margin,
    )


def _perturbing(wanted: Perturbation, effort: Effort) -> Perturbing | None:
    if not wanted.epsilon:
        return None
    attack = Attack(
        epsilon=wanted.epsilon,
        shaped=wanted.shaped,
        models_per_step=effort.models_per_step,
        remover_every=effort.remover_every,
        weights=Weights(
            classifiers=wanted.classifiers,
            disrupt=wanted.disrupt,
            inerase=wanted.inerasable,
        ),
    )
    return Perturbing(attack, effort.before, effort.around, effort.shared)
