"""Every table of docs/results.md about protection: what `miad evaluate` measures, as Markdown, with
the paper's figures and our own aims beside it.

One run per data set, over pictures of its test split that all models classify right. What is
measured is kept below `--work`, so a run that was interrupted goes on, and one of another day
measures only what is new. What cannot be measured for want of models is left out and named.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from miad_cli.evaluate import Outcome, Request, evaluate, plan
from miad_cli.evaluation.findings import Beside, Cell, Column, Figure, Findings, Table
from miad_cli.evaluation.intervals import Estimate
from miad_cli.evaluation.paper import BEST, SEEN, UNSEEN, Paper, paper_for
from miad_cli.evaluation.protocols.registry import PROTOCOLS

TITLES = {
    "brain_mri": "Brain MRI",
    "dermoscopy": "Dermoscopy",
    "fundus": "Fundus",
    "chest_xray": "Chest X-ray",
    "chest_ct": "Chest CT",
    "breast_us": "Breast ultrasound",
}

THE_PAPERS = ("brain_mri", "dermoscopy", "fundus")
"""Data sets that the paper has figures for: BTMRI, ISIC2019, Messidor."""

OTHERS = {"brain_mri": ("no_tumor",)}
"""Classes that the paper's data does not have, which come from elsewhere: left out."""

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

NOT_MEASURED = "–"


@dataclass(frozen=True)
class Row:
    """One line: our figure, the protocol that gives it, and what stands beside it, as a number or
    in words."""

    protocol: str
    what: str
    ours: Figure | None
    beside: float | str | None = None
    digits: int = 2


def main() -> None:
    options = _options()
    lines = [f"Command: `{_command(options)}`"]
    for task in options.tasks.split(","):
        request = _request(task, options)
        outcome = evaluate(request, _progress(task))
        print(file=sys.stderr)
        lines += ["", *markdown(task, outcome)]
    text = "\n".join(lines) + "\n"
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    else:
        print(text, end="")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="a folder for each task, each with manifest.csv"
    )
    parser.add_argument("--logo", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="where figures are kept")
    parser.add_argument("--n", type=int, default=25, help="pictures of each task")
    parser.add_argument("--tasks", default=",".join(THE_PAPERS), help="default: %(default)s")
    parser.add_argument("--only", default="", help=f"of {','.join(PROTOCOLS)}; default: all")
    parser.add_argument(
        "--no-baselines",
        action="store_true",
        help="what is claimed alone, in a fraction of the time",
    )
    parser.add_argument("--effort", choices=("fast", "standard", "max"), default="standard")
    parser.add_argument("--seed", type=int, default=2023)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, help="default: stdout")
    return parser.parse_args()


def _command(options: argparse.Namespace) -> str:
    only = f" --only {options.only}" if options.only else ""
    only += " --no-baselines" if options.no_baselines else ""
    return (
        f"python -m benchmarks.results --data DATA --logo LOGO --work WORK --n {options.n} "
        f"--tasks {options.tasks}{only} --effort {options.effort} --seed {options.seed}"
    )


def _request(task: str, options: argparse.Namespace) -> Request:
    """What to ask of `evaluate`: what was wanted, as far as it can be measured here."""
    folder = options.work / task
    folder.mkdir(parents=True, exist_ok=True)
    request = Request(
        manifest_without(OTHERS.get(task, ()), options.data / task / "manifest.csv", folder),
        options.logo,
        ("all",),
        split="test",
        task=task,
        overrides={"search": {"effort": options.effort}},
        limit=options.n,
        work=folder,
        seed=options.seed,
        baselines=not options.no_baselines,
        jobs=options.jobs,
    )
    wanted = options.only.split(",") if options.only else list(PROTOCOLS)
    if unknown := [name for name in wanted if name not in PROTOCOLS]:
        raise SystemExit(f"--only: there is no {unknown[0]}; there are {', '.join(PROTOCOLS)}")
    if not options.only:
        return request
    able = [name for name in plan(request).protocols if name in wanted]
    if not able:
        raise SystemExit(f"{task}: nothing of {options.only} can be measured with these models")
    return replace(request, protocols=tuple(able))


def manifest_without(labels: Sequence[str], manifest: Path, folder: Path) -> Path:
    """The manifest, or, where classes are to be left out, one without them in `folder`."""
    if not labels:
        return manifest
    with manifest.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["label"] not in labels]
    for row in rows:
        for column in ("path", "mask"):
            if row.get(column):
                row[column] = str((manifest.parent / row[column]).resolve())
    if not rows:
        raise SystemExit(f"{manifest}: no pictures but of {', '.join(labels)}")
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    return folder / "manifest.csv"


def _progress(task: str) -> Callable[[int], None]:
    done, started = 0, time.monotonic()

    def advance(total: int) -> None:
        nonlocal done
        done += 1
        minutes = (time.monotonic() - started) / 60
        print(f"\r{task}: {done} of {total}, {minutes:.0f} min", end="", file=sys.stderr)

    return advance


# --- One data set -----------------------------------------------------------------------------


def markdown(task: str, outcome: Outcome) -> Iterator[str]:
    """The tables of one data set, line by line."""
    found, paper = outcome.findings, paper_for(task)
    yield f"## {TITLES.get(task, task)}"
    yield ""
    yield from _facts(task, found)
    absent: list[Row] = []
    yield from _rows("Beside the paper", "paper", paper_rows(task, found, paper), absent)
    yield from _rows("What is claimed", "aim", claim_rows(found), absent)
    for identifier, columns in TABLES.items():
        table = table_of(found, identifier)
        if table is not None:
            yield from _table(table, columns)
    yield "**Not measured:** " + ("; ".join(_left_out(outcome, absent)) or "nothing.")


