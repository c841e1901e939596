"""Every figure against an independent library; and a figure broken on purpose against the same."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from sklearn import metrics as sklearn_metrics
from sklearn.preprocessing import label_binarize

from miad_cli.evaluation import metrics
from miad_cli.evaluation.metrics import (
    REACH,
    Undefined,
    accuracy,
    balanced_accuracy,
    covered_share,
    mask_iou,
    micro_auc,
    micro_average,
    psnr,
    rmse,
    roc_auc,
    roc_curve,
    ssim,
    ssim_map,
    widened,
)

CLOSE = 1e-9


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def answers(seed: int, classes: int = 4, n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Labels, one class of which never occurs, and probabilities of few values: ties abound."""
    generator = rng(seed)
    labels = generator.integers(0, classes - 1, n)
    scores = generator.integers(0, 4, (n, classes)) + 2.0 * np.eye(classes)[labels] + 0.25
    return labels, scores / scores.sum(axis=1, keepdims=True)


def binary(kind: str) -> tuple[np.ndarray, np.ndarray]:
    truth = rng(15).random(40) < 0.4
    scores = {
        "random": rng(1).random(40),
        "ties": rng(2).integers(0, 3, 40) / 3,
        "all equal": np.full(40, 0.5),
        "perfect": truth * 1.0,
        "reversed": truth * -1.0,
        "large": rng(3).integers(0, 9, 40) * 1e30,
        "close": 0.5 + rng(4).integers(0, 3, 40) * 2.0**-53,
    }
    return truth, scores[kind]


BINARY = ["random", "ties", "all equal", "perfect", "reversed", "large", "close"]


def pair(kind: str) -> tuple[np.ndarray, np.ndarray, float]:
    """Two pictures and their data range."""
    generator = rng(5)
    if kind == "colour":
        one = generator.integers(0, 256, (29, 23, 3), np.uint8)
        return one, np.clip(one + generator.normal(0, 20, one.shape), 0, 255).astype(np.uint8), 255
    if kind == "grey":
        one = generator.integers(0, 256, (11, 40), np.uint8)  # as low as a window
        return one, 255 - one, 255
    if kind == "flat":
        return np.zeros((16, 16), np.uint8), np.full((16, 16), 255, np.uint8), 255
    if kind == "16 bit":
        ramp = np.add.outer(np.arange(31), np.arange(37)) * 800
        return ramp.astype(np.uint16), (ramp + ramp % 7 * 300).astype(np.uint16), 65535
    one = generator.random((20, 20, 1))
    return one, one * 0.5, 1


PAIRS = ["colour", "grey", "flat", "16 bit", "0..1"]


# --- Against the libraries ----------------------------------------------------------------------


def check_accuracy(seed: int = 6) -> None:
    labels, shares = answers(seed)
    expected = sklearn_metrics.accuracy_score(labels, shares.argmax(axis=1))
    assert metrics.accuracy(labels, shares.argmax(axis=1)) == pytest.approx(expected, abs=CLOSE)


def check_balanced_accuracy(seed: int = 6) -> None:
    generator = rng(seed)
    labels = generator.choice(4, 50, p=[0.7, 0.2, 0.1, 0])
    said = np.where(generator.random(50) < 0.6, labels, generator.integers(0, 3, 50))
    expected = sklearn_metrics.balanced_accuracy_score(labels, said)
    assert metrics.balanced_accuracy(labels, said) == pytest.approx(expected, abs=CLOSE)


def check_micro_auc(seed: int = 6) -> None:
    labels, shares = answers(seed)
    expected = sklearn_metrics.roc_auc_score(
        labels, shares, multi_class="ovr", average="micro", labels=range(4)
    )
    assert metrics.micro_auc(labels, shares) == pytest.approx(expected, abs=CLOSE)


def check_roc_auc(kind: str = "ties") -> None:
    truth, scores = binary(kind)
    expected = sklearn_metrics.roc_auc_score(truth, scores)
    assert metrics.roc_auc(truth, scores) == pytest.approx(expected, abs=CLOSE)


