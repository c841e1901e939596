"""Who judges marks in a guided search: every model on every slice, a voice, and what is left to be
lost by all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from miad_cli.watermark.blend import Mark
from miad_cli.watermark.ensemble import Disturbance, Ensemble, Opinion
from miad_cli.watermark.interpolation import Numbers
from miad_cli.watermark.slopes import Slopes

Float = NDArray[np.float32]


class Scorer(Protocol):
    """Who judges marks: the voices of several models on several shots that share a mark."""

    @property
    def can_be_fooled(self) -> bool:
        """Whether a value below 0 means that a voice is fooled."""

    def values(self, marks: Sequence[Mark], disturbance: Disturbance | None = None) -> Float:
        """(marks, voices): what each voice gives for each mark; lower is better."""

    def slopes(self, marks: Sequence[Mark]) -> Slopes | None:
        """First-order effects around pictures with `marks` on them; None where no voice has
        any."""


class Panel:
    """The bank in front of several shots, each model on each shot a voice.

    A voice's value is the model's margin (see `Opinion.margins`) for `label`, by default the
    ensemble's prediction on the clean shot; where the task is unknown, minus the distance of its
    features relative to their length. With `numbers` only these of the models have voices.
    """

    def __init__(
        self,
        ensembles: Sequence[Ensemble],
        label: int | None = None,
        numbers: Sequence[int] | None = None,
    ) -> None:
        self.can_be_fooled = ensembles[0].bank.task is not None
        # Of the whole bank: a few models may see another class in the clean picture.
        self._labels = [
            (one.clean.label if label is None else label) if self.can_be_fooled else None
            for one in ensembles
        ]
        self._ensembles = [one if numbers is None else one.among(numbers) for one in ensembles]

    def values(self, marks: Sequence[Mark], disturbance: Disturbance | None = None) -> Float:
        return np.concatenate(
            [
                np.stack(
                    [_values(one, each, label) for each in one.opinions_with(marks, disturbance)]
                )
                for one, label in zip(self._ensembles, self._labels, strict=True)
            ],
            axis=1,
        )

    def slopes(self, marks: Sequence[Mark]) -> Slopes | None:
        slopes = Slopes(self._ensembles, self._labels, marks)
        return slopes if slopes.known.any() else None


def _values(ensemble: Ensemble, opinion: Opinion, label: int | None) -> Float:
    """(models,): a voice's value each."""
    if label is not None:
        return opinion.margins(label)
    moved = [
        -float(np.linalg.norm(after - before) / (np.linalg.norm(before) + 1e-12))
        for before, after in zip(ensemble.clean.features, opinion.features, strict=True)
    ]
    return np.array(moved, np.float32)


def shortfall(values: Numbers, target: float | None) -> Numbers:
    """(n,): how much is left to be lost by voices with `values` (n, voices); lower is better.

    With a target, log(1 + what each value has to fall until it is `target` below 0), which is 0
    where it is: a voice that is nearly fooled gains more by the next step than one that is far
    from it. Without, the value. Half of it counts as the mean over the voices, half as the
    largest: the mean alone gives up on a voice that is hard to fool while others can be lowered,
    the largest alone holds all others where the hardest is.
    """
    left = values if target is None else np.log1p(np.maximum(values + target, 0))
    result: Numbers = (left.mean(axis=1) + left.max(axis=1)) / 2
    return result


# --- Slightly disturbed views ------------------------------------------------------------------


def shifted(views: Float) -> Float:
    """Views (N, 3, rows, columns) two pixels down and to the right; the edge is repeated."""
    padded = np.pad(views, ((0, 0), (0, 0), (2, 0), (2, 0)), mode="edge")
    return np.ascontiguousarray(padded[..., :-2, :-2])


def blurred(views: Float) -> Float:
    """Views (N, 3, rows, columns) smoothed by 1-2-1 along both axes; the edge is repeated."""
    for axis in (2, 3):
        widths = [(1, 1) if one == axis else (0, 0) for one in range(4)]
        padded = np.pad(views, widths, mode="edge")
        length = views.shape[axis]
        first, second, third = (padded.take(range(n, n + length), axis) for n in range(3))
        views = ((first + 2 * second + third) / 4).astype(np.float32)
    return views


DISTURBANCES: tuple[Disturbance, ...] = (shifted, blurred)
