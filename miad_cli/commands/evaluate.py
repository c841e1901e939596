"""`miad evaluate`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from miad_cli import console
from miad_cli.commands.options import (
    AsJson,
    Device,
    DryRun,
    Effort,
    Jobs,
    Logo,
    Models,
    ProfileName,
    Quiet,
    Verbose,
    overrides,
)
from miad_cli.errors import PictureFailed, TargetNotMet, exit_code_of

if TYPE_CHECKING:
    from miad_cli.evaluate import Outcome, Plan, Request
    from miad_cli.evaluation.findings import Figure
    from miad_cli.evaluation.inputs import Labels


def evaluate_command(
    dataset: Annotated[
        Path,
        typer.Argument(
            help="A folder with a sub-folder for each class, a CSV manifest (path, label), or a "
            "DICOM study.",
            show_default=False,
        ),
    ],
    logo: Logo,
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            "--protocol",
            help="What to measure: seen, unseen, removal, authorise, robust, lesions, strength, "
            "logos, sweep or all; joined by commas or repeated. Default: the first five, as far as "
            "the models are there.",
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels",
            help="CSV with SOPInstanceUID and label; folders: sub-folders are classes; none: "
            "the models' predictions are the reference.",
        ),
    ] = None,
    split: Annotated[
        str, typer.Option("--split", help="Rows of the manifest to take, such as test.")
    ] = "",
    task: Annotated[
        str | None, typer.Option("--task", help="What the models are asked, such as brain_mri.")
    ] = None,
    profile: ProfileName = None,
    models: Models = None,
    limit: Annotated[
        int,
        typer.Option(
            "--limit",
            min=1,
            help="Pictures at most. The default is for two cores; 25 or more give intervals that "
            "say something.",
        ),
    ] = 12,
    effort: Effort = None,
    report: Annotated[
        Path | None,
        typer.Option("--report", help="Write the page here, and its JSON and CSV beside it."),
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(
            "--work",
            help="Folder for what was measured; a run that is started again goes on from there. "
            "Default: beside the report.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of everything.")] = 2023,
    device: Device = "auto",
    jobs: Jobs = None,
    baselines: Annotated[
        bool,
        typer.Option(
            "--baselines/--no-baselines",
            help="In seen, unseen and removal measure other ways to protect, too, the paper's own "
            "above all; they take most of the time.",
        ),
    ] = True,
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-if",
            help='Exit 5 where this holds, such as "unseen.accuracy > 0.4"; repeatable.',
        ),
    ] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Measure how well the protection works on your own pictures and models."""
    from miad_cli.evaluate import Request, evaluate, plan
    from miad_cli.evaluation.gate import Gate
    from miad_cli.evaluation.ledger import work_folder
    from miad_cli.evaluation.report import check_place, write_report
    from miad_cli.profiles import named_profile

    manners = console.Manners(as_json=as_json, quiet=quiet, verbose=verbose)
    if report is not None:
        check_place(report, [dataset])
    protocols = tuple(dict.fromkeys(name for one in protocol or () for name in one.split(",")))
    request = Request(
        given=dataset,
        logo=logo,
        protocols=protocols,
        labels=_labels(labels),
        split=split,
        profile=named_profile(profile) if profile else None,
        task=task,
        overrides=overrides(models=models, effort=effort),
        limit=limit,
        work=work or (work_folder(report) if report else None),
        seed=seed,
        device=device,
        baselines=baselines,
        jobs=jobs or 1,
        gates=tuple(Gate.parse(one) for one in fail_if or ()),
        command=_command(
            {
                "--protocol": protocols,
                "--labels": _without_path(labels),
                "--split": split,
                "--task": task,
                "--profile": Path(profile).stem if profile else None,
                "--models": tuple(Path(one).name for one in models or ()),
                "--limit": limit,
                "--effort": effort,
                "--seed": seed,
                "--no-baselines": not baselines,
                "--fail-if": tuple(fail_if or ()),
            }
        ),
    )
    if dry_run:
        _render_plan(plan(request), manners)
        return
    with console.progress_bar(manners, "Measuring") as advance:
        outcome = evaluate(request, advance)
    written = write_report(outcome.findings, report) if report else ()
    codes = [TargetNotMet.exit_code] if outcome.violations else []
    codes += [PictureFailed.exit_code] if outcome.failed else []
    code = exit_code_of(codes)
    _render(outcome, request, written, code, manners)
    raise typer.Exit(code)


