"""What of an evaluation's figures stands in docs/results.md: what the paper has a figure
for, and what miad claims of itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from miad_cli.evaluation.findings import Beside, Cell, Figure, Findings, Table
from miad_cli.evaluation.intervals import Estimate
from miad_cli.evaluation.paper import BEST, SEEN, UNSEEN, Paper

AIMS: Mapping[str, float] = {
    "seen.accuracy": 0.10,
    "seen.ensemble.accuracy": 0.05,
    "unseen.accuracy": 0.30,
    "unseen.vit.accuracy": 0.35,
    "removal.accuracy": 0.30,
    "removal.output.ssim": 0.75,
    **{f"robust.{attack}.accuracy": 0.25 for attack in ("jpeg-75", "half-size", "blur", "median")},
    **{f"robust.{attack}.accuracy": 0.25 for attack in ("as-shown", "brighter", "darker")},
}
"""At most this, by the name of a figure: what the project has set itself."""

OUTSIDE = 0.88
"""At least this, SSIM outside the logo."""

EVERYDAY = ("as-shown", "jpeg-75", "half-size", "blur", "median", "brighter", "darker")
"""Counterattacks that are everyday processing."""


@dataclass(frozen=True)
class Row:
    """One line: our figure, the protocol that gives it, and what stands beside it, as a number or
    in words. `detail`: of one model or family, left out where data sets stand side by side."""

    protocol: str
    what: str
    ours: Figure | None
    beside: float | str | None = None
    digits: int = 2
    detail: bool = False


def paper_rows(task: str, found: Findings, paper: Paper) -> Iterator[Row]:
    """What the paper has a figure for, measured in its way."""
    values = found.values
    yield Row("seen", "random, seen", values.get("seen.random.accuracy"), SEEN["random"])
    yield Row("seen", "HE, seen", values.get("seen.he.accuracy"), SEEN["he"])
    yield Row("seen", "HE-SIT, seen", values.get("seen.he-sit.accuracy"), SEEN["he-sit"])
    yield Row(
        "seen", "HE-SIT, seen, the model for which it does best", _best(found), BEST.get(task)
    )
    unseen = paper.unseen or UNSEEN
    yield Row("unseen", "HE-SIT, one family left out", values.get("unseen.he-sit.accuracy"), unseen)
    yield Row("seen", "HE-SIT, ROC-AUC", values.get("seen.he-sit.auc"), paper.auc, 3)
    looks = ("seen-quality", "he-sit")
    yield Row("seen", "HE-SIT, SSIM of the picture", cell_of(found, *looks, "ssim"), paper.ssim, 3)
    asked = cell_of(found, "logos-quality", "own, he-sit", "queries")
    yield Row("logos", "HE-SIT, inferences a picture, one model", asked, paper.queries, 0)
    yield Row(
        "logos", "seven logos, HE-SIT, one model", values.get("logos.he-sit.accuracy"), paper.logos
    )
    spread = values.get("logos.he-sit.spread")
    yield Row("logos", "standard deviation between logos", spread, paper.logo_spread, 3)
    yield from _removal_rows(found, paper)
    marked, unblended = paper.marked or (None, None), paper.unblended or (None, None)
    for stage, title, printed in (
        ("protected", "protected", marked),
        ("unblended", "logo taken off with the key, δ still in", unblended),
        ("recovered", "unlocked", (1.0, 1.0)),
    ):
        accuracy, ssim = (values.get(f"authorise.{stage}.{part}") for part in ("accuracy", "ssim"))
        yield Row("authorise", f"{title}: accuracy", accuracy, printed[0])
        yield Row("authorise", f"{title}: SSIM", ssim, printed[1], 4)


def _removal_rows(found: Findings, paper: Paper) -> Iterator[Row]:
    """Fig. 5b, 5c, 8b and Table 1."""
    values = found.values
    removed = paper.removed or (None, None)
    for place, (kind, title) in enumerate((("he-sit", "no δ"), ("disrupt", "δ_D"))):
        accuracy = values.get(f"removal.{kind}.accuracy")
        yield Row("removal", f"after removal, HE-SIT, {title}: accuracy", accuracy, removed[place])
        for part, unit, digits in (("ssim", "SSIM", 3), ("psnr", "PSNR, dB", 1),
                                   ("rmse", "RMSE, grey levels", 2)):  # fmt: skip
            printed, measured = paper.removal.get(part), values.get(f"removal.{kind}.{part}")
            beside = printed[place] if printed else None
            what = f"removal's output, HE-SIT, {title}: {unit}"
            yield Row("removal", what, measured, beside, digits)
    for kind, late, name, title in (
        ("nothing", "he-sit", "nothing", "none, he-sit"),
        ("noise", "noise", "random noise", "random noise, he-sit"),
        ("disrupt", "disrupt-after", "δ_D", "he-sit, then δ_D"),
        ("inerasable", "inerasable-after", "δ_I", "he-sit, then δ_I"),
    ):
        before = cell_of(found, "removal-kinds", title, "before")
        after = values.get(f"removal.{late}.accuracy")
        yield Row(
            "removal", f"{name} after the search: before removal", before, paper.before.get(kind)
        )
        yield Row(
            "removal", f"{name} after the search: after removal", after, paper.after.get(kind)
        )
    for kind, early, name in (
        ("nothing", "he-sit", "nothing"), ("noise", "noise", "random noise"),
        ("disrupt", "disrupt", "δ_D"), ("inerasable", "inerasable", "δ_I"),
    ):  # fmt: skip
        ssim = values.get(f"removal.{early}.ssim")
        yield Row(
            "removal",
            f"removal's output by kind of δ, {name}: SSIM",
            ssim,
            paper.kinds.get(kind),
            3,
        )


def claim_rows(found: Findings) -> Iterator[Row]:
    """What miad says of itself, as it protects by default."""
    values, models = found.values, found.meta.models

    def accuracy(what: str, name: str, detail: bool = False) -> Row:
        aim, (protocol, _, _) = AIMS.get(name), name.partition(".")
        beside = None if aim is None else f"≤ {aim:.2f}"
        return Row(protocol, what, values.get(name), beside, detail=detail)

    classifiers = [one for one in models if one.role == "classifier"]
    yield accuracy("all models attacked together", "seen.ensemble.accuracy")
    yield accuracy("each model attacked alone, mean", "seen.accuracy")
    for one in classifiers:
        yield accuracy(f"{one.name} attacked alone", f"seen.{one.name}.accuracy", detail=True)
    yield accuracy("one family left out, mean", "unseen.accuracy")
    for family in dict.fromkeys(one.family for one in classifiers):
        name = f"unseen.{family}.accuracy"
        yield accuracy(f"{family} left out", name, detail=name not in AIMS)
    yield accuracy("one family left out, the worst", "unseen.worst.accuracy")
    yield accuracy("from one model to those of other families", "unseen.matrix.accuracy")
    yield accuracy("after removal, no δ", "removal.nothing.accuracy")
    yield accuracy("after removal", "removal.accuracy")
    yield accuracy("after removal by a network that δ was not made against",
                   "removal.held-out.accuracy")  # fmt: skip
    for one in models:
        if one.role == "removal":
            yield accuracy(f"after {one.name}", f"removal.{one.name}.accuracy")
            ssim = values.get(f"removal.{one.name}.ssim")
            yield Row(
                "removal",
                f"after {one.name}: SSIM of its output",
                ssim,
                f"≤ {AIMS['removal.output.ssim']:.2f}",
                3,
            )
    for attack in EVERYDAY:
        yield accuracy(f"after {attack}, attacked models", f"robust.{attack}.accuracy")
        yield accuracy(f"after {attack}, the family left out", f"robust.{attack}.unseen.accuracy")
    yield from _reader_rows(found)


def _reader_rows(found: Findings) -> Iterator[Row]:
    """What readers and key holders are left with."""
    values = found.values
    titles = {
        "under-logo": "lesion under the logo, share", "touched": "pictures with any of it there",
        "under-delta": "lesion under δ, share",
        "touched-by-delta": "pictures with any of it there, too",
    }  # fmt: skip
    for source in ("grad-cam", "occlusion", "segmentation", "mask"):
        for part, title in titles.items():
            name = f"lesions.{source}.{part}"
            # Not every source is there for every kind of picture.
            if name in values or source == "mask":
                aim = "0" if source == "mask" else None
                yield Row("lesions", f"{source}: {title}", values.get(name), aim, 3)
    yield Row("seen", "SSIM outside the logo", values.get("seen.ensemble.ssim"), f"≥ {OUTSIDE}", 3)
    delta = cell_of(found, "seen-quality", "all models", "delta")
    bound = found.meta.settings["perturbation.epsilon"]
    yield Row("seen", "largest δ, 1/255", delta, f"≤ {float(str(bound)):g}", 0)
    yield Row("authorise", "files identical to the byte", values.get("authorise.identical"), "1")


def _best(found: Findings) -> Figure | None:
    """HE-SIT on the model that it does most harm to."""
    table = table_of(found, "seen")
    if table is None:
        return None
    at = [column.key for column in table.columns].index("accuracy")
    alone = {one.name for one in found.meta.models}
    figures = [_ours(row[at]) for row in table.rows if row[0] == "he-sit" and row[1] in alone]
    measured = [one for one in figures if isinstance(one, Estimate)]
    return min(measured, key=lambda one: one.value, default=None)


def table_of(found: Findings, identifier: str) -> Table | None:
    """A table of the evaluation; None where it was not measured."""
    return next((one for one in found.tables if one.identifier == identifier), None)


def cell_of(found: Findings, identifier: str, row: str, column: str) -> Figure | None:
    """Our figure in a table, in the row whose first cell is `row`."""
    table = table_of(found, identifier)
    if table is None:
        return None
    at = [one.key for one in table.columns].index(column)
    return next((_ours(cells[at]) for cells in table.rows if cells[0] == row), None)


def _ours(cell: Cell) -> Figure | None:
    figure = cell.ours if isinstance(cell, Beside) else cell
    return None if isinstance(figure, str) else figure
