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
from dataclasses import replace
from pathlib import Path

from benchmarks.results_markdown import NOT_MEASURED, figure, rows_table, whole_table
from benchmarks.results_rows import Row, claim_rows, paper_rows, table_of
from miad_cli.demo import draw_logo
from miad_cli.evaluate import Outcome, Request, evaluate, plan
from miad_cli.evaluation.findings import Findings
from miad_cli.evaluation.paper import paper_for
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


def main() -> None:
    options = _options()
    outcomes = {}
    for task in options.tasks.split(","):
        outcomes[task] = evaluate(_request(task, options), _progress(task))
        print(file=sys.stderr)
    lines = [f"Command: `{_command(options)}`", "", *overview(outcomes)]
    for task, outcome in outcomes.items():
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
    parser.add_argument("--logo", type=Path, help="default: the demonstration's")
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
    only += " --logo LOGO" if options.logo else ""
    return (
        f"python -m benchmarks.results --data DATA --work WORK --n {options.n} "
        f"--tasks {options.tasks}{only} --effort {options.effort} --seed {options.seed}"
    )


def _request(task: str, options: argparse.Namespace) -> Request:
    """What to ask of `evaluate`: what was wanted, as far as it can be measured here."""
    folder = options.work / task
    folder.mkdir(parents=True, exist_ok=True)
    request = Request(
        manifest_without(OTHERS.get(task, ()), options.data / task / "manifest.csv", folder),
        options.logo or _drawn(folder / "logo.png"),
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


def _drawn(path: Path) -> Path:
    """The demonstration's logo, in a file."""
    draw_logo(path)
    return path


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


def overview(outcomes: Mapping[str, Outcome]) -> Iterator[str]:
    """What is claimed, the data sets side by side."""
    rows = {task: [*claim_rows(one.findings)] for task, one in outcomes.items()}
    if all(one.ours is None for each in rows.values() for one in each):
        return
    yield "## What is claimed, side by side"
    yield ""
    counts = (
        f"{TITLES.get(task, task)} ({one.findings.meta.data.used})"
        for task, one in outcomes.items()
    )
    yield f"| figure (number of pictures) | {' | '.join(counts)} | aim |"
    yield "| --- |" + " --- |" * (len(outcomes) + 1)
    for what in dict.fromkeys(one.what for each in rows.values() for one in each if not one.detail):
        found = [next((one for one in each if one.what == what), None) for each in rows.values()]
        cells = [
            NOT_MEASURED if one is None or one.ours is None else figure(one.ours, one.digits)
            for one in found
        ]
        aims = dict.fromkeys(str(one.beside) for one in found if one and one.beside is not None)
        if set(cells) != {NOT_MEASURED}:
            yield f"| {what} | {' | '.join(cells)} | {' or '.join(aims)} |"


def markdown(task: str, outcome: Outcome) -> Iterator[str]:
    """The tables of one data set, line by line."""
    found, paper = outcome.findings, paper_for(task)
    yield f"## {TITLES.get(task, task)}"
    yield ""
    yield from _facts(task, found)
    absent: list[Row] = []
    yield from rows_table("Beside the paper", "paper", paper_rows(task, found, paper), absent)
    yield from rows_table("What is claimed", "aim", claim_rows(found), absent)
    for identifier, columns in TABLES.items():
        table = table_of(found, identifier)
        if table is not None:
            yield from whole_table(table, columns)
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


def _left_out(outcome: Outcome, absent: Sequence[Row]) -> Iterator[str]:
    """Protocols that were not measured, and figures that those have not which were."""
    reasons, there = dict(outcome.left_out), outcome.findings.protocols
    for name in PROTOCOLS:
        if name not in there:
            yield f"the protocol {name} ({reasons.get(name, 'not asked for')})"
    yield from (row.what for row in absent if row.protocol in there)


if __name__ == "__main__":
    main()
