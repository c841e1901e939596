"""`miad protect`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from miad_cli import console
from miad_cli.commands.options import (
    AsJson,
    DryRun,
    Inputs,
    Jobs,
    LogJson,
    NoInput,
    Output,
    PassphraseCommand,
    PassphraseFd,
    Quiet,
    ReportFile,
    SignWith,
    Verbose,
)
from miad_cli.commands.send import (
    Destinations,
    NotClinical,
    chosen_destination,
    render_send,
    send_facts,
)
from miad_cli.errors import MiadError, exit_code_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from miad_cli.commands.passphrases import Passphrases
    from miad_cli.outcomes import Outcome, Report
    from miad_cli.pacs.destinations import Destination
    from miad_cli.seal.owner import OwnerPublicKey
    from miad_cli.send import SendReport

SearchName = Literal["guided", "he-sit", "he", "random"]
EffortName = Literal["fast", "standard", "max"]
PayloadName = Literal["auto", "compact", "original"]
CarrierName = Literal["both", "embed", "sidecar"]
OnExistsName = Literal["fail", "skip", "replace"]


def protect_command(
    inputs: Inputs,
    logo: Annotated[Path, typer.Option("--logo", help="The logo, a PNG.", show_default=False)],
    output: Output = None,
    profile: Annotated[
        str | None,
        typer.Option("--profile", envvar="MIAD_PROFILE", help="Profile name or .toml file."),
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option("--models", help="Only this model: its name, folder or file; repeatable."),
    ] = None,
    mask: Annotated[
        str | None,
        typer.Option(
            "--mask",
            help="Lesion masks, a file or a folder; none: keep off nothing. Default: what the "
            "models attend to.",
        ),
    ] = None,
    coherent: Annotated[
        bool | None,
        typer.Option(
            "--coherent/--no-coherent",
            help="One place for the logo in a whole series. Default: in volumes.",
            show_default=False,
        ),
    ] = None,
    to: Annotated[
        list[str] | None, typer.Option("--to", help="Recipient (age1… or SSH key); repeatable.")
    ] = None,
    to_file: Annotated[
        list[Path] | None, typer.Option("--to-file", help="File of recipients, one a line.")
    ] = None,
    key_out: Annotated[
        Path | None, typer.Option("--key-out", help="Where to make the key, without --to.")
    ] = None,
    sign_with: SignWith = None,
    passphrase_fd: PassphraseFd = None,
    passphrase_command: PassphraseCommand = None,
    no_input: NoInput = False,
    effort: Annotated[
        EffortName | None, typer.Option("--effort", help="How much work a picture is worth.")
    ] = None,
    search: Annotated[SearchName | None, typer.Option("--search", help="Search method.")] = None,
    payload: Annotated[
        PayloadName | None, typer.Option("--payload", help="What is sealed.")
    ] = None,
    carrier: Annotated[
        CarrierName | None, typer.Option("--carrier", help="Where the seal travels.")
    ] = None,
    copy_others: Annotated[
        bool,
        typer.Option("--copy-others", help="Take objects without a picture along, under new UIDs."),
    ] = False,
    require_fooled: Annotated[
        bool, typer.Option("--require-fooled", help="Exit 5 unless every picture fools.")
    ] = False,
    on_exists: Annotated[
        OnExistsName, typer.Option("--on-exists", help="What to do with files that are there.")
    ] = "fail",
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep what is there and authentic, do the rest.")
    ] = False,
    dest: Annotated[
        str | None,
        typer.Option(
            "--dest",
            help="Send the result there: a name, AET@HOST:PORT or https://… (see miad send).",
        ),
    ] = None,
    destinations: Destinations = None,
    not_clinical: NotClinical = False,
    device: Annotated[
        str, typer.Option("--device", envvar="MIAD_DEVICE", help="auto, cpu, cuda or cuda:N.")
    ] = "auto",
    jobs: Jobs = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the search.")] = 2023,
    report: ReportFile = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    log_json: LogJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Copy pictures with your logo where it hurts AI diagnosis most, and seal the originals."""
    from miad_cli.commands.passphrases import Passphrases
    from miad_cli.commands.trust import read_owner, read_recipients, trusted_owners
    from miad_cli.files import check_report_place, default_output
    from miad_cli.profiles import named_profile
    from miad_cli.protect import Request, protect
    from miad_cli.seal.places import own_key_path

    if report is not None:
        check_report_place(report, inputs)
    manners = console.Manners(as_json, log_json, quiet, verbose)
    passphrases = Passphrases(passphrase_fd, passphrase_command, no_input)
    destination = None
    if dest is not None:  # what is wrong with it is said before anything is protected
        destination = chosen_destination(dest, destinations, manners)
        destination.check_purpose(not_clinical)
    chosen = named_profile(profile) if profile else None
    recipients = read_recipients(to, to_file)
    if not recipients and chosen is not None and chosen.recipients_file is not None:
        recipients = read_recipients([], [chosen.recipients_file])
    request = Request(
        inputs=tuple(inputs),
        logo=logo,
        output=output or default_output(inputs, "protected"),
        profile=chosen,
        mask=None if mask in (None, "none") else Path(mask),
        anywhere=mask == "none",
        overrides=_overrides(search, effort, models, payload, carrier, coherent),
        recipients=tuple(recipients),
        key_out=key_out,
        owner=read_owner(sign_with, manners, passphrases) if sign_with else None,
        owner_passphrase=partial(passphrases.bytes_of, own_key_path()),
        device=device,
        seed=seed,
        on_exists="resume" if resume else on_exists,
        require_fooled=require_fooled,
        copy_others=copy_others,
        dry_run=dry_run,
        jobs=jobs or 1,
    )
    with console.progress_bar(manners, "Protecting") as advance:

        def follow(outcome: Outcome, total: int) -> None:
            advance(total)
            if log_json:
                console.log_line(_as_facts(outcome))

        result = protect(request, follow)
    sent = None
    if destination is not None and result.in_output and not dry_run:
        signed_by = [request.owner.public] if request.owner else []
        owners = [*signed_by, *trusted_owners(None, None, manners)]
        sent = _sent(request.output, destination, owners, passphrases, not_clinical, resume)
    code = exit_code_of([result.exit_code, sent.exit_code if sent else 0])
    _render(result, sent, code, manners, report)
    raise typer.Exit(code)


