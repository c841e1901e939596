"""The bench that every protocol works on: pictures, models, and what was measured so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miad_cli.errors import InvisibleLogo, NoRoomForLogo, PictureFailed
from miad_cli.evaluation import metrics
from miad_cli.evaluation.counterattacks import Remover, removal_network
from miad_cli.evaluation.datasets import Annotation, Case
from miad_cli.evaluation.ledger import Key, Memory
from miad_cli.evaluation.protocols.material import Float, Material, ask
from miad_cli.evaluation.protocols.treatments import Found, Store, Treatment
from miad_cli.imaging.image import MedicalImage, Stored
from miad_cli.watermark.blend import Tone, blend, tone_for
from miad_cli.watermark.delta import Delta, add, allowed_cells
from miad_cli.watermark.lesions import Lesions, runs_of
from miad_cli.watermark.marking import Decision, mark_picture

KEPT = 24
"""Protected pictures, and a few originals, that are held in memory at a time."""


@dataclass(frozen=True, eq=False)
class Subject:
    """One picture that takes part.

    Attributes:
        number: its place in the run, from 1; what a report calls it by.
        digest: of the picture, its label and its lesion.
        references: for each model the class that counts as right: the given label, or what it
            said of the clean picture.
        label: the class that is to be lost; None where none was given, and the ensemble that is
            attacked says itself.
    """

    case: Case
    number: int
    digest: str
    references: Mapping[str, int]
    label: int | None

    @property
    def group(self) -> str:
        """What pictures of one patient share."""
        return self.case.group


@dataclass(frozen=True, eq=False)
class Protected:
    """The key frame of a protected picture.

    Attributes:
        beneath: (rows, columns, samples), the picture with δ and without the logo.
        stored: (rows, columns, samples), with both, as it would be written.
    """

    decision: Decision
    tone: Tone
    beneath: Stored
    stored: Stored
    seconds: float


class Bench:
    """Pictures, models and a memory.

    Args:
        store: where found marks are kept.
        ledger: what was measured so far.
    """

    def __init__(
        self, material: Material, subjects: Sequence[Subject], store: Store, ledger: Memory
    ) -> None:
        self.material = material
        self.subjects = tuple(subjects)
        self.store, self._ledger = store, ledger
        self._image = lru_cache(maxsize=4)(_loaded)
        self._annotation = lru_cache(maxsize=4)(_annotated)
        self._made: Callable[[Subject, Treatment], Protected] = lru_cache(maxsize=KEPT)(self._make)

    @property
    def task(self) -> str:
        return self.material.task

    # --- What was measured --------------------------------------------------------------------

    def known(self, key: Key) -> dict[str, Any] | None:
        """The figures of a unit of work that is done."""
        return self._ledger.known(key)

    def learn(self, key: Key, figures: Mapping[str, Any]) -> None:
        """Take over the figures of a unit of work that another process did."""
        self._ledger.add(key, figures)

    def measured(self, key: Key, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The figures of a unit of work, measured now where they are not known.

        A picture on which no logo fits or shows has none: `refused` says why.
        """
        known = self._ledger.known(key)
        if known is None:
            try:
                known = measure()
            except (NoRoomForLogo, InvisibleLogo) as error:
                known = {"refused": error.message}
            self._ledger.add(key, known)
            known = self._ledger.known(key)
        assert known is not None  # noqa: S101 - it was added
        return known

    # --- Pictures -----------------------------------------------------------------------------

    def image(self, subject: Subject) -> MedicalImage:
        """Its picture.

        Raises:
            PictureFailed: it cannot be read any more.
        """
        image: MedicalImage = self._image(subject)
        return image

    def original(self, subject: Subject) -> Stored:
        """(rows, columns, samples) stored values of the key frame."""
        image = self.image(subject)
        frame: Stored = image.stored[image.key_frame]
        return frame

    def annotation(self, subject: Subject) -> NDArray[np.bool_] | None:
        """(rows, columns) bool: the annotated lesion on the key frame; None where there is none."""
        found: Annotation | None = self._annotation(subject)
        if found is None:
            return None
        marked: NDArray[np.bool_] = found.pixels[self.image(subject).key_frame]
        return marked if marked.any() else None

    def shown(self, subject: Subject, stored: Stored) -> Float:
        """Stored values of a frame (rows, columns, samples) as they are displayed: (rows,
        columns, 1 or 3), float32 in 0..1."""
        image = self.image(subject)
        return image.windowed(stored)[..., : 1 if image.is_grey else 3]

    # --- Protecting ---------------------------------------------------------------------------

    def protected(self, subject: Subject, treatment: Treatment) -> Protected:
        """The picture protected in one way; searched for once, and kept.

        Raises:
            NoRoomForLogo, InvisibleLogo: it cannot be protected so.
        """
        return self._made(subject, treatment)

    def _make(self, subject: Subject, treatment: Treatment) -> Protected:
        name = self._name_of(subject, treatment)
        found = self.store.found(name)
        if found is None:
            found = self._find(subject, treatment)
            self.store.keep_found(name, found)
        if found.decision is None:
            raise NoRoomForLogo(found.refusal)
        image, decision = self.image(subject), found.decision
        tone = tone_for(
            (image.window.low, image.window.high), image.bounds, image.inverted, image.padding
        )
        frame = image.stored[image.key_frame][None]
        beneath = frame if decision.delta is None else add(frame, decision.delta, tone)
        stored = blend(beneath, decision.mark, tone)
        return Protected(decision, tone, beneath[0], stored[0], found.seconds)

    def _find(self, subject: Subject, treatment: Treatment) -> Found:
        if treatment.noise:
            return self._with_noise(subject, treatment)
        image, material = self.image(subject), self.material
        generator = np.random.default_rng([material.seed, _number_of(subject)])
        started = time.perf_counter()
        try:
            marking = mark_picture(
                image, material.bank_for(treatment), material.logos[treatment.logo],
                treatment.settings, generator, subject.label,
                self._given(subject) if treatment.lesions == "annotation" else None,
            )  # fmt: skip
        except (NoRoomForLogo, InvisibleLogo) as error:
            return Found(None, time.perf_counter() - started, error.message)
        return Found(marking.decision, time.perf_counter() - started)

    def _given(self, subject: Subject) -> Lesions | None:
        """The annotated lesion as `miad protect --mask` takes it."""
        found: Annotation | None = self._annotation(subject)
        if found is None:
            return None
        marked: NDArray[np.bool_] = np.logical_or.reduce(found.pixels, axis=0)
        return Lesions(found.boxes, "mask", runs_of(marked))

    def _with_noise(self, subject: Subject, treatment: Treatment) -> Found:
        """The same logo as without δ, over random noise as strong as δ might be (Table 1)."""
        made = treatment.settings.perturbing
        assert made is not None  # noqa: S101 - noise is as strong as the δ in whose place it is
        bare = replace(
            treatment, noise=False, settings=replace(treatment.settings, perturbing=None)
        )
        under = self.protected(subject, bare)
        boxes, image = under.decision.lesions.boxes, self.image(subject)
        allowed = allowed_cells(boxes, image.rows, image.columns)
        generator = np.random.default_rng([self.material.seed, _number_of(subject), 1])
        samples = image.stored.shape[-1]
        most = int(made.attack.epsilon)
        grid = generator.integers(-most, most + 1, (*allowed.shape, samples)).astype(np.int8)
        delta = Delta(grid * allowed[..., None].astype(np.int8))
        return Found(replace(under.decision, delta=delta), under.seconds)

    def _name_of(self, subject: Subject, treatment: Treatment) -> str:
        digest = treatment.digest(dict(self.material.fingerprints))
        return f"marks/{subject.digest[:20]}-{self.material.seed}-{digest}"

    # --- How it looks -------------------------------------------------------------------------

    def quality(self, subject: Subject, treatment: Treatment) -> dict[str, Any]:
        """How much of the picture is left to the reader, and what it took."""
        key = self.quality_key(subject, treatment)
        return self.measured(key, lambda: self._quality(subject, treatment))

    def quality_key(self, subject: Subject, treatment: Treatment) -> Key:
        """What `quality` is known by."""
        digest = treatment.digest(dict(self.material.fingerprints))
        return Key("marking", digest, subject.digest)

    def _quality(self, subject: Subject, treatment: Treatment) -> dict[str, Any]:
        made = self.protected(subject, treatment)
        original, after = self.original(subject), made.stored
        decision = made.decision
        logo = np.zeros(original.shape[:2], bool)
        logo[decision.mark.region] = decision.mark.logo[..., 3] > 0
        changed = (made.beneath != original).any(axis=-1)
        before, shown = self.shown(subject, original), self.shown(subject, after)
        clear = ~metrics.widened(logo, metrics.REACH)
        grid = None if decision.delta is None else decision.delta.grid
        area = self.annotation(subject)
        return {
            "ssim": likeness(before, shown),
            "outside": likeness(before, shown, clear),
            "lesion": None if area is None else likeness(before, shown, area),
            "delta": 0 if grid is None else int(np.abs(grid.astype(int)).max()),
            "under_logo": None if area is None else metrics.covered_share(area, logo),
            "under_delta": None if area is None else metrics.covered_share(area, changed),
            "queries": decision.queries,
            "gradients": decision.gradients,
            "seconds": made.seconds,
        }

    # --- Asking -------------------------------------------------------------------------------

    def said(self, windowed: Float, models: Sequence[str] = ()) -> dict[str, list[float]]:
        """Class probabilities of a displayed picture (rows, columns, 1 or 3) in 0..1, by model;
        default: all of them."""
        return ask(self.material, windowed, models)

    def said_of(
        self, subject: Subject, stored: Stored, models: Sequence[str] = ()
    ) -> dict[str, list[float]]:
        """The same for stored values of a frame."""
        return self.said(self.shown(subject, stored), models)

    def removed(self, network: str, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """What a removal network makes of a displayed picture (rows, columns, 1 or 3) uint8."""
        whole, _ = self.remover(network)(picture)
        return whole

    def remover(self, network: str) -> Remover:
        """A removal network as counterattacks take it."""
        return removal_network(self.material.removers[network])


def likeness(one: Float, other: Float, inside: Any = None) -> float | None:
    """SSIM of displayed pictures in 0..1; None where the picture, or the part, has no window."""
    try:
        return metrics.ssim(one, other, data_range=1.0, inside=inside)
    except metrics.Undefined:
        return None


def _loaded(subject: Subject) -> MedicalImage:
    return subject.case.load()


def _annotated(subject: Subject) -> Annotation | None:
    return subject.case.annotation()


def _number_of(subject: Subject) -> int:
    """Random numbers follow from the picture, so that a larger sample changes nothing."""
    return int(subject.digest[:16], 16)


def unreadable(subject: Subject, error: PictureFailed) -> PictureFailed:
    """What to say where a picture was there when the run began and is not now."""
    return PictureFailed(f"picture {subject.number} of the run: {error.message}", error.hint)
