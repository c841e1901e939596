"""The figures of the report, each with its definition.

Pure functions over numpy arrays. Pictures are (rows, columns) or (rows, columns, channels) of any
integer or floating type, masks (rows, columns), true or non-zero where they mark something. A
figure that does not exist for what it was asked about raises `Undefined`; none is ever NaN.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

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