def _sent(
    output: Path,
    destination: Destination,
    owners: Sequence[OwnerPublicKey],
    passphrases: Passphrases,
    not_clinical: bool,
    resume: bool,
) -> SendReport | MiadError:
    """What became of sending the output. An error is no end: what was protected stands, and its
    key has to be named."""
    from miad_cli.send import Wishes, send_study

    try:
        return send_study(
            [output],
            destination,
            owners,
            Wishes(resume=resume),
            not_clinical=not_clinical,
            passphrase=passphrases.of,
        )
    except MiadError as error:
        return error


def _overrides(
    search: str | None,
    effort: str | None,
    models: list[str] | None,
    payload: str | None,
    carrier: str | None,
    coherent: bool | None,
) -> dict[str, dict[str, Any]]:
    wanted: dict[str, dict[str, Any]] = {
        "series": {"coherent": {True: "always", False: "never", None: None}[coherent]},
        "search": {"method": search, "effort": effort},
        "models": {"names": tuple(models) if models else None},
        "seal": {"payload": payload, "carrier": carrier},
    }
    given = {
        table: {name: value for name, value in settings.items() if value is not None}
        for table, settings in wanted.items()
    }
    return {table: settings for table, settings in given.items() if settings}


def _render(
    report: Report,
    sent: SendReport | MiadError | None,
    code: int,
    manners: console.Manners,
    path: Path | None,
) -> None:
    facts = report_facts(report) | {"exit_code": code}
    if isinstance(sent, MiadError):
        facts["sent"] = {"error": sent.message, "hint": sent.hint, "exit_code": sent.exit_code}
    elif sent is not None:
        facts["sent"] = send_facts(sent)
    if manners.as_json:
        console.print_json(facts)
    for outcome in report.outcomes:
        _render_outcome(outcome, manners)
    _render_summary(report, manners)
    if isinstance(sent, MiadError):
        console.report_error(sent, as_log_line=manners.log_json)
    elif sent is not None:
        render_send(sent, manners)
    if path is not None:
        from miad_cli.files import write_report

        write_report(path, facts)


