"""Intervals against an independent library; and one broken on purpose against the same."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

from miad_cli.evaluation import intervals
from miad_cli.evaluation.intervals import bootstrap, mean_estimate, share_estimate, wilson
from miad_cli.evaluation.metrics import Undefined, micro_auc

CLOSE = 1e-9


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# --- Against the library ------------------------------------------------------------------------


def check_wilson(hits: int = 3) -> None:
    expected = stats.binomtest(hits, 17).proportion_ci(0.95, "wilson")
    assert intervals.wilson(hits, 17) == pytest.approx((expected.low, expected.high), abs=CLOSE)


def check_bootstrap(kind: str = "mean") -> None:
    """scipy draws other samples, so the ends agree but for chance: 1 % of the width, or 2."""
    values = rng(6).gamma(2.0, size=40)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=10_000, method="percentile", rng=rng(7)
    ).confidence_interval
    ours = {
        "mean": lambda: intervals.mean_estimate(values, rng(1)),
        "any": lambda: intervals.bootstrap(lambda chosen: values[chosen].mean(), 40, rng(1)),
    }[kind]()
    assert ours.value == pytest.approx(values.mean(), abs=CLOSE)
    width = expected.high - expected.low
    assert (ours.low, ours.high) == pytest.approx((expected.low, expected.high), abs=0.05 * width)


@pytest.mark.parametrize("hits", [0, 1, 9, 17])
def test_interval_of_a_share_is_the_librarys(hits: int) -> None:
    check_wilson(hits)


@pytest.mark.parametrize("kind", ["mean", "any"])
def test_interval_by_resampling_is_the_librarys(kind: str) -> None:
    check_bootstrap(kind)


@pytest.mark.parametrize(
    ("check", "name", "broken"),
    [(check_wilson, "Z", 1.645), (check_bootstrap, "LEVEL", 90.0)],
)
def test_broken_interval_is_not_the_librarys(
    monkeypatch: pytest.MonkeyPatch, check: Callable[[], None], name: str, broken: Any
) -> None:
    check()
    monkeypatch.setattr(intervals, name, broken)
    with pytest.raises(AssertionError):
        check()


# --- What they are ------------------------------------------------------------------------------


def test_interval_depends_on_nothing_but_the_seed() -> None:
    values = rng(11).random(25)
    assert mean_estimate(values, rng(3)) == mean_estimate(values, rng(3))
    assert mean_estimate(values, rng(3)) != mean_estimate(values, rng(4))


def test_groups_that_are_all_alike_count_as_one_picture_each() -> None:
    values = rng(12).random(15)
    singly = mean_estimate(values, rng(3))
    patients = np.tile(np.arange(15), 4)
    grouped = mean_estimate(np.tile(values, 4), rng(3), groups=[f"p{one}" for one in patients])
    assert (grouped.low, grouped.high) == pytest.approx((singly.low, singly.high), abs=CLOSE)
    assert grouped.n == 60
    alone = mean_estimate(np.tile(values, 4), rng(3))
    assert alone.high - alone.low < 0.7 * (grouped.high - grouped.low)


def test_large_group_weighs_by_its_pictures() -> None:
    values = np.array([1.0, 1.0, 1.0, 0.0])
    found = mean_estimate(values, rng(), groups=["a", "a", "a", "b"])
    assert (found.value, found.low, found.high) == (0.75, 0.0, 1.0)


def test_interval_holds_the_truth_as_often_as_it_says() -> None:
    generator = rng(13)
    found = [mean_estimate(sample, generator) for sample in generator.normal(5, 2, (100, 60))]
    assert 0.88 <= np.mean([one.low <= 5 <= one.high for one in found]) <= 0.99


def test_figures_of_groups_are_drawn_as_their_means_are() -> None:
    values, groups = rng(16).random(30), rng(17).integers(0, 12, 30).tolist()
    means = mean_estimate(values, rng(1), groups)
    figures = bootstrap(lambda chosen: values[chosen].mean(), 30, rng(2), groups)
    assert means.value == pytest.approx(figures.value, abs=CLOSE)
    width = means.high - means.low
    assert (means.low, means.high) == pytest.approx((figures.low, figures.high), abs=0.05 * width)


def test_any_figure_has_an_interval() -> None:
    labels, shares = rng(14).integers(0, 4, 60), rng(15).dirichlet([1.0] * 4, 60)
    found = bootstrap(
        lambda chosen: micro_auc(labels[chosen], shares[chosen]), 60, rng(), resamples=200
    )
    assert found.low < found.value == micro_auc(labels, shares) < found.high


@pytest.mark.parametrize("share", [0, 1])
def test_share_without_a_spread_has_wilsons_interval(share: int) -> None:
    found = share_estimate([share] * 10, rng())
    expected = stats.binomtest(share * 10, 10).proportion_ci(0.95, "wilson")
    assert (found.value, found.n, found.method) == (share, 10, "wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=CLOSE)
    two = share_estimate([share] * 10, rng(), groups=["a"] * 5 + ["b"] * 5)
    assert (two.low, two.high) == pytest.approx(wilson(share * 2, 2), abs=CLOSE)
    mixed = share_estimate([share] * 9 + [1 - share], rng())
    assert mixed.method == "bootstrap"
    assert mixed == mean_estimate([share] * 9 + [1 - share], rng())


def test_one_picture_or_group_has_no_interval() -> None:
    assert mean_estimate([0.25], rng()) == intervals.Estimate(0.25, 0.25, 0.25, 1, "none")
    assert share_estimate([True, False], rng(), groups=["a", "a"]).method == "none"


# --- Nothing is NaN -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ask",
    [
        lambda: mean_estimate([], rng()),
        lambda: share_estimate([], rng()),
        lambda: mean_estimate([1.0, math.inf], rng()),
        lambda: bootstrap(lambda chosen: math.nan if len(set(chosen)) < 3 else 1.0, 3, rng()),
        lambda: wilson(0, 0),
    ],
)
def test_interval_that_does_not_exist_is_said(ask: Callable[[], object]) -> None:
    with pytest.raises(Undefined):
        ask()


@pytest.mark.parametrize(
    "ask", [lambda: mean_estimate([1.0, 2.0], rng(), groups=["a"]), lambda: wilson(3, 2)]
)
def test_what_does_not_belong_together_is_refused(ask: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"\S") as refused:
        ask()
    assert refused.type is ValueError