def check_roc_curve(kind: str = "ties") -> None:
    truth, scores = binary(kind)
    expected = sklearn_metrics.roc_curve(truth, scores, drop_intermediate=False)
    curve = metrics.roc_curve(truth, scores)
    for ours, theirs in zip(
        (curve.false_positive_rate, curve.true_positive_rate, curve.thresholds),
        expected,
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=CLOSE)


def check_psnr(kind: str = "colour") -> None:
    one, other, data_range = pair(kind)
    expected = peak_signal_noise_ratio(one, other, data_range=data_range)
    assert metrics.psnr(one, other, data_range=data_range) == pytest.approx(expected, abs=CLOSE)


def check_rmse(kind: str = "16 bit") -> None:
    one, other, data_range = pair(kind)
    scaled = one.astype(float).ravel() * 255 / data_range, other.ravel() * 255.0 / data_range
    expected = sklearn_metrics.root_mean_squared_error(*scaled)
    assert metrics.rmse(one, other, data_range=data_range) == pytest.approx(expected, abs=CLOSE)


def check_ssim(kind: str = "colour") -> None:
    one, other, data_range = pair(kind)
    expected, whole = structural_similarity(
        one.astype(float),
        other.astype(float),
        data_range=data_range,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        channel_axis=-1 if one.ndim == 3 else None,
        full=True,
    )
    assert metrics.ssim(one, other, data_range=data_range) == pytest.approx(expected, abs=CLOSE)
    np.testing.assert_allclose(
        metrics.ssim_map(one, other, data_range=data_range), whole, atol=CLOSE
    )


def check_mask_iou(seed: int = 6) -> None:
    one, other = rng(seed).random((2, 9, 8)) < 0.4
    expected = sklearn_metrics.jaccard_score(one.ravel(), other.ravel())
    assert metrics.mask_iou(one, other) == pytest.approx(expected, abs=CLOSE)


def check_covered_share(seed: int = 6) -> None:
    area, cover = rng(seed).random((2, 9, 8)) < np.array([0.5, 0.2]).reshape(2, 1, 1)
    expected = sklearn_metrics.recall_score(area.ravel(), cover.ravel())
    assert metrics.covered_share(area, cover) == pytest.approx(expected, abs=CLOSE)


