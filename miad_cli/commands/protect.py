"""`miad protect`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from miad_cli import console
from miad_cli.commands.options import (
    AsJson,
    CarrierName,
    Device,
    DryRun,
    Effort,
    Inputs,
    Jobs,
    LogJson,
    Logo,
    Models,
    NoInput,
    OnExists,
    Output,
    PassphraseCommand,
    PassphraseFd,
    PayloadName,
    ProfileName,
    Quiet,
    ReportFile,
    SearchName,
    SignWith,
    Verbose,
    overrides,
)
from miad_cli.commands.protect_report import outcome_facts, render_report
from miad_cli.commands.send import Destinations, NotClinical, chosen_destination
from miad_cli.errors import MiadError, exit_code_of

if TYPE_CHECKING:
    from miad_cli.commands.passphrases import Passphrases
    from miad_cli.outcomes import Outcome, Report
    from miad_cli.pacs.destinations import Destination
    from miad_cli.profiles import Profile
    from miad_cli.protection.request import Request
    from miad_cli.seal.identities import Recipient
    from miad_cli.send import SendReport

Mask = Annotated[
    str | None,
    typer.Option(
        "--mask",
        help="Lesion masks, a file or a folder; none: keep off nothing. Default: what the "
        "models attend to.",
    ),
]
Coherent = Annotated[
    bool | None,
    typer.Option(
        "--coherent/--no-coherent",
        help="One place for the logo in a whole series. Default: in volumes.",
        show_default=False,
    ),
]
To = Annotated[
    list[str] | None, typer.Option("--to", help="Recipient (age1… or SSH key); repeatable.")
]
ToFile = Annotated[
    list[Path] | None, typer.Option("--to-file", help="File of recipients, one a line.")
]
KeyOut = Annotated[
    Path | None, typer.Option("--key-out", help="Where to make the key, without --to.")
]
Search = Annotated[SearchName | None, typer.Option("--search", help="Search method.")]
Payload = Annotated[PayloadName | None, typer.Option("--payload", help="What is sealed.")]
Carrier = Annotated[CarrierName | None, typer.Option("--carrier", help="Where the seal travels.")]
CopyOthers = Annotated[
    bool,
    typer.Option("--copy-others", help="Take objects without a picture along, under new UIDs."),
]
RequireFooled = Annotated[
    bool, typer.Option("--require-fooled", help="Exit 5 unless every picture fools.")
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Keep what is there and authentic, do the rest.")
]
Dest = Annotated[
    str | None,
    typer.Option(
        "--dest",
        help="Send the result there: a name, AET@HOST:PORT or https://… (see miad send).",
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of the search.")]


def protect_command(
    inputs: Inputs,
    logo: Logo,
    output: Output = None,
    profile: ProfileName = None,
    models: Models = None,
    mask: Mask = None,
    coherent: Coherent = None,
    to: To = None,
    to_file: ToFile = None,
    key_out: KeyOut = None,
    sign_with: SignWith = None,
    passphrase_fd: PassphraseFd = None,
    passphrase_command: PassphraseCommand = None,
    no_input: NoInput = False,
    effort: Effort = None,
    search: Search = None,
    payload: Payload = None,
    carrier: Carrier = None,
    copy_others: CopyOthers = False,
    require_fooled: RequireFooled = False,
    on_exists: OnExists = "fail",
    resume: Resume = False,
    dest: Dest = None,
    destinations: Destinations = None,
    not_clinical: NotClinical = False,
    device: Device = "auto",
    jobs: Jobs = None,
    seed: Seed = 2023,
    report: ReportFile = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    log_json: LogJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Copy pictures with your logo where it hurts AI diagnosis most, and seal the originals."""
    from miad_cli.commands.passphrases import Passphrases
    from miad_cli.commands.trust import read_owner
    from miad_cli.files import check_report_place, default_output
    from miad_cli.profiles import named_profile
    from miad_cli.protection.request import Request
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
    recipients = _recipients(to, to_file, chosen)
    request = Request(
        inputs=tuple(inputs),
        logo=logo,
        output=output or default_output(inputs, "protected"),
        profile=chosen,
        mask=None if mask in (None, "none") else Path(mask),
        anywhere=mask == "none",
        overrides=overrides(
            models=models,
            effort=effort,
            search=search,
            payload=payload,
            carrier=carrier,
            coherent=coherent,
        ),
        recipients=recipients,
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
    result, sent = _protected(request, manners), None
    if destination is not None and result.in_output and not dry_run:
        sent = _sent(request, destination, manners, passphrases, not_clinical)
    code = exit_code_of([result.exit_code, sent.exit_code if sent else 0])
    render_report(result, sent, code, manners, report)
    raise typer.Exit(code)


def _recipients(
    to: list[str] | None, to_file: list[Path] | None, profile: Profile | None
) -> tuple[Recipient, ...]:
    """Those named on the command line, else those of the profile that was."""
    from miad_cli.commands.trust import read_recipients

    recipients = read_recipients(to, to_file)
    if not recipients and profile is not None and profile.recipients_file is not None:
        recipients = read_recipients([], [profile.recipients_file])
    return tuple(recipients)


def _protected(request: Request, manners: console.Manners) -> Report:
    """The use case, followed on the terminal and in the log."""
    from miad_cli.protect import protect

    with console.progress_bar(manners, "Protecting") as advance:

        def follow(outcome: Outcome, total: int) -> None:
            advance(total)
            if manners.log_json:
                console.log_line(outcome_facts(outcome))

        return protect(request, follow)


def _sent(
    request: Request,
    destination: Destination,
    manners: console.Manners,
    passphrases: Passphrases,
    not_clinical: bool,
) -> SendReport | MiadError:
    """What became of sending the output. An error is no end: what was protected stands, and its
    key has to be named."""
    from miad_cli.commands.trust import trusted_owners
    from miad_cli.send import Wishes, send_study

    signed_by = [request.owner.public] if request.owner else []
    owners = [*signed_by, *trusted_owners(None, None, manners)]
    try:
        return send_study(
            [request.output],
            destination,
            owners,
            Wishes(resume=request.on_exists == "resume"),
            not_clinical=not_clinical,
            passphrase=passphrases.of,
        )
    except MiadError as error:
        return error