TABLES: Mapping[str, tuple[str, ...]] = {
    "seen": ("search", "models", "accuracy", "auc"),
    "unseen": ("family", "models", "accuracy", "auc", "he_sit"),
    "unseen-matrix": (),
    "removal-output": (),
    "removal-accuracy": (),
    "removal-kinds": (),
    "robust": (),
    "robust-adaptive": (),
    "lesions": (),
    "strength": ("sl", "epsilon", "shape", "accuracy", "seen", "ssim", "outside", "delta"),
    "logos": (),
    "authorise": (),
    "seen-quality": (
        "protected", "ssim", "outside", "lesion", "delta", "under_logo", "touched", "under_delta",
        "queries",
    ),
}  # fmt: skip
"""Tables of the evaluation that are shown whole, and which of their columns; none: all."""


def _facts(task: str, found: Findings) -> Iterator[str]:
    meta = found.meta
    classes = ", ".join(f"{name} {count}" for name, count in meta.data.classes if count)
    attacked = [one.name for one in meta.models if one.role == "classifier"]
    removers = [one.name for one in meta.models if one.role == "removal"]
    left_out = f" Without the class {', '.join(OTHERS[task])}." if task in OTHERS else ""
    yield (
        f"{meta.data.used} test pictures that all models classify right ({classes}), so every "
        f"accuracy was 1.00 before; the label is what is attacked.{left_out} Models: "
        f"{', '.join(attacked)}. Removal networks: {', '.join(removers) or 'none'}. Profile "
        f"{meta.profile}, {meta.settings['search.method']}, effort "
        f"{meta.settings['search.effort']}, seed {meta.seed}, miad {meta.version}. In brackets: "
        "95 % intervals, by bootstrap over patients."
    )
    yield ""


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

    def accuracy(what: str, name: str) -> Row:
        aim, (protocol, _, _) = AIMS.get(name), name.partition(".")
        return Row(protocol, what, values.get(name), None if aim is None else f"≤ {aim:.2f}")

    classifiers = [one for one in models if one.role == "classifier"]
    yield accuracy("all models attacked together", "seen.ensemble.accuracy")
    yield accuracy("each model attacked alone, mean", "seen.accuracy")
    for one in classifiers:
        yield accuracy(f"{one.name} attacked alone", f"seen.{one.name}.accuracy")
    yield accuracy("one family left out, mean", "unseen.accuracy")
    for family in dict.fromkeys(one.family for one in classifiers):
        yield accuracy(f"{family} left out", f"unseen.{family}.accuracy")
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


def _left_out(outcome: Outcome, absent: Sequence[Row]) -> Iterator[str]:
    """Protocols that were not measured, and figures that those have not which were."""
    reasons, there = dict(outcome.left_out), outcome.findings.protocols
    for name in PROTOCOLS:
        if name not in there:
            yield f"the protocol {name} ({reasons.get(name, 'not asked for')})"
    yield from (row.what for row in absent if row.protocol in there)


# --- Markdown ---------------------------------------------------------------------------------


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


def _rows(title: str, beside: str, rows: Iterator[Row], absent: list[Row]) -> Iterator[str]:
    """A table of the rows that were measured; the others are added to `absent`."""
    made = []
    for row in rows:
        if row.ours is None:
            absent.append(row)
            continue
        theirs = row.beside
        shown = f"{theirs:.{row.digits}f}" if isinstance(theirs, float | int) else theirs or ""
        made.append(f"| {row.what} | {figure(row.ours, row.digits)} | {_n(row.ours)} | {shown} |")
    if made:
        yield from (f"### {title}", "", f"| figure | ours (95 %) | n | {beside} |",
                    "| --- | --- | --- | --- |", *made, "")  # fmt: skip


def _table(table: Table, keys: Sequence[str]) -> Iterator[str]:
    """A table of the evaluation, or some columns of it; the paper's figures in brackets."""
    places = [place for place, one in enumerate(table.columns) if not keys or one.key in keys]
    columns = [table.columns[place] for place in places]
    yield f"### {table.title}"
    yield ""
    yield table.meaning
    yield ""
    yield f"| {' | '.join(one.title for one in columns)} |"
    yield f"|{' --- |' * len(columns)}"
    for row in table.rows:
        shown = (_shown(row[place], table.columns[place]) for place in places)
        yield f"| {' | '.join(shown)} |"
    yield ""
    if table.note:
        yield table.note
        yield ""


def _shown(cell: Cell, column: Column) -> str:
    if isinstance(cell, str):
        return cell
    if isinstance(cell, Beside):
        ours = _shown(cell.ours, column)
        return ours if cell.paper is None else f"{ours}; paper {cell.paper:.{column.digits}f}"
    return NOT_MEASURED if cell is None else figure(cell, column.digits)


def figure(value: Figure, digits: int) -> str:
    """A number with its interval, where it has one."""
    if not isinstance(value, Estimate):
        return f"{value:.{digits}f}"
    interval = (
        "" if value.method == "none" else f" ({value.low:.{digits}f}–{value.high:.{digits}f})"
    )
    return f"{value.value:.{digits}f}{interval}"


def _n(value: Figure) -> str:
    return str(value.n) if isinstance(value, Estimate) else ""


if __name__ == "__main__":
    main()
