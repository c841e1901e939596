"""What the models say of a picture, and of the picture with a logo on it (MIAD-MARK Eq. 12)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from miad_cli.imaging.image import MedicalImage
from miad_cli.models.bank import Bank, Surrogate
from miad_cli.models.occlusion import occlusion
from miad_cli.models.view import ModelView, view_for
from miad_cli.watermark.blend import Mark, Tone, blend_patch, tone_for
from miad_cli.watermark.delta import Delta, add
from miad_cli.watermark.lesions import Box, boxes_above, enlarge, heat_map
from miad_cli.watermark.search import Score

Float = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Disturbance = Callable[[Float], Float]
"""What happens to views (N, 3, rows, columns) in 0..1 before a model sees them."""

BATCH = 8
"""Candidates that a model is asked about at a time: enough to share what a call costs, few enough
that what they fill stays in a processor's caches."""


@dataclass(frozen=True, eq=False)
class Opinion:
    """What each model of the bank says of one picture.

    Attributes:
        probabilities: one (classes,) array a model, or empty where the study has no known task.
        features: one (n,) array a model that names a feature tensor.
    """

    probabilities: tuple[Float, ...]
    features: tuple[Float, ...]

    @property
    def ensemble(self) -> Float:
        """Mean probabilities, every model with the same weight beta."""
        result: Float = np.mean(np.stack(self.probabilities), axis=0)
        return result

    @property
    def label(self) -> int:
        """The ensemble's prediction."""
        return int(self.ensemble.argmax())

    def margins(self, label: int) -> Float:
        """(models,): how much surer each model is of `label` than of any other class, as the
        difference of log probabilities, which is that of logits; negative where it is fooled."""
        logs = [np.log(np.maximum(one.astype(np.float64), 1e-30)) for one in self.probabilities]
        return np.array([one[label] - np.delete(one, label).max() for one in logs], np.float32)


@dataclass(frozen=True, eq=False)
class Attention:
    """Where a model looks: heat (rows, columns) in 0..255, and the boxes above the threshold."""

    heat: Float
    boxes: tuple[Box, ...]


