"""The figures of the report, each with its definition, and the intervals around them.

Pure functions over numpy arrays. Pictures are (rows, columns) or (rows, columns, channels) of any
integer or floating type, masks (rows, columns), true or non-zero where they mark something. A
figure that does not exist for what it was asked about raises `Undefined`; none is ever NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]
Mask = NDArray[np.bool_]

REACH = 5
"""How far an SSIM window reaches from its centre: 11 pixels in all (Wang et al. 2004)."""
SIGMA = 1.5
"""Standard deviation of the window's Gaussian, in pixels."""
K1, K2 = 0.01, 0.03
"""What keeps SSIM's two quotients from 0 / 0, as shares of the data range."""

LEVEL = 95.0
"""Of every interval, in per cent."""
RESAMPLES = 2000
_AT_ONCE = 1 << 21
"""How many draws are held in memory at a time."""
Z = 1.959963984540054
"""The normal quantile that leaves 2.5 % above it."""


class Undefined(ValueError):
    """A figure that does not exist for these data: there is nothing to divide by."""


# --- Classification -----------------------------------------------------------------------------


def accuracy(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Share of pictures (N,) whose predicted class is their label.

    Raises:
        Undefined: there is no picture.
    """
    actual, said = _pair(labels, predictions)
    return float((actual == said).mean())


def balanced_accuracy(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Mean, over the classes that occur among `labels`, of the accuracy on each class's pictures.

    What scikit-learn calls `balanced_accuracy_score` (not adjusted).

    Raises:
        Undefined: there is no picture.
    """
    actual, said = _pair(labels, predictions)
    return float(np.mean([(said[actual == one] == one).mean() for one in np.unique(actual)]))


@dataclass(frozen=True, eq=False)
class RocCurve:
    """Shares (K,) of negatives and positives whose score is at least `thresholds` (K,), which
    fall; the first threshold is infinite, where both shares are 0."""

    false_positive_rate: Float
    true_positive_rate: Float
    thresholds: Float


def roc_curve(positive: ArrayLike, scores: ArrayLike) -> RocCurve:
    """The ROC curve of scores (N,), with a point for every value that occurs among them.

    What scikit-learn's `roc_curve` gives with `drop_intermediate=False`.

    Raises:
        Undefined: nothing is positive, or nothing is negative, or a score is not finite.
    """
    truth, values = _binary(positive, scores)
    order = np.argsort(-values, kind="stable")
    truth, values = truth[order], values[order]
    last = np.flatnonzero(np.append(np.diff(values) != 0, True))  # of each run of equal scores
    hits = np.cumsum(truth)[last]
    alarms = last + 1 - hits
    return RocCurve(
        np.append(0.0, alarms / alarms[-1]),
        np.append(0.0, hits / hits[-1]),
        np.append(np.inf, values[last]),
    )


def micro_average(labels: ArrayLike, probabilities: ArrayLike) -> tuple[Mask, Float]:
    """One-vs-rest over all classes at once: (N * classes,) whether a class is the label, and its
    probability; what `roc_curve` and `roc_auc` take.

    `labels` (N,) are columns of `probabilities` (N, classes).

    Raises:
        Undefined: there is no picture, or only one class.
        ValueError: the two do not belong together.
    """
    actual = np.asarray(labels)
    scores = np.asarray(probabilities, np.float64)
    if scores.ndim != 2 or actual.shape != scores.shape[:1]:
        raise ValueError(f"labels {actual.shape} do not go with probabilities {scores.shape}")
    if not actual.size or scores.shape[1] < 2:
        raise Undefined("one class against the rest takes pictures and two classes")
    if (
        not np.issubdtype(actual.dtype, np.integer)
        or not ((actual >= 0) & (actual < scores.shape[1])).all()
    ):
        raise ValueError(f"a label is no column of {scores.shape[1]}")
    truth: Mask = actual[:, None] == np.arange(scores.shape[1])
    return truth.reshape(-1), scores.reshape(-1)


def roc_auc(positive: ArrayLike, scores: ArrayLike) -> float:
    """Probability that a positive scores above a negative, ties counting half: the rank statistic
    (Mann, Whitney 1947), which is the area under `roc_curve`.

    Raises:
        Undefined: nothing is positive, or nothing is negative, or a score is not finite.
    """
    truth, values = _binary(positive, scores)
    hits = int(truth.sum())
    above = float(_ranks(values)[truth].sum()) - hits * (hits + 1) / 2
    return above / (hits * (len(truth) - hits))


def micro_auc(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """The paper's ROC-AUC: micro-average, one-vs-rest, for labels (N,) and probabilities
    (N, classes).

    What scikit-learn's `roc_auc_score(multi_class="ovr", average="micro")` gives.

    Raises:
        Undefined: there is no picture, only one class, or a probability that is not finite.
    """
    return roc_auc(*micro_average(labels, probabilities))


def _ranks(values: Float) -> Float:
    """Ranks from 1; equal values share the mean of theirs."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: Float = (ends - (counts - 1) / 2)[group]
    return ranks


def _pair(labels: ArrayLike, predictions: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    actual, said = np.asarray(labels), np.asarray(predictions)
    if actual.ndim != 1 or actual.shape != said.shape:
        raise ValueError(f"labels {actual.shape} do not go with predictions {said.shape}")
    if not actual.size:
        raise Undefined("no picture, no accuracy")
    return actual, said


def _binary(positive: ArrayLike, scores: ArrayLike) -> tuple[Mask, Float]:
    truth, values = np.asarray(positive, bool), np.asarray(scores, np.float64)
    if truth.ndim != 1 or truth.shape != values.shape:
        raise ValueError(f"truth {truth.shape} does not go with scores {values.shape}")
    if not np.isfinite(values).all():
        raise Undefined("a score is not a finite number")
    if truth.all() or not truth.any():
        raise Undefined("a ROC curve takes positives and negatives")
    return truth, values


# --- Likeness of pictures -----------------------------------------------------------------------


def rmse(
    one: ArrayLike, other: ArrayLike, *, data_range: float, inside: ArrayLike | None = None
) -> float:
    """Root of the mean squared difference, on the scale where `data_range` is 255.

    `data_range` is the distance from black to white in the pictures' own values (255 for 8 bits,
    1 for 0..1). `inside` restricts it to the pixels of a mask, all channels of them.

    Raises:
        Undefined: the mask marks nothing.
        ValueError: the shapes differ, or there is no such range.
    """
    return math.sqrt(_squared_error(one, other, data_range, inside)) * 255


def psnr(
    one: ArrayLike, other: ArrayLike, *, data_range: float, inside: ArrayLike | None = None
) -> float:
    """Peak signal-to-noise ratio in dB, 10 log10(data_range^2 / mean squared difference).

    Infinite (`math.inf`) where the two are the same. Arguments and errors as for `rmse`;
    scikit-image's `peak_signal_noise_ratio` with the same `data_range` gives the same.
    """
    error = _squared_error(one, other, data_range, inside)
    return -10 * math.log10(error) if error else math.inf


def ssim(
    one: ArrayLike, other: ArrayLike, *, data_range: float, inside: ArrayLike | None = None
) -> float:
    """Structural similarity (Wang, Bovik, Sheikh, Simoncelli 2004), at most 1: the mean of
    `ssim_map` over all channels and over every pixel whose window lies within the picture, that
    is all but the outermost 5.

    With `inside` the mean is over those of them that the mask marks. A window sees 5 pixels
    around its centre: the figure for a lesion feels what lies just beside it. For what lies
    clear of a logo give `~widened(logo, REACH)`.

    scikit-image gives the same number for `structural_similarity(one, other, data_range=...,
    gaussian_weights=True, sigma=1.5, use_sample_covariance=False)` on pictures converted to
    float64, with `channel_axis=-1` in colour.

    Raises:
        Undefined: the picture is smaller than a window, or the mask marks nothing away from the
            picture's edge.
        ValueError: the shapes differ, or there is no such range.
    """
    whole = ssim_map(one, other, data_range=data_range)
    inner = np.s_[REACH:-REACH, REACH:-REACH]
    values = whole[inner]
    if inside is not None:
        values = values[_fitting(inside, whole.shape)[inner]]
    if not values.size:
        raise Undefined("SSIM has no whole window there")
    return float(values.mean())


def ssim_map(one: ArrayLike, other: ArrayLike, *, data_range: float) -> Float:
    """SSIM of the 11 x 11 Gaussian window around each pixel, float64, of the pictures' shape.

    Beyond the edge the picture is mirrored, its outermost pixels included. `data_range` as for
    `rmse`. What `structural_similarity` gives with `full=True` (its other options: `ssim`).

    Raises:
        Undefined: the picture is smaller than a window.
        ValueError: the shapes differ, or there is no such range.
    """
    x, y = _comparable(one, other, data_range)
    if min(x.shape[:2]) < 2 * REACH + 1:
        raise Undefined(f"SSIM takes pictures of at least {2 * REACH + 1} pixels a side")
    mean_x, mean_y = _blurred(x), _blurred(y)
    square = mean_x**2 + mean_y**2
    product = mean_x * mean_y
    variances = _blurred(x**2 + y**2) - square
    covariance = _blurred(x * y) - product
    c1, c2 = K1**2, K2**2
    result: Float = ((2 * product + c1) * (2 * covariance + c2)) / (
        (square + c1) * (variances + c2)
    )
    return result


def _blurred(values: Float) -> Float:
    """The mean under a Gaussian window around each pixel; the two axes one after the other."""
    steps = np.arange(-REACH, REACH + 1)
    weights = np.exp(-(steps**2) / (2 * SIGMA**2))
    weights /= weights.sum()
    for axis in (0, 1):
        padding = [(0, 0)] * values.ndim
        padding[axis] = (REACH, REACH)
        padded = np.moveaxis(np.pad(values, padding, mode="symmetric"), axis, 0)
        length = values.shape[axis]
        total = sum(w * padded[i : i + length] for i, w in enumerate(weights))
        values = np.moveaxis(np.asarray(total), 0, axis)
    return values


def _squared_error(
    one: ArrayLike, other: ArrayLike, data_range: float, inside: ArrayLike | None
) -> float:
    """Mean squared difference, in units of the data range squared."""
    x, y = _comparable(one, other, data_range)
    difference = x - y
    if inside is not None:
        difference = difference[_fitting(inside, x.shape)]
    if not difference.size:
        raise Undefined("no pixel to compare")
    return float((difference**2).mean())


def _comparable(one: ArrayLike, other: ArrayLike, data_range: float) -> tuple[Float, Float]:
    """Both as float64, in units of the data range."""
    x, y = np.asarray(one, np.float64), np.asarray(other, np.float64)
    if x.shape != y.shape or x.ndim not in (2, 3):
        raise ValueError(f"pictures of {x.shape} and {y.shape} cannot be compared")
    if not (math.isfinite(data_range) and data_range > 0):
        raise ValueError(f"no data range: {data_range}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise Undefined("a pixel is not a finite number")
    return x / data_range, y / data_range


# --- Masks --------------------------------------------------------------------------------------


def mask_iou(one: ArrayLike, other: ArrayLike) -> float:
    """Intersection over union of two masks of one shape.

    Raises:
        Undefined: both are empty.
    """
    first, second = np.asarray(one) != 0, np.asarray(other) != 0
    if first.shape != second.shape:
        raise ValueError(f"masks of {first.shape} and {second.shape} cannot be compared")
    union = int((first | second).sum())
    if not union:
        raise Undefined("two empty masks have no overlap to speak of")
    return int((first & second).sum()) / union


def covered_share(area: ArrayLike, cover: ArrayLike) -> float:
    """Share of the annotated `area` (rows, columns) that `cover` lies on.

    `cover` is a logo's mask, or a δ: (rows, columns) or (rows, columns, channels), counted where
    it is not 0 in any channel.

    Raises:
        Undefined: nothing is annotated.
    """
    marked = np.asarray(area) != 0
    under = np.asarray(cover) != 0
    under = under.any(axis=2) if under.ndim == 3 else under
    if marked.ndim != 2 or marked.shape != under.shape:
        raise ValueError(f"an area of {marked.shape} does not go with a cover of {under.shape}")
    if not marked.any():
        raise Undefined("nothing is annotated")
    return float(under[marked].mean())


def widened(mask: ArrayLike, reach: int) -> Mask:
    """`mask` (rows, columns) and every pixel at most `reach` rows and columns from it."""
    grown: Mask = np.asarray(mask) != 0
    for axis in (0, 1):
        source = np.moveaxis(grown, axis, 0)
        spread = source.copy()
        for step in range(1, min(reach, len(source) - 1) + 1):
            spread[step:] |= source[:-step]
            spread[:-step] |= source[step:]
        grown = np.moveaxis(spread, 0, axis)
    return grown


def _fitting(mask: ArrayLike, shape: tuple[int, ...]) -> Mask:
    marked: Mask = np.asarray(mask) != 0
    if marked.shape != shape[:2]:
        raise ValueError(f"a mask of {marked.shape} does not go with a picture of {shape}")
    return marked


# --- Intervals ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """A figure over `n` pictures with its 95 % interval.

    `method` says where the interval comes from: `bootstrap` (percentiles), `wilson` (a share of
    which all pictures, or none, are part: resampling them gives nothing else, so no width), or
    `none` where one picture, or one group, says nothing of others; `low` and `high` are `value`
    then.
    """

    value: float
    low: float
    high: float
    n: int
    method: Literal["bootstrap", "wilson", "none"] = "bootstrap"


@dataclass(frozen=True)
class Overlap:
    """How much of what is annotated lies under something: the mean covered share of an area, and
    the share of pictures in which any of it is covered."""

    covered: Estimate
    touched: Estimate


def bootstrap(
    statistic: Callable[[NDArray[np.intp]], float],
    n: int,
    generator: np.random.Generator,
    groups: Sequence[object] | None = None,
    resamples: int = RESAMPLES,
) -> Estimate:
    """`statistic` over `n` pictures and its percentile bootstrap interval (Efron 1979).

    `statistic` takes the indices of pictures, some more than once, and gives the figure for
    them: `lambda chosen: accuracy(labels[chosen], said[chosen])`. With `groups` (n,), such as
    patients, whole groups are drawn, as many as there are: pictures of one patient resemble each
    other, and drawing them singly gives intervals that are too narrow.

    Raises:
        Undefined: there is no picture, or the figure is not finite, here or in a resample.
    """
    numbers, count = _numbered(groups, n)
    value = _finite(statistic(np.arange(n)))
    if count == 1:
        return Estimate(value, value, value, n, "none")
    members = np.split(np.argsort(numbers, kind="stable"), np.cumsum(np.bincount(numbers))[:-1])
    drawn = np.empty(resamples)
    for index in range(resamples):
        chosen = generator.integers(0, count, count)
        # Where each group is one picture its number is the picture's.
        picked = chosen if count == n else np.concatenate([members[one] for one in chosen])
        drawn[index] = _finite(statistic(picked))
    return _between(value, n, drawn)


def mean_estimate(
    values: ArrayLike,
    generator: np.random.Generator,
    groups: Sequence[object] | None = None,
) -> Estimate:
    """The mean of one figure a picture (n,), PSNR or SSIM, and its bootstrap interval.

    Raises:
        Undefined: there is no value, or one is not finite (PSNR of equal pictures).
    """
    figures = np.asarray(values, np.float64)
    numbers, count = _numbered(groups, len(figures))
    value = _finite(float(figures.mean()))
    if count == 1:
        return Estimate(value, value, value, len(figures), "none")
    sums, sizes = np.bincount(numbers, weights=figures), np.bincount(numbers)
    drawn = []
    for start in range(0, RESAMPLES, rows := max(1, _AT_ONCE // count)):
        chosen = generator.integers(0, count, (min(rows, RESAMPLES - start), count))
        drawn.append(sums[chosen].sum(axis=1) / sizes[chosen].sum(axis=1))
    return _between(value, len(figures), np.concatenate(drawn))


def share_estimate(
    hits: ArrayLike,
    generator: np.random.Generator,
    groups: Sequence[object] | None = None,
) -> Estimate:
    """The share of pictures (n,) that are true, as in an accuracy, and its interval.

    By bootstrap; where all are alike by Wilson's formula, in which, with `groups`, the groups are
    counted and not their pictures.

    Raises:
        Undefined: there is no picture.
    """
    found = np.asarray(hits, bool)
    if found.size and (found.all() or not found.any()):
        _, count = _numbered(groups, len(found))
        low, high = wilson(count if found[0] else 0, count)
        return Estimate(float(found[0]), low, high, len(found), "wilson")
    return mean_estimate(found, generator, groups)


def overlap(
    areas: Sequence[ArrayLike],
    covers: Sequence[ArrayLike],
    generator: np.random.Generator,
    groups: Sequence[object] | None = None,
) -> Overlap:
    """How much of the annotated areas lies under the covers, a picture each (`covered_share`).

    Raises:
        Undefined: there is no picture, or one without an annotation.
    """
    shares = [covered_share(area, cover) for area, cover in zip(areas, covers, strict=True)]
    return Overlap(
        mean_estimate(shares, generator, groups),
        share_estimate([share > 0 for share in shares], generator, groups),
    )


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval (1927) for a share of `hits` out of `n`.

    Raises:
        Undefined: `n` is 0.
    """
    if n < 1:
        raise Undefined("no picture, no share")
    if not 0 <= hits <= n:
        raise ValueError(f"{hits} of {n} is no share")
    share = hits / n
    centre = share + Z**2 / (2 * n)
    width = Z * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    scale = 1 + Z**2 / n
    return max(0.0, (centre - width) / scale), min(1.0, (centre + width) / scale)


def _numbered(groups: Sequence[object] | None, n: int) -> tuple[NDArray[np.intp], int]:
    """The number of each picture's group, counted in the order in which they first occur; and
    how many groups there are. Without groups each picture is its own."""
    if groups is not None and len(groups) != n:
        raise ValueError(f"{len(groups)} groups do not go with {n} pictures")
    if n < 1:
        raise Undefined("no picture, no figure")
    first: dict[object, int] = {}
    numbers = [
        first.setdefault(one, len(first)) for one in (range(n) if groups is None else groups)
    ]
    return np.array(numbers), len(first)


def _between(value: float, n: int, drawn: Float) -> Estimate:
    tail = (100 - LEVEL) / 2
    low, high = np.percentile(drawn, (tail, 100 - tail))
    return Estimate(value, float(low), float(high), n)


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise Undefined("the figure is not a finite number")
    return value
