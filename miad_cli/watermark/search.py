"""Search for position, transparency and SIT: Random, HE and HE-SIT (MIAD-MARK Alg. 3).

These are the paper's algorithms, one candidate scored at a time, stopping at the first whose
prediction changes. What a candidate is worth is somebody else's business: `score` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np

from miad_cli.errors import NoRoomForLogo
from miad_cli.watermark.blend import ALPHA_UNIT
from miad_cli.watermark.lesions import Box
from miad_cli.watermark.logo import Bytes, draw_sit
from miad_cli.watermark.placement import (
    Candidate,
    Placement,
    grid_corners,
    position_steps,
)

SIT_DRAWS = 6
"""How often a SIT is drawn for a seed before the logo stays as it is."""

PaperMethod = Literal["random", "he", "he-sit"]
Method = PaperMethod | Literal["guided"]
"""`guided` is in `guided.py`."""


@dataclass(frozen=True)
class Score:
    """Fitness (lower is better; Eq. 12) and whether the prediction changed."""

    fitness: float
    fooled: bool


@dataclass(frozen=True)
class Budget:
    """Alg. 3's numbers, under the paper's names: N_p, N_g, s_alpha, r_c, r_p."""

    parents: int = 15
    generations: int = 2
    alpha_step: int = 15
    keep: float = 0.3
    density: float = 0.005


@dataclass(frozen=True)
class Found:
    """The best candidate, its score, and how many were scored."""

    candidate: Candidate
    score: Score
    queries: int


def find_placement(
    logo: Bytes,
    rows: int,
    columns: int,
    boxes: Sequence[Box],
    divisors: Iterable[int],
    aspect: float = 1.0,
) -> Placement:
    """The largest logo that fits beside the boxes: the first divisor sl with a feasible corner.

    Raises:
        NoRoomForLogo: not even the smallest fits.
    """
    for divisor in divisors:
        placement = Placement(logo, rows, columns, divisor, boxes, aspect)
        if len(placement.feasible_corners()):
            return placement
    raise NoRoomForLogo(
        "the lesion boxes leave no room for the logo, however small",
        hint="Check the mask, or raise the threshold in the profile.",
    )


def search(
    method: PaperMethod,
    placement: Placement,
    score: Callable[[Candidate], Score],
    budget: Budget,
    generator: np.random.Generator,
) -> Found:
    """Run one of the paper's searches on a placement that has at least one feasible corner."""
    tally = _Tally(score)
    if method == "random":
        tally.ask(_random_candidate(placement, generator))
        return tally.found()
    _evolve(method == "he-sit", placement, tally, budget, generator)
    return tally.found()


class _Tally:
    """Scores candidates once each and remembers them, best first."""

    def __init__(self, score: Callable[[Candidate], Score]) -> None:
        self._score = score
        self._seen: dict[Candidate, Score] = {}

    def ask(self, candidate: Candidate) -> bool:
        """Score a candidate; True where it changes the prediction."""
        if candidate not in self._seen:
            self._seen[candidate] = self._score(candidate)
        return self._seen[candidate].fooled

    def best(self, count: int) -> list[Candidate]:
        return sorted(self._seen, key=self._rank)[:count]

    def found(self) -> Found:
        candidate = min(self._seen, key=self._rank)
        return Found(candidate, self._seen[candidate], len(self._seen))

    def _rank(self, candidate: Candidate) -> tuple[bool, float]:
        score = self._seen[candidate]
        return (not score.fooled, score.fitness)


def _random_candidate(placement: Placement, generator: np.random.Generator) -> Candidate:
    corners = placement.feasible_corners()
    x, y = corners[generator.integers(len(corners))]
    return Candidate(int(x), int(y), int(generator.integers(1, ALPHA_UNIT + 1)))


def _evolve(
    with_sit: bool,
    placement: Placement,
    tally: _Tally,
    budget: Budget,
    generator: np.random.Generator,
) -> None:
    for seed in _seeds(with_sit, placement, budget, generator):
        if tally.ask(seed):
            return
    for _ in range(budget.generations):
        parents = tally.best(budget.parents)
        for child in _children(parents, placement, budget, generator):
            if tally.ask(child):
                return


def _seeds(
    with_sit: bool, placement: Placement, budget: Budget, generator: np.random.Generator
) -> Iterator[Candidate]:
    """The grid of Eq. 9 with alpha uniform in (0, 1]; infeasible candidates are dropped.

    Where the grid misses every free place one feasible corner without SIT is taken, so that there
    is always something to start from.
    """
    draw = _with_fitting_sit if with_sit else _plain
    empty = True
    for x, y in grid_corners(placement, budget.density):
        seed = draw(placement, x, y, int(generator.integers(1, ALPHA_UNIT + 1)), generator)
        if placement.is_feasible(seed):
            empty = False
            yield seed
    if empty:
        yield _random_candidate(placement, generator)


def _plain(
    placement: Placement, x: int, y: int, alpha: int, generator: np.random.Generator
) -> Candidate:
    return Candidate(x, y, alpha)


def _with_fitting_sit(
    placement: Placement, x: int, y: int, alpha: int, generator: np.random.Generator
) -> Candidate:
    """A candidate with the first of a few SITs drawn under which the logo fits there.

    A rotated logo takes more room; without drawing again the places beside a box and along the
    edges, where an upright logo fits, would be lost to the search.
    """
    for _ in range(SIT_DRAWS):
        candidate = Candidate(x, y, alpha, draw_sit(generator))
        if placement.is_feasible(candidate):
            return candidate
    return Candidate(x, y, alpha)


def _children(
    parents: Sequence[Candidate],
    placement: Placement,
    budget: Budget,
    generator: np.random.Generator,
) -> list[Candidate]:
    """Mutation by {0, +s, -s} on each gene, crossover, and a share r_c of what comes out."""
    step_x, step_y = position_steps(placement, budget.density, budget.generations)
    mutated = [
        Candidate(parent.x + dx, parent.y + dy, _alpha(parent.alpha + da), parent.sit)
        for parent in parents
        for dx, dy, da in product(
            (0, step_x, -step_x), (0, step_y, -step_y), (0, budget.alpha_step, -budget.alpha_step)
        )
    ]
    partners = generator.permutation(len(mutated))
    crossed = [
        _cross(one, mutated[other], generator) for one, other in zip(mutated, partners, strict=True)
    ]
    kept = generator.permutation(len(crossed))[: int(budget.keep * len(crossed))]
    chosen = dict.fromkeys(crossed[index] for index in kept)
    return [child for child in chosen if placement.is_feasible(child)]


def _alpha(alpha: int) -> int:
    return min(max(alpha, 1), ALPHA_UNIT)


def _cross(one: Candidate, other: Candidate, generator: np.random.Generator) -> Candidate:
    """Uniform crossover: each gene from either parent."""
    x, y, alpha, sit = generator.integers(0, 2, 4).astype(bool)
    return Candidate(
        x=other.x if x else one.x,
        y=other.y if y else one.y,
        alpha=other.alpha if alpha else one.alpha,
        sit=other.sit if sit else one.sit,
    )
