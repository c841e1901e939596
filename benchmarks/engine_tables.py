"""The engine's figures as Markdown: means with 95 % intervals, and ratios to the paper's method."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from miad_cli.evaluation import intervals

PAPER = "paper"
"""The method that the others are set beside."""

COUNTED = {
    "queries": "classifier",
    "gradients": "classifier gradient",
    "removals": "removal gradient",
    "segmentations": "segmentation",
}
"""Figures of a picture, and the passes that they count: how many pictures models of this role were
asked about, or were differentiated at."""

Result = dict[str, Any]

HEAD = (
    "| task | method | pictures | wall s | CPU s | inferences | gradients | on removal networks "
    "| right after | SSIM | beside the models, wall (CPU) | peak MiB |\n"
    "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
)
RATIOS = (
    "| task | method | CPU time | wall time | inferences | all passes "
    "| right after, difference | SSIM, difference |\n"
    "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
)


def tables(results: Sequence[Result]) -> str:
    """Means with 95 % intervals by task and method, and ratios to the paper-faithful method over
    the same pictures; what one method refused counts for none."""
    refused = {one["picture"] for one in results if "refused" in one}
    kept = [one for one in results if one["picture"] not in refused]
    tasks = list(dict.fromkeys(one["task"] for one in kept))
    methods = list(dict.fromkeys(one["method"] for one in kept))
    groups = [(task, [one for one in kept if one["task"] == task]) for task in tasks]
    if len(tasks) > 1:
        groups.append(("all", kept))
    rows, ratios = [], []
    for name, chosen in groups:
        by_method = {one: _Figures([r for r in chosen if r["method"] == one]) for one in methods}
        rows += [_row(name, method, figures) for method, figures in by_method.items()]
        ratios += [
            _ratios(name, method, figures, by_method[PAPER])
            for method, figures in by_method.items()
            if method != PAPER
        ]
    parts = [
        f"{HEAD}\n" + "\n".join(rows),
        f"Ratios to {PAPER}; below 1 is less work. Differences below 0: less accuracy left, less "
        f"alike.\n\n{RATIOS}\n" + "\n".join(ratios),
        *_notes(kept, refused),
    ]
    return "\n\n".join(parts)


def _notes(kept: Sequence[Result], refused: set[str]) -> Iterator[str]:
    if any(one["method"] == PAPER and not one["removers"] for one in kept):
        yield (
            f"No removal network is installed: {PAPER} is HE-SIT alone, without its 50 steps of "
            "δ_D, which makes it cheaper than the paper's method; δ of the others is made against "
            "classifiers alone."
        )
    if refused:
        yield f"Left out, because no logo fits or shows in one of the methods: {len(refused)}."


class _Figures:
    """One method's figures, a picture each, in the order of the pictures."""

    def __init__(self, results: Sequence[Result]) -> None:
        self._results = sorted(results, key=lambda one: str(one["picture"]))
        self.groups = [one["group"] for one in self._results]

    def __len__(self) -> int:
        return len(self._results)

    def of(self, *names: str) -> np.ndarray:
        """(n,): the sum of these figures."""
        return np.array([sum(one[name] for name in names) for one in self._results], float)

    def mean(self, *names: str, places: int = 2) -> str:
        found = intervals.mean_estimate(self.of(*names), np.random.default_rng(0), self.groups)
        return _shown(found, places)


def _row(task: str, method: str, figures: _Figures) -> str:
    shares = [
        _of_sums(figures.of(kind) - figures.of(f"models_{kind}"), figures.of(kind), figures.groups)
        for kind in ("wall", "cpu")
    ]
    beside = " (".join(f"{100 * one.value:.0f} %" for one in shares) + ")"
    cells = [
        task, method, str(len(figures)), figures.mean("wall"), figures.mean("cpu"),
        figures.mean("queries", places=0), figures.mean("gradients", places=0),
        figures.mean("removals", places=0), figures.mean("accuracy"), figures.mean("ssim"),
        beside, f"{figures.of('peak').max():.0f}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _ratios(task: str, method: str, ours: _Figures, paper: _Figures) -> str:
    passes = tuple(COUNTED)
    shares = [
        _shown(_of_sums(ours.of(*names), paper.of(*names), ours.groups))
        for names in (("cpu",), ("wall",), ("queries",), passes)
    ]
    differences = [
        _shown(intervals.mean_estimate(
            ours.of(name) - paper.of(name), np.random.default_rng(0), ours.groups
        ))
        for name in ("accuracy", "ssim")
    ]  # fmt: skip
    return f"| {' | '.join([task, method, *shares, *differences])} |"


def _of_sums(part: np.ndarray, whole: np.ndarray, groups: Sequence[str]) -> intervals.Estimate:
    """Sum by sum over the same pictures."""
    return intervals.bootstrap(
        lambda chosen: float(part[chosen].sum() / whole[chosen].sum()),
        len(whole),
        np.random.default_rng(0),
        groups,
    )


def _shown(found: intervals.Estimate, places: int = 2) -> str:
    value = f"{found.value:.{places}f}"
    if found.method == "none":
        return value
    return f"{value} ({found.low:.{places}f} to {found.high:.{places}f})"
