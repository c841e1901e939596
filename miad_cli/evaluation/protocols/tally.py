"""From what models said of pictures to figures with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from miad_cli.evaluation import intervals, metrics
from miad_cli.evaluation.findings import Cell, Column, Curve, Table
from miad_cli.evaluation.intervals import Estimate
from miad_cli.evaluation.protocols.bench import Bench, Subject
from miad_cli.evaluation.protocols.treatments import Treatment

AUC_RESAMPLES = 400
"""A ROC-AUC is sorted anew for each of them; its interval's ends move in the third digit."""


class Answer(NamedTuple):
    """What one model said of one picture, as probabilities of the classes."""

    subject: Subject
    model: str
    chances: Sequence[float]

    @property
    def right(self) -> bool:
        """Whether it still says what counts as right."""
        return int(np.argmax(self.chances)) == self.subject.references[self.model]


Answers = list[Answer]


def answers_of(
    subject: Subject, said: Mapping[str, Sequence[float]], models: Iterable[str] | None = None
) -> Answers:
    """The answers of some models (default: all that were asked) to one picture."""
    return [Answer(subject, name, said[name]) for name in (said if models is None else models)]


class Tally:
    """Makes estimates. Each draws from a generator of its own, so that no figure depends on which
    others there are; pictures of one patient are drawn together."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def accuracy(self, answers: Answers) -> Estimate | None:
        """The share of diagnoses that stand."""
        return self.share([(one.subject, one.right) for one in answers])

    def auc(self, answers: Answers) -> Estimate | None:
        """Micro-average, one class against the rest."""
        if not answers:
            return None
        labels, chances = _arrays(answers)

        def statistic(chosen: Any) -> float:
            return metrics.micro_auc(labels[chosen], chances[chosen])

        groups = [one.subject.group for one in answers]
        found = intervals.bootstrap(statistic, len(answers), self._draw(), groups, AUC_RESAMPLES)
        return _of_pictures(found, (one.subject for one in answers))

    def curve(self, name: str, answers: Answers, paper: float | None = None) -> Curve | None:
        """The ROC curve of the same."""
        found = self.auc(answers)
        if found is None:
            return None
        curve = metrics.roc_curve(*metrics.micro_average(*_arrays(answers)))
        return Curve(name, curve.false_positive_rate, curve.true_positive_rate, found, paper)

    def share(self, hits: Sequence[tuple[Subject, bool]]) -> Estimate | None:
        """The share of pictures of which something is true."""
        if not hits:
            return None
        groups = [subject.group for subject, _ in hits]
        found = intervals.share_estimate([hit for _, hit in hits], self._draw(), groups)
        return _of_pictures(found, (subject for subject, _ in hits))

    def mean(self, values: Iterable[tuple[Subject, float | None]]) -> Estimate | None:
        """The mean over pictures that have the figure; None where none has, or one is infinite
        (PSNR of equal pictures)."""
        there = [(subject, value) for subject, value in values if value is not None]
        if not there:
            return None
        groups = [subject.group for subject, _ in there]
        try:
            found = intervals.mean_estimate([value for _, value in there], self._draw(), groups)
        except metrics.Undefined:
            return None
        return _of_pictures(found, (subject for subject, _ in there))

    def _draw(self) -> np.random.Generator:
        return np.random.default_rng(self._seed)


def _of_pictures(found: Estimate, subjects: Iterable[Subject]) -> Estimate:
    """With the number of pictures as `n`, of which several models may each have said something."""
    return replace(found, n=len({one.digest for one in subjects}))


def _arrays(answers: Answers) -> tuple[Any, Any]:
    """What counts as right (n,) and the probabilities (n, classes)."""
    labels = np.array([one.subject.references[one.model] for one in answers], np.int64)
    return labels, np.array([one.chances for one in answers], np.float64)


# --- A protocol's pictures, as the reader sees them -------------------------------------------

QUALITY = (
    Column("pictures", "pictures", digits=0),
    Column("ssim", "SSIM", "higher", 3),
    Column("outside", "SSIM outside the logo", "higher", 3),
    Column("lesion", "SSIM inside the lesion", "higher", 3),
    Column("delta", "largest δ, 1/255 of the window", "lower", 0),
    Column("under_logo", "lesion under the logo, share", "lower", 3),
    Column("touched", "pictures with any of it under the logo", "lower"),
    Column("under_delta", "lesion under δ, share", "lower", 3),
    Column("queries", "candidates a picture", None, 1),
    Column("gradients", "gradients a picture", None, 1),
    Column("seconds", "seconds a picture", "lower", 2),
)


def qualities(
    bench: Bench, subjects: Iterable[Subject], treatments: Iterable[Treatment]
) -> list[tuple[Subject, dict[str, Any]]]:
    """How pictures look after treatments, those left out that could not be protected."""
    found = [(subject, bench.quality(subject, one)) for one in treatments for subject in subjects]
    return [(subject, quality) for subject, quality in found if "refused" not in quality]


def quality_row(tally: Tally, found: Sequence[tuple[Subject, dict[str, Any]]]) -> list[Cell]:
    """One row of `QUALITY`."""

    def mean(name: str) -> Estimate | None:
        return tally.mean((subject, one[name]) for subject, one in found)

    deltas = [int(one["delta"]) for _, one in found]
    touched = [
        (subject, one["under_logo"] > 0) for subject, one in found if one["under_logo"] is not None
    ]
    return [
        len({subject.digest for subject, _ in found}),
        mean("ssim"),
        mean("outside"),
        mean("lesion"),
        max(deltas, default=None),
        mean("under_logo"),
        tally.share(touched),
        mean("under_delta"),
        mean("queries"),
        mean("gradients"),
        mean("seconds"),
    ]


def quality_table(
    protocol: str, bench: Bench, tally: Tally, rows: Mapping[str, Sequence[Treatment]]
) -> Table:
    """What readers are left with, in one row for each name."""
    subjects = bench.subjects
    return Table(
        f"{protocol}-quality",
        protocol,
        "What is left to the reader",
        "How like the original the protected pictures are, how much of annotated lesions lies "
        "under logo and δ, and what it took.",
        (Column("protected", "protected"), *QUALITY),
        tuple(
            (name, *quality_row(tally, qualities(bench, subjects, treatments)))
            for name, treatments in rows.items()
        ),
    )
