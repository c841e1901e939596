"""Alg. 3: what is asked, in which number, when it stops, and against brute force."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from helpers import opaque_logo

from miad_cli.watermark.lesions import Box
from miad_cli.watermark.logo import MOST_ROTATION, UNCHANGED, resize, transform
from miad_cli.watermark.placement import Candidate, Placement, grid_corners
from miad_cli.watermark.search import Budget, Score, search

SQUARE = opaque_logo(60, 60)
BOXES = (Box(100, 100, 30, 40), Box(20, 150, 25, 10))
CHILDREN = int(0.3 * 27 * 15)
"""r_c x 27 x N_p."""


class Asked:
    """A score that remembers its questions."""

    def __init__(self, score: Callable[[Candidate], Score]) -> None:
        self.candidates: list[Candidate] = []
        self._score = score

    def __call__(self, candidate: Candidate) -> Score:
        self.candidates.append(candidate)
        return self._score(candidate)


def towards(x: int, y: int) -> Callable[[Candidate], Score]:
    """The nearer to (x, y) the better; nothing fools."""
    return lambda one: Score(float(abs(one.x - x) + abs(one.y - y)), fooled=False)


def placement_of(boxes: tuple[Box, ...] = BOXES, divisor: int = 4, side: int = 224) -> Placement:
    return Placement(SQUARE, side, side, divisor, boxes)


def generator(seed: int = 2023) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_dense_grid_finds_what_brute_force_finds() -> None:
    placement = placement_of((Box(8, 8, 4, 4),), side=24)
    landscape = np.random.default_rng(5).random((24, 24))
    score = Asked(lambda one: Score(float(landscape[one.y, one.x]), fooled=False))
    found = search("he", placement, score, Budget(density=1.0, generations=1), generator())
    best = min(landscape[y, x] for x, y in placement.feasible_corners().tolist())
    assert found.score.fitness == best


@pytest.mark.parametrize("method", ["he", "he-sit", "random"])
def test_found_is_the_best_of_all_that_were_asked(method: str) -> None:
    score = Asked(towards(77, 31))
    found = search(method, placement_of(), score, Budget(), generator())
    assert found.score.fitness == min(towards(77, 31)(one).fitness for one in score.candidates)
    assert found.candidate in score.candidates


def test_generations_improve_on_the_seeds() -> None:
    score = Asked(towards(77, 31))
    found = search("he", placement_of(), score, Budget(), generator())
    seeds = [one for one in score.candidates if (one.x, one.y) in GRID]
    assert found.score.fitness < min(towards(77, 31)(one).fitness for one in seeds)


GRID = set(grid_corners(placement_of(), 0.005))


@pytest.mark.parametrize("method", ["he", "he-sit"])
def test_no_candidate_is_asked_twice_and_queries_are_counted(method: str) -> None:
    score = Asked(towards(77, 31))
    found = search(method, placement_of(), score, Budget(), generator())
    assert len(set(score.candidates)) == len(score.candidates) == found.queries


def test_each_generation_asks_no_more_children_than_the_share_kept() -> None:
    placement = placement_of(())
    for generations in (1, 2):
        score = Asked(towards(77, 31))
        search("he", placement, score, Budget(generations=generations), generator())
        children = len(score.candidates) - len(GRID)
        assert 0.5 * CHILDREN < children <= generations * CHILDREN


@pytest.mark.parametrize("nth", [1, 7, 60, 200])
def test_search_stops_at_the_first_candidate_that_fools(nth: int) -> None:
    score = Asked(lambda one: Score(0.5, fooled=len(score.candidates) == nth))
    found = search("he", placement_of(()), score, Budget(), generator())
    assert found.queries == len(score.candidates) == nth
    assert found.candidate == score.candidates[-1]
    assert found.score.fooled


def test_candidate_that_fools_wins_over_a_lower_confidence() -> None:
    score = Asked(
        lambda one: Score(0.9, fooled=True) if len(score.candidates) == 5 else Score(0.1, False)
    )
    assert search("he", placement_of(), score, Budget(), generator()).score == Score(0.9, True)


@pytest.mark.parametrize("method", ["random", "he", "he-sit"])
@pytest.mark.parametrize("seed", range(3))
def test_no_candidate_covers_a_box_or_leaves_the_picture(method: str, seed: int) -> None:
    placement = placement_of()
    score = Asked(towards(110, 110))
    search(method, placement, score, Budget(), generator(seed))
    hot = np.zeros((224, 224), bool)
    for box in BOXES:
        hot[box.y : box.y + box.height, box.x : box.x + box.width] = True
    for one in score.candidates:
        height, width = transform(resize(SQUARE, 56, 56), one.sit).shape[:2]
        assert 0 <= one.x <= 224 - width
        assert 0 <= one.y <= 224 - height
        assert not hot[one.y : one.y + height, one.x : one.x + width].any()


def test_he_leaves_the_logo_upright_and_he_sit_turns_it() -> None:
    upright, turned = Asked(towards(0, 0)), Asked(towards(0, 0))
    search("he", placement_of(), upright, Budget(generations=1), generator())
    search("he-sit", placement_of(), turned, Budget(generations=1), generator())
    assert {one.sit for one in upright.candidates} == {UNCHANGED}
    angles = {one.sit.degrees for one in turned.candidates}
    assert len(angles) > 10
    assert max(map(abs, angles)) <= MOST_ROTATION


def test_alpha_stays_in_its_range() -> None:
    score = Asked(lambda one: Score(float(one.alpha), fooled=False))
    found = search("he", placement_of(()), score, Budget(alpha_step=254), generator())
    assert {1, 255} <= {one.alpha for one in score.candidates}
    assert all(1 <= one.alpha <= 255 for one in score.candidates)
    assert found.candidate.alpha == 1


def test_random_asks_once_and_anywhere() -> None:
    drawn = []
    for seed in range(30):
        score = Asked(towards(0, 0))
        assert search("random", placement_of(), score, Budget(), generator(seed)).queries == 1
        drawn += score.candidates
    assert len({(one.x, one.y) for one in drawn}) > 25
    assert len({one.alpha for one in drawn}) > 20


def test_one_free_place_off_the_grid_is_found() -> None:
    """All of the picture is lesion but for the logo's own rectangle at (101, 37)."""
    around = (Box(0, 0, 224, 37), Box(0, 93, 224, 131), Box(0, 0, 101, 224), Box(157, 0, 67, 224))
    score = Asked(towards(0, 0))
    found = search("he-sit", placement_of(around), score, Budget(), generator())
    assert (found.candidate.x, found.candidate.y) == (101, 37)


@pytest.mark.parametrize("method", ["random", "he", "he-sit"])
def test_same_seed_asks_the_same(method: str) -> None:
    first, second, other = Asked(towards(9, 9)), Asked(towards(9, 9)), Asked(towards(9, 9))
    for score, seed in ((first, 1), (second, 1), (other, 2)):
        search(method, placement_of(), score, Budget(), generator(seed))
    assert first.candidates == second.candidates
    assert first.candidates != other.candidates