def _render_outcome(outcome: Outcome, manners: console.Manners) -> None:
    name, reason = console.clean(outcome.name), console.clean(outcome.reason)
    if outcome.state == "failed":
        console.file_failed(outcome.name, outcome.reason, outcome.hint, manners)
    elif outcome.state in ("copied", "passed over", "left out", "planned"):
        console.say(manners, f"[dim]{outcome.state}[/] {name}: {reason}")
    elif manners.verbose:
        console.say(manners, f"[green]{outcome.state}[/] {name}{_verdict(outcome)}")


def _verdict(outcome: Outcome) -> str:
    made = outcome.protection
    if made is None:
        return ""
    if made.fooled is None:
        effect = f"no model for this task, features moved {made.feature_distance:.2f}"
    else:
        effect = f"{made.models_fooled} of {made.models} models fooled"
    if not made.largest_change:  # not wanted, or no model gives the gradients it takes
        effect += ", without perturbation"
    return f"  [dim]{made.profile}, {effect}, {made.queries} queries, {made.seconds:.1f} s[/]"


def _render_summary(report: Report, manners: console.Manners) -> None:
    from miad_cli.outcomes import DIRECTORY_MADE

    done, failed = report.count("protected"), report.count("failed")
    if report.count("planned"):
        pictures = sum(one.state == "planned" and one.is_picture for one in report.outcomes)
        copies = report.count("planned") - pictures
        said = f"{pictures} would be protected" + (f", {copies} copied" if copies else "")
        said += f", [red]{failed} failed[/]" if failed else ""
        console.say(manners, f"{said}; nothing was written.")
        return
    judged = report.judged
    unknown = done - len(judged)
    parts = [f"[bold]{done} protected[/]"]
    if judged:
        parts.append(f"{sum(bool(one.fooled) for one in judged)} of {len(judged)} fooled")
    if unknown:
        parts.append(f"{unknown} of a task that no model knows")
    for state in ("copied", "skipped", "passed over", "left out"):
        if report.count(state):
            parts.append(f"{report.count(state)} {state}")
    if failed:
        parts.append(f"[red]{failed} failed[/]")
    console.say(manners, ", ".join(parts))
    if done:
        console.say(manners, f"output: {console.clean(report.output)}")
    if report.key is not None:
        console.say(manners, f"key:    {console.clean(report.key)}   keep it: it is the way back")
    if any(one.state == "copied" and one.reason != DIRECTORY_MADE for one in report.outcomes):
        console.warn(
            "copies of objects without a picture hold what was found and said of the patient, "
            "in clear: look at what you pass on",
            manners,
        )
    if report.count("passed over") and done:
        console.warn(
            "some objects were passed over and are not in the output: keep the source", manners
        )
    if report.unmarked:
        console.warn(
            f"the mask marks nothing on {report.unmarked} pictures: there the logo keeps off "
            "what the models attend to",
            manners,
        )
    if any(one.names_a_patient for one in report.protections):
        console.warn(
            "pictures name a patient, and so do their protected copies: "
            "miad does not de-identify; do that first, with a tool made for it",
            manners,
        )


def report_facts(report: Report) -> dict[str, Any]:
    """The report as JSON. It names files by their place in the output, and no patient."""
    from miad_cli.outcomes import STATES

    return {
        "command": "protect",
        "output": report.output.name,
        "key": str(report.key) if report.key else None,
        "owner_key_id": report.owner_key_id,
        "provider": report.provider,
        "seed": report.seed,
        "banks": report.banks,
        "profiles": report.profiles,
        "counts": {state: report.count(state) for state in STATES},
        "fooled": {"of": len(report.judged), "n": sum(bool(one.fooled) for one in report.judged)},
        "files": [_as_facts(outcome) for outcome in report.outcomes],
        "exit_code": report.exit_code,
    }


def _as_facts(outcome: Outcome) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": str(outcome.name), "state": outcome.state}
    if outcome.output is not None:
        facts["output"] = str(outcome.output)
    if outcome.reason:
        facts["reason"] = outcome.reason
    if outcome.protection is not None:
        facts |= vars(outcome.protection)
    return facts