@pytest.mark.parametrize(
    ("check", "arguments"),
    [
        *((check_accuracy, seed) for seed in range(3)),
        *((check_balanced_accuracy, seed) for seed in range(3)),
        *((check_micro_auc, seed) for seed in range(3)),
        *((check_mask_iou, seed) for seed in range(3)),
        *((check_covered_share, seed) for seed in range(3)),
        *((check_roc_auc, kind) for kind in BINARY),
        *((check_roc_curve, kind) for kind in BINARY),
        *((check_psnr, kind) for kind in PAIRS),
        *((check_rmse, kind) for kind in PAIRS),
        *((check_ssim, kind) for kind in PAIRS),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_figure_is_the_librarys(check: Callable[[Any], None], arguments: Any) -> None:
    check(arguments)


def with_range(metric: Callable[..., Any], factor: float) -> Callable[..., Any]:
    return lambda one, other, *, data_range: metric(one, other, data_range=data_range * factor)


def first_come_ranks(values: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(values, kind="stable"), kind="stable") + 1.0


def macro_auc(labels: np.ndarray, shares: np.ndarray) -> float:
    columns = [column for column in range(shares.shape[1]) if (labels == column).any()]
    return float(np.mean([roc_auc(labels == column, shares[:, column]) for column in columns]))


def curve_of_every_score(truth: np.ndarray, scores: np.ndarray) -> metrics.RocCurve:
    return roc_curve(truth, scores + np.arange(len(scores)) * 1e-9)


def short_blur(values: np.ndarray) -> np.ndarray:
    """The window's outermost row is forgotten."""
    weights = np.exp(-(np.arange(-REACH, REACH) ** 2) / 4.5)
    for axis in (0, 1):
        padding = [(REACH, REACH) if one == axis else (0, 0) for one in range(values.ndim)]
        padded = np.moveaxis(np.pad(values, padding, mode="symmetric"), axis, 0)
        length = values.shape[axis]
        sums = sum(w * padded[i : i + length] for i, w in enumerate(weights / weights.sum()))
        values = np.moveaxis(np.asarray(sums), 0, axis)
    return values


@pytest.mark.parametrize(
    ("check", "name", "broken"),
    [
        (check_accuracy, "accuracy", balanced_accuracy),
        (check_balanced_accuracy, "balanced_accuracy", accuracy),
        (check_micro_auc, "micro_auc", macro_auc),
        (check_micro_auc, "_ranks", first_come_ranks),
        (check_roc_auc, "_ranks", first_come_ranks),
        (check_roc_curve, "roc_curve", curve_of_every_score),
        (check_psnr, "psnr", with_range(psnr, 256 / 255)),
        (check_rmse, "rmse", with_range(rmse, 256 / 255)),
        (check_ssim, "ssim", with_range(ssim, 256 / 255)),
        (check_ssim, "ssim_map", with_range(ssim_map, 2)),
        (check_ssim, "REACH", 4),
        (check_ssim, "SIGMA", 1.6),
        (check_ssim, "K2", 0.02),
        (check_ssim, "_blurred", short_blur),
        (check_mask_iou, "mask_iou", covered_share),
        (check_covered_share, "covered_share", mask_iou),
        (check_covered_share, "covered_share", lambda area, cover: covered_share(cover, area)),
    ],
)
def test_broken_figure_is_not_the_librarys(
    monkeypatch: pytest.MonkeyPatch, check: Callable[[], None], name: str, broken: Any
) -> None:
    check()
    monkeypatch.setattr(metrics, name, broken)
    with pytest.raises(AssertionError):
        check()


def test_micro_auc_of_two_classes_is_that_of_both_columns() -> None:
    labels, shares = rng(7).integers(0, 2, 30), rng(8).dirichlet([1, 1], 30)
    both = np.hstack([1 - label_binarize(labels, classes=[0, 1]), labels[:, None]])
    expected = sklearn_metrics.roc_auc_score(both, shares, average="micro")
    assert micro_auc(labels, shares) == pytest.approx(expected, abs=CLOSE)


def test_area_under_the_curve_is_the_rank_statistic() -> None:
    truth, shares = micro_average(*answers(9))
    curve = roc_curve(truth, shares)
    area = np.trapezoid(curve.true_positive_rate, curve.false_positive_rate)
    assert roc_auc(truth, shares) == pytest.approx(area, abs=CLOSE)


# --- Masks --------------------------------------------------------------------------------------


def test_likeness_inside_a_mask_is_the_mean_over_its_pixels() -> None:
    one, other, data_range = pair("colour")
    inside = np.zeros(one.shape[:2], bool)
    inside[3:12, 8:15] = True
    whole = ssim_map(one, other, data_range=data_range)
    assert ssim(one, other, data_range=data_range, inside=inside) == pytest.approx(
        whole[5:12, 8:15].mean(), abs=CLOSE
    )
    part = one[3:12, 8:15], other[3:12, 8:15]
    for metric in (psnr, rmse):
        assert metric(one, other, data_range=data_range, inside=inside) == pytest.approx(
            metric(*part, data_range=data_range), abs=CLOSE
        )


@pytest.mark.parametrize("metric", [psnr, rmse, ssim])
def test_likeness_inside_everything_is_the_plain_one(metric: Callable[..., float]) -> None:
    one, other, data_range = pair("colour")
    everywhere = np.ones(one.shape[:2], np.uint8)
    assert metric(one, other, data_range=data_range, inside=everywhere) == pytest.approx(
        metric(one, other, data_range=data_range), abs=CLOSE
    )


def test_clear_of_a_logo_nothing_of_it_is_seen() -> None:
    one = rng(10).integers(0, 256, (40, 40), np.uint8)
    logo = np.zeros((40, 40), bool)
    logo[12:20, 10:22] = True
    other = np.where(logo, 255 - one, one)
    assert ssim(one, other, data_range=255, inside=~widened(logo, REACH)) == pytest.approx(1.0)
    assert ssim(one, other, data_range=255, inside=~widened(logo, REACH - 1)) < 1 - 1e-6


def test_widened_mask_reaches_a_square_around_each_pixel() -> None:
    mask = np.zeros((9, 7))
    mask[4, 1] = mask[0, 6] = 1
    expected = np.zeros((9, 7), bool)
    expected[2:7, 0:4] = expected[0:3, 4:7] = True
    np.testing.assert_array_equal(widened(mask, 2), expected)
    np.testing.assert_array_equal(widened(mask, 0), mask != 0)
    assert widened(mask, 99).all()


def test_perturbation_covers_where_any_channel_is_changed() -> None:
    area = np.zeros((4, 4))
    area[:2] = 1
    delta = np.zeros((4, 4, 3), np.int8)
    delta[1, 2, 1], delta[0, 0, 2], delta[3, 3] = -1, 2, 5
    assert covered_share(area, delta) == pytest.approx(2 / 8)


# --- Nothing is NaN -----------------------------------------------------------------------------

NOTHING = np.zeros((12, 12))
TALL = np.ones((12, 12))


@pytest.mark.parametrize(
    "ask",
    [
        lambda: accuracy([], []),
        lambda: balanced_accuracy([], []),
        lambda: roc_auc([True, True], [0.1, 0.2]),
        lambda: roc_curve([False], [0.1]),
        lambda: roc_auc([True, False], [0.1, math.nan]),
        lambda: micro_auc([0, 0], [[1.0], [1.0]]),
        lambda: micro_auc(np.zeros(0, int), np.zeros((0, 3))),
        lambda: ssim(NOTHING[:10], TALL[:10], data_range=1),
        lambda: ssim(NOTHING, TALL, data_range=1, inside=np.eye(12) * 0),
        lambda: ssim(NOTHING, TALL, data_range=1, inside=np.arange(144).reshape(12, 12) < 24),
        lambda: psnr(NOTHING, TALL * math.nan, data_range=1),
        lambda: rmse(NOTHING, TALL, data_range=1, inside=NOTHING),
        lambda: rmse(NOTHING[:0], TALL[:0], data_range=1),
        lambda: mask_iou(NOTHING, NOTHING),
        lambda: covered_share(NOTHING, TALL),
    ],
)
def test_figure_that_does_not_exist_is_said(ask: Callable[[], object]) -> None:
    with pytest.raises(Undefined):
        ask()


@pytest.mark.parametrize(
    "ask",
    [
        lambda: accuracy([1, 2], [1]),
        lambda: roc_auc([True, False], [0.1]),
        lambda: micro_auc([0, 4], [[0.5, 0.5], [0.5, 0.5]]),
        lambda: micro_auc([0.0, 1.0], [[0.5, 0.5], [0.5, 0.5]]),
        lambda: micro_auc([0], [[0.5, 0.5], [0.5, 0.5]]),
        lambda: psnr(NOTHING, TALL[:11], data_range=1),
        lambda: psnr(NOTHING, TALL, data_range=0),
        lambda: ssim(NOTHING, TALL, data_range=math.nan),
        lambda: ssim(NOTHING, TALL, data_range=1, inside=TALL[:11]),
        lambda: mask_iou(NOTHING, TALL[:11]),
        lambda: covered_share(TALL, TALL[:11]),
    ],
)
def test_what_does_not_belong_together_is_refused(ask: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"\S") as refused:
        ask()
    assert refused.type is ValueError


def test_equal_pictures_are_infinitely_alike() -> None:
    one = rng().integers(0, 256, (12, 12), np.uint8)
    assert psnr(one, one, data_range=255) == math.inf
    assert rmse(one, one, data_range=255) == 0
    assert ssim(one, one, data_range=255) == pytest.approx(1.0)


def test_data_range_has_to_be_given() -> None:
    for metric in (psnr, rmse, ssim, ssim_map):
        with pytest.raises(TypeError, match="data_range"):
            metric(NOTHING, TALL)  # type: ignore[operator]
