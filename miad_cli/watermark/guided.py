"""Guided search: gradients suggest places, batches of exact scores decide, and each batch teaches
where to ask next.

Unlike the paper's searches (`search.py`) it does not lower an average confidence, which falls far
enough when some models give in. Every model on every slice, a voice, has a margin to lose, and
counts until it has lost it; the one that has most left counts double. See `shortfall`.

A first-order map says how every model's margin would change with the logo at every place, out of
one backward pass. A logo is no small step, though, and such maps alone order places poorly, while
the exact scores of a few dozen candidates, interpolated, order the others well. So the maps make
some of the first suggestions, and what the answers teach makes all others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miad_cli.watermark.blend import ALPHA_UNIT, Bytes, Mark
from miad_cli.watermark.ensemble import Disturbance
from miad_cli.watermark.interpolation import Interpolation, Numbers, squares
from miad_cli.watermark.logo import UNCHANGED, Sit
from miad_cli.watermark.panel import DISTURBANCES, Scorer, shortfall
from miad_cli.watermark.placement import Candidate, Placement
from miad_cli.watermark.search import Found, Score
from miad_cli.watermark.slopes import lattice_of, stride_for

Float = NDArray[np.float32]

ALPHAS = (90, 204)
"""Smallest and largest alpha of 255. Below 0.35 a logo on a bright picture is easily overlooked;
above 0.8 the reader sees nothing through it and little of the original is left to undo."""

TURN = 45
"""Degrees either way: half of what the paper-faithful search may turn the logo."""
TINT = 10
"""Hue shift of 256 either way: a brand is known by its colour."""
SHADE = 40
"""Percent by which saturation and brightness may rise or fall."""

FAINT = 60
"""Alpha of 255 of the logos on the pictures that gradients are taken at."""

REACH = (0.1, 0.1, 0.5, 0.5, 0.5, 0.5)
"""Over which distance the scores of two candidates say something of each other: position in widths
and heights of the picture, alpha (0..1), turns of 90 degrees, saturation and brightness (1 is the
logo's own). Chosen as what predicts left-out scores best on training pictures."""

PROPOSALS = 400
"""Candidates that are thought of for each batch that is asked about."""
CHECKED = 4
"""Candidates that are looked at disturbed at a time."""
CHECKS = 4
"""How often that is done in the end."""
RESERVE = 1.0
"""What a margin is to have beyond the target undisturbed, so that the target is kept disturbed."""


@dataclass(frozen=True)
class Plan:
    """How long to search.

    Attributes:
        seeds: candidates of the first batch; a third of them come from first-order maps.
        rounds, children: further batches, and candidates in each.
        sits: transformations of the logo to choose from, the upright one among them.
        bases: pictures with a faint logo that the maps are made from. The gradient at the clean
            picture alone says less: see `Slopes`.
        models: how many classifiers are asked, drawn at random for each picture; 0: all.
        target: margin (difference of logits) by which every model is to be fooled, on slightly
            disturbed views too; what reaches it ends the search.
    """

    seeds: int = 36
    rounds: int = 6
    children: int = 16
    sits: int = 12
    bases: int = 4
    models: int = 0
    target: float = 1.0


def guided(
    placement: Placement, scorer: Scorer, plan: Plan, generator: np.random.Generator
) -> Found:
    """Search a placement that has at least one feasible corner.

    The score's fitness is the `shortfall` of the values, the worst of slightly disturbed views
    where every voice is fooled; it counts as fooled where every voice is, undisturbed. `queries`
    counts pictures that each model was asked about on each shot, disturbed ones too; the pass for
    the maps is not among them.
    """
    asked = _Asked(placement, scorer, plan)
    ground = _Ground(placement, scorer, plan, asked.shortfall, generator)
    asked.ask(ground.seeds())
    for _ in range(plan.rounds):
        if asked.reached():
            break
        children = _children(ground, asked, generator)
        if not children:
            break
        asked.ask(children)
    return asked.found()


# --- What was asked -----------------------------------------------------------------------------


class _Asked:
    """Candidates and what the voices gave for them.

    Attributes:
        values: (voices,) for each candidate; the worse of disturbed ones too where they were
            looked at.
    """

    def __init__(self, placement: Placement, scorer: Scorer, plan: Plan) -> None:
        self._placement, self._scorer, self._plan = placement, scorer, plan
        self.values: dict[Candidate, Float] = {}
        self._fools: dict[Candidate, bool] = {}
        self._disturbed: set[Candidate] = set()
        self._queries = 0

    def ask(self, candidates: Sequence[Candidate]) -> None:
        """Score candidates that were not asked about yet, in one batch."""
        for one, values in zip(candidates, self._answers(candidates), strict=True):
            self.values[one] = values
            self._fools[one] = self._scorer.can_be_fooled and bool(values.max() < 0)

    def best(self, count: int) -> list[Candidate]:
        """Those that fool every voice before all others, and then by what is left."""
        known = list(self.values)
        left = self.shortfall(np.stack([*self.values.values()]))
        ranked = sorted(range(len(known)), key=lambda n: (not self._fools[known[n]], left[n]))
        return [known[index] for index in ranked[:count]]

    def shortfall(self, values: NDArray[Any]) -> Numbers:
        """That of (n, voices) values, with something in reserve."""
        aim = self._plan.target + RESERVE if self._scorer.can_be_fooled else None
        return shortfall(values.astype(np.float64), aim)

    def reached(self) -> bool:
        """Whether one of the best fools every voice by the target, disturbed too."""
        best = [one for one in self.best(CHECKED) if self._reaches(one)]
        self._disturb(best)
        return any(self._reaches(one) for one in best)

    def found(self) -> Found:
        """The best.

        Among those that fool every voice disturbed views count. They only make worse, so those
        that seem best are disturbed until the best one is among them, or until that has been
        tried often enough.
        """
        for _ in range(CHECKS):
            if self._settled(self.best(1)[0]):
                break
            self._disturb([one for one in self.best(CHECKED) if self._fools[one]])
        best = next(one for one in self.best(len(self.values)) if self._settled(one))
        (left,) = self.shortfall(self.values[best][None])
        return Found(best, Score(float(left), self._fools[best]), self._queries)

    def _settled(self, candidate: Candidate) -> bool:
        return candidate in self._disturbed or not self._fools[candidate]

    def _reaches(self, candidate: Candidate) -> bool:
        lost = bool(self.values[candidate].max() <= -self._plan.target)
        return self._scorer.can_be_fooled and lost

    def _disturb(self, candidates: Sequence[Candidate]) -> None:
        new = [one for one in candidates if one not in self._disturbed]
        for disturbance in DISTURBANCES:
            for one, values in zip(new, self._answers(new, disturbance), strict=True):
                self.values[one] = np.maximum(self.values[one], values)
        self._disturbed |= set(new)

    def _answers(
        self, candidates: Sequence[Candidate], disturbance: Disturbance | None = None
    ) -> Float:
        if not candidates:
            return np.zeros((0, 0), np.float32)
        self._queries += len(candidates)
        return self._scorer.values([self._placement.mark(one) for one in candidates], disturbance)


# --- Where to ask -------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Pose:
    """The logo after one SIT, and where it may go.

    Attributes:
        height, width: of its rectangle, in pixels.
        corners: (n, 2), feasible corners (x, y), those on a lattice where there are such.
        change: (voices, lattice rows, lattice columns), first-order change of each voice's value
            per unit of alpha (0..1); None without gradients.
    """

    sit: Sit
    height: int
    width: int
    corners: NDArray[np.int64]
    change: Float | None

    def at_centre(self, x: float, y: float, alpha: int) -> Candidate:
        return Candidate(round(x - self.width / 2), round(y - self.height / 2), alpha, self.sit)


class _Ground:
    """The poses that a search chooses from, and what is known of them before anything is asked."""

    def __init__(
        self,
        placement: Placement,
        scorer: Scorer,
        plan: Plan,
        shortfall: Callable[[NDArray[Any]], Numbers],
        generator: np.random.Generator,
    ) -> None:
        self.placement, self.plan, self._generator = placement, plan, generator
        self._shortfall = shortfall
        drawn = [modest_sit(generator) for _ in range(plan.sits - 1)]
        self.stride = stride_for(placement.rows, placement.columns)
        logos = {sit: placement.mark(Candidate(0, 0, 1, sit)).logo for sit in (UNCHANGED, *drawn)}
        free = {sit: self._corners(sit, logo) for sit, logo in logos.items()}
        free = {sit: corners for sit, corners in free.items() if len(corners)}
        self.slopes = scorer.slopes(self._faint(free))
        self.poses = {sit: self._pose(sit, logos[sit], corners) for sit, corners in free.items()}
        self._sits = list(self.poses)

    def _pose(self, sit: Sit, logo: Bytes, corners: NDArray[np.int64]) -> _Pose:
        change = None if self.slopes is None else self.slopes.change(logo)
        return _Pose(sit, logo.shape[0], logo.shape[1], corners, change)

    def _corners(self, sit: Sit, logo: Bytes) -> NDArray[np.int64]:
        """Feasible corners on the lattice; for the upright logo, where none is, any others."""
        placement, stride = self.placement, self.stride
        height, width = logo.shape[:2]
        if height > placement.rows or width > placement.columns:
            return np.zeros((0, 2), np.int64)
        free = np.ones(lattice_of(placement.rows, placement.columns, height, width, stride), bool)
        for box in placement.boxes:
            top, left = (box.y - height) // stride + 1, (box.x - width) // stride + 1
            bottom, right = -(-(box.y + box.height) // stride), -(-(box.x + box.width) // stride)
            free[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = False
        corners: NDArray[np.int64] = np.argwhere(free)[:, ::-1] * stride
        return placement.feasible_corners() if sit == UNCHANGED and not len(corners) else corners

    def _faint(self, free: dict[Sit, NDArray[np.int64]]) -> list[Mark]:
        """Faint logos at random places, to take gradients at."""
        marks = []
        for _ in range(self.plan.bases):
            sit = list(free)[self._generator.integers(len(free))]
            x, y = free[sit][self._generator.integers(len(free[sit]))]
            marks.append(self.placement.mark(Candidate(int(x), int(y), FAINT, sit)))
        return marks

    def anywhere(self) -> Candidate:
        """A random feasible candidate."""
        pose = self.poses[self.draw_sit()]
        x, y = pose.corners[self._generator.integers(len(pose.corners))]
        return Candidate(int(x), int(y), self.draw_alpha(), pose.sit)

    def draw_sit(self) -> Sit:
        return self._sits[self._generator.integers(len(self._sits))]

    def draw_alpha(self) -> int:
        """More often strong than faint: the stronger, the more changes."""
        low, high = ALPHAS
        return high - int((high - low) * self._generator.random() ** 2)

    def seeds(self) -> list[Candidate]:
        """The first batch: what the maps promise, and others far from each other."""
        chosen = self.promising(self.plan.seeds // 3) if self.slopes is not None else []
        others = list(dict.fromkeys(self.anywhere() for _ in range(PROPOSALS)))
        points = self.points(others)
        nearest = np.full(len(others), np.inf)
        for one in self.points(chosen):
            nearest = np.minimum(nearest, squares(points, one[None])[:, 0])
        while len(chosen) < self.plan.seeds and nearest.max() > 0:
            farthest = int(nearest.argmax())
            chosen.append(others[farthest])
            nearest = np.minimum(nearest, squares(points, points[farthest][None])[:, 0])
        return chosen

    def promising(self, count: int) -> list[Candidate]:
        """Candidates of which the maps expect most, value + alpha x change for each voice that
        has a slope; none near another."""
        assert self.slopes is not None  # noqa: S101 - the caller asks only then
        known = self.slopes.known
        ranked: list[tuple[float, Candidate]] = []
        for pose in self.poses.values():
            changes = self._changes(pose, pose.corners)[known].T
            for alpha in (ALPHAS[1], sum(ALPHAS) // 2):
                left = self._shortfall(self.slopes.base[known] + alpha / ALPHA_UNIT * changes)
                for index in _apart(left, pose.corners, self.placement.width // 4, count):
                    x, y = (int(n) for n in pose.corners[index])
                    ranked.append((float(left[index]), Candidate(x, y, alpha, pose.sit)))
        ranked.sort(key=lambda one: one[0])
        candidates = [one for _, one in ranked]
        centres = self._centres(candidates)
        places = _apart(np.arange(len(candidates)), centres, self.placement.width // 4, count)
        return [candidates[index] for index in places]

    def expected(self, candidates: Sequence[Candidate]) -> Numbers:
        """(n, voices): change of each voice's value that the maps expect; 0 without gradients."""
        if self.slopes is None:
            return np.zeros((len(candidates), 1))
        expected = []
        for one in candidates:
            corner = np.array([[one.x, one.y]])
            change = self._changes(self.poses[one.sit], corner)[:, 0]
            expected.append(one.alpha / ALPHA_UNIT * change)
        return np.array(expected, np.float64)

    def _changes(self, pose: _Pose, corners: NDArray[np.int64]) -> Float:
        """(voices, n): the map's values nearest to corners (x, y)."""
        assert pose.change is not None  # noqa: S101 - there are slopes
        columns, rows = np.rint(corners.T / self.stride).astype(int)
        _, last_row, last_column = pose.change.shape
        return pose.change[:, np.minimum(rows, last_row - 1), np.minimum(columns, last_column - 1)]

    def _centres(self, candidates: Sequence[Candidate]) -> NDArray[np.int64]:
        poses = [self.poses[one.sit] for one in candidates]
        return np.array(
            [
                (one.x + pose.width // 2, one.y + pose.height // 2)
                for one, pose in zip(candidates, poses, strict=True)
            ]
        ).reshape(-1, 2)

    def points(self, candidates: Sequence[Candidate]) -> Numbers:
        """(n, 6): candidates as points whose distance says how alike their scores are."""
        x, y = self._centres(candidates).T
        rest = [
            (one.alpha / ALPHA_UNIT, one.sit.degrees / 90, one.sit.saturation / 100,
             one.sit.value / 100)
            for one in candidates
        ]  # fmt: skip
        others = np.array(rest, np.float64).reshape(-1, 4)
        place = np.stack([x / self.placement.columns, y / self.placement.rows], axis=1)
        points: Numbers = np.concatenate([place, others], axis=1) / np.array(REACH)
        return points


def modest_sit(generator: np.random.Generator) -> Sit:
    """A random SIT under which a brand stays itself: turned a little, its colours nearly kept."""
    return Sit(
        degrees=int(generator.integers(-TURN, TURN + 1)),
        hue=int(generator.integers(-TINT, TINT + 1)) % 256,
        saturation=int(generator.integers(100 - SHADE, 101 + SHADE)),
        value=int(generator.integers(100 - SHADE, 101 + SHADE)),
    )


def _apart(worth: NDArray[Any], places: NDArray[np.int64], distance: int, count: int) -> list[int]:
    """Indices of up to `count` places (n, 2) with the least worth, on each axis or the other
    farther than `distance` from one another; worth (n,) is not changed."""
    left = worth.astype(np.float64)
    chosen: list[int] = []
    while len(chosen) < count and np.isfinite(left).any():
        best = int(left.argmin())
        chosen.append(best)
        left[np.abs(places - places[best]).max(axis=1) <= distance] = np.inf
    return chosen


# --- Where to ask next ---------------------------------------------------------------------


def _children(ground: _Ground, asked: _Asked, generator: np.random.Generator) -> list[Candidate]:
    """The next batch: children of the best few and some from anywhere, those that could be best
    by what was learned so far, no two of them for the same reason."""
    known = list(asked.values)
    proposals = [_mutated(ground, one, generator) for one in asked.best(6) for _ in range(50)]
    proposals += [ground.anywhere() for _ in range(PROPOSALS - len(proposals))]
    new = [
        one
        for one in dict.fromkeys(proposals)
        if one not in asked.values and ground.placement.is_feasible(one)
    ]
    if not new:
        return []
    values = np.array([asked.values[one] for one in known], np.float64)
    learned = Interpolation(ground.points(known), values, ground.expected(known))
    chosen = learned.ask_next(
        ground.points(new), ground.expected(new), ground.plan.children, asked.shortfall
    )
    return [new[index] for index in chosen]


def _mutated(ground: _Ground, parent: Candidate, generator: np.random.Generator) -> Candidate:
    """A neighbour: moved by a few percent of the picture, a little stronger or fainter, sometimes
    another SIT about the same centre."""
    placement, pose = ground.placement, ground.poses[parent.sit]
    x, y = parent.x + pose.width / 2, parent.y + pose.height / 2
    spread = generator.choice((0.02, 0.06))
    x += float(generator.normal(0, spread * placement.columns))
    y += float(generator.normal(0, spread * placement.rows))
    alpha = parent.alpha + round(float(generator.normal(0, 20)))
    sit = ground.draw_sit() if generator.random() < 0.4 else parent.sit
    return ground.poses[sit].at_centre(x, y, min(max(alpha, ALPHAS[0]), ALPHAS[1]))