class Ensemble:
    """The bank in front of one frame of a picture (default: the key frame), as it will be stored.

    A model's view is linear, so a candidate costs the view of the pixels under its logo, not of
    the whole picture; what is scored is exactly the view of the stored integers to be written.
    """

    def __init__(self, bank: Bank, image: MedicalImage, frame: int | None = None) -> None:
        self.bank, self.image = bank, image
        self.frame = image.key_frame if frame is None else frame
        self.stored = image.stored[self.frame]
        self.tone: Tone = tone_for(
            (image.window.low, image.window.high), image.bounds, image.inverted, image.padding
        )
        self.eyes = self._eyes()
        self.views = self._views_of(self.stored)
        self.clean: Opinion = self._ask(self.views)

    def over(self, delta: Delta | None) -> Ensemble:
        """The same, with δ under whatever is blended; `clean` stays what was said without it."""
        other = copy(self)
        if delta is not None:
            other.stored = add(self.stored[None], delta, self.tone)[0]
            other.views = other._views_of(other.stored)
        return other

    def among(self, numbers: Sequence[int]) -> Ensemble:
        """The same in front of these of the bank's surrogates alone, by number, in order."""
        chosen = tuple(self.bank.surrogates[number] for number in numbers)
        if chosen == self.bank.surrogates:
            return self
        other = copy(self)
        other.bank = replace(self.bank, surrogates=chosen)
        other.eyes = [self.eyes[number] for number in numbers]
        other.views = [self.views[number] for number in numbers]
        featured = [one for one in self.bank.surrogates if one.manifest.features is not None]
        features = zip(featured, self.clean.features, strict=True)
        other.clean = Opinion(
            tuple(self.clean.probabilities[number] for number in numbers if self.bank.task),
            tuple(feature for one, feature in features if one in chosen),
        )
        return other

    def opinion_of(self, frame: NDArray[np.integer]) -> Opinion:
        """What the models say of stored values (rows, columns, samples), whole."""
        return self._ask(self._views_of(frame))

    def opinion_with(self, mark: Mark) -> Opinion:
        """What the models say of the picture with `mark` blended into its stored values."""
        return self.opinions_with([mark])[0]

    def opinions_with(
        self, marks: Sequence[Mark], disturbance: Disturbance | None = None
    ) -> list[Opinion]:
        """The same for each of several marks, asked together, some at a time.

        `disturbance`, where there is one, happens to the models' views of the marked picture.
        """
        opinions: list[Opinion] = []
        for start in range(0, len(marks), BATCH):
            views = self.views_with(marks[start : start + BATCH])
            views = views if disturbance is None else [disturbance(one) for one in views]
            opinions += self._ask_all(views)
        return opinions

    def views_with(self, marks: Sequence[Mark]) -> list[Float]:
        """What each model sees of the picture with each of `marks`: (marks, 3, rows, columns).

        Models that look alike get the same array.
        """
        seen = {
            eye: np.repeat(view[None], len(marks), axis=0)
            for eye, view in zip(self.eyes, self.views, strict=True)
        }
        for number, mark in enumerate(marks):
            rows, columns = mark.region
            patch = self.stored[rows, columns]
            before = self.image.windowed(patch)
            change = self.image.windowed(blend_patch(patch, mark, self.tone)) - before
            for eye, views in seen.items():
                views[number] = eye.add_patch(views[number], change, mark.y, mark.x)
        return [seen[eye] for eye in self.eyes]

    def shows(self, mark: Mark, share: float) -> bool:
        """True where at least `share` (0..1) of the pixels under the logo's visible part would
        differ from what they are."""
        rows, columns = mark.region
        patch = self.stored[rows, columns]
        changed = (blend_patch(patch, mark, self.tone) != patch).any(axis=-1)
        return bool(changed[mark.logo[..., 3] > 0].mean() >= share)

    def score(self, mark: Mark, label: int | None = None) -> Score:
        """Eq. 12: the ensemble's confidence in `label` (default: its prediction on the clean
        picture). Where the task is unknown: minus the mean relative distance of the features,
        and nothing ever counts as fooled."""
        return self.score_many([mark], label)[0]

    def score_many(self, marks: Sequence[Mark], label: int | None = None) -> list[Score]:
        """The same for each of several marks, asked together."""
        return [self._scored(opinion, label) for opinion in self.opinions_with(marks)]

    def _scored(self, opinion: Opinion, label: int | None) -> Score:
        if self.bank.task is None:
            return Score(-feature_distance(self.clean, opinion), fooled=False)
        attacked = self.clean.label if label is None else label
        return Score(float(opinion.ensemble[attacked]), opinion.label != attacked)

    def attention(self, threshold: float, top_share: float) -> Attention:
        """Boxes of what the bank's attention model looks at (Alg. 2), on the picture's pixels:
        by Grad-CAM, or, through a model that gives no gradients, by occlusion."""
        looking = self.bank.attention
        spec = looking.manifest.input
        label = self.clean.label if self.bank.task else 0
        view = self._view(looking).of(self.image.windowed(self.stored))
        if looking.looks:
            weighted = looking.differentiable.cam(view, self.bank.task, label)
            shift = looking.differentiable.cam_shift
        else:
            weighted = occlusion(view, partial(self._loss, looking, view, label))[None]
            shift = (0.0, 0.0)
        heat = enlarge(heat_map(weighted, top_share), spec.rows, spec.columns, shift)
        on_picture = self._view(looking).back(heat)
        return Attention(on_picture, boxes_above(on_picture, threshold))

    def _loss(self, looking: Surrogate, view: Float, label: int, covered: Float) -> Float:
        """(N,): how far each covered view (N, 3, rows, columns) is from what is said of `view`,
        as log odds of the label, or, where the task is unknown, as features."""
        answers = looking.session.run(np.concatenate([view[None], covered]))
        if self.bank.task is not None:
            chances = looking.session.probabilities(answers, self.bank.task)[:, label]
            odds = np.clip(chances.astype(np.float64), 1e-7, 1 - 1e-7)
            odds = np.log(odds) - np.log1p(-odds)
            return np.asarray(odds[0] - odds[1:], np.float32)
        assert looking.manifest.features is not None  # noqa: S101 - the bank took it for them
        features = answers[looking.manifest.features.tensor].reshape(len(covered) + 1, -1)
        result: Float = np.linalg.norm(features[1:] - features[0], axis=1)
        return result

    def _view(self, surrogate: Surrogate) -> ModelView:
        return view_for(surrogate.manifest.input, self.image.rows, self.image.columns)

    def _eyes(self) -> list[ModelView]:
        """Each model's view, the same object for models that look alike."""
        alike: dict[tuple[int, int, str], ModelView] = {}
        eyes = []
        for one in self.bank.surrogates:
            spec = one.manifest.input
            eyes.append(alike.setdefault((spec.rows, spec.columns, spec.fit), self._view(one)))
        return eyes

    def _views_of(self, frame: NDArray[np.integer]) -> list[Float]:
        """What each model sees of stored values (rows, columns, samples), whole."""
        shown = self.image.windowed(frame)
        seen = {eye: eye.of(shown) for eye in dict.fromkeys(self.eyes)}
        return [seen[eye] for eye in self.eyes]

    def _ask(self, views: Sequence[Float]) -> Opinion:
        return self._ask_all([view[None] for view in views])[0]

    def _ask_all(self, views: Sequence[Float]) -> list[Opinion]:
        """What the models say of N pictures at once, of which each model sees (N, 3, rows,
        columns)."""
        probabilities, features = [], []
        for surrogate, seen in zip(self.bank.surrogates, views, strict=True):
            answers = surrogate.session.run(seen)
            if self.bank.task is not None:
                probabilities.append(surrogate.session.probabilities(answers, self.bank.task))
            if surrogate.manifest.features is not None:
                tensor = answers[surrogate.manifest.features.tensor]
                features.append(tensor.reshape(len(seen), -1))
        return [
            Opinion(
                tuple(one[number] for one in probabilities), tuple(one[number] for one in features)
            )
            for number in range(len(views[0]))
        ]


def feature_distance(one: Opinion, other: Opinion) -> float:
    """Mean over models of |a - b| / |a|, how far the features moved relative to their length."""
    moved = [
        float(np.linalg.norm(a - b) / (np.linalg.norm(a) + 1e-12))
        for a, b in zip(one.features, other.features, strict=True)
    ]
    return float(np.mean(moved)) if moved else 0.0