def _labels(given: str | None) -> Labels | None:
    words: dict[str | None, Labels | None] = {None: None, "folders": "folders", "none": "none"}
    return words[given] if given in words else Path(str(given))


def _without_path(labels: str | None) -> str | None:
    return labels if labels in (None, "folders", "none") else "LABELS"


def _command(options: dict[str, Any]) -> str:
    """The command line for the report; no path is in it."""
    words = ["miad", "evaluate", "DATASET", "--logo", "LOGO"]
    for name, value in options.items():
        for one in value if isinstance(value, tuple) else (value,):
            if one is True:
                words.append(name)
            elif one is not False and one not in (None, ""):
                words += [name, shlex.quote(str(one))]
    return " ".join(words)


def _render_plan(found: Plan, manners: console.Manners) -> None:
    if manners.as_json:
        console.print_json(
            {
                "command": "evaluate",
                "dry_run": True,
                "protocols": found.protocols,
                "left_out": dict(found.left_out),
                "pictures": found.pictures,
                "units": found.units,
                "kept": found.done,
                "seconds": round(found.seconds),
                "figures": found.figures,
                "exit_code": 0,
            }
        )
    for name, why in found.left_out:
        console.say(manners, f"[dim]left out[/] {name}: {console.clean(why)}")
    console.say(
        manners,
        f"{', '.join(found.protocols)}: at most {found.units} units of work on "
        f"{found.pictures} pictures, about {_time(found.seconds)} on this machine",
    )
    if found.done:
        console.say(manners, f"{found.done} figures are there from an earlier run")
    if manners.verbose:
        for name in found.figures:
            console.say(manners, f"  {console.clean(name)}")
    console.say(manners, "nothing was written.")


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _render(
    outcome: Outcome,
    request: Request,
    written: tuple[Path, ...],
    code: int,
    manners: console.Manners,
) -> None:
    from miad_cli.evaluation.findings import labels_sentence
    from miad_cli.evaluation.report import facts

    if manners.as_json:
        found = facts(outcome.findings)
        del found["samples"]
        console.print_json(
            {
                "command": "evaluate",
                **found,
                "report": written[0].name if written else None,
                "left_out": dict(outcome.left_out),
                "skipped": len(outcome.skipped),
                "failed": outcome.failed,
                "violations": [vars(one) for one in outcome.violations],
                "exit_code": code,
            }
        )
    for skipped in outcome.skipped:
        if skipped.failed:
            console.file_failed(skipped.where, skipped.reason, "", manners)
        elif manners.verbose:
            said = f"[dim]left out[/] {console.clean(skipped.where)}: "
            console.say(manners, said + console.clean(skipped.reason))
    labels = labels_sentence(outcome.findings.meta.data.labels_from)
    for sentence in (*outcome.findings.summary.sentences, labels):
        console.say(manners, console.clean(sentence))
    values = outcome.findings.values
    for name in values if manners.verbose else _main(list(values)):
        console.say(manners, f"  {console.clean(name):<34} {_figure(values[name])}")
    if written:
        console.say(manners, f"report: {console.clean(written[0])}")
    if request.work is not None:
        console.say(manners, f"work:   {console.clean(request.work)}   run again to go on")
    for violation in outcome.violations:
        console.report_error(
            TargetNotMet(f"{violation.sentence} (--fail-if {shlex.quote(violation.gate)})")
        )


def _main(names: list[str]) -> list[str]:
    """The figures of protocols as a whole."""
    return [name for name in names if name.count(".") == 1]


def _figure(figure: Figure) -> str:
    if isinstance(figure, int | float):
        return f"{figure:.3g}"
    if figure.method == "none":
        return f"{figure.value:.3f}  [dim]no interval, n = {figure.n}[/]"
    return f"{figure.value:.3f}  [dim]{figure.low:.3f} to {figure.high:.3f}, n = {figure.n}[/]"
