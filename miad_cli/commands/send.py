"""`miad send`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from miad_cli import console
from miad_cli.commands.options import (
    AsJson,
    Inputs,
    LogJson,
    NoInput,
    OwnerRoots,
    Owners,
    PassphraseCommand,
    PassphraseFd,
    Quiet,
    ReportFile,
    Verbose,
)

if TYPE_CHECKING:
    from miad_cli.pacs.destinations import Destination
    from miad_cli.send import FileReport, SendReport

Dest = Annotated[
    str,
    typer.Option(
        "--dest",
        help="A name from the destinations file, AET@HOST:PORT, or https://… (DICOMweb).",
        show_default=False,
    ),
]
Destinations = Annotated[
    Path | None,
    typer.Option(
        "--destinations",
        envvar="MIAD_DESTINATIONS",
        help="Destinations file (TOML); else destinations.toml in the settings folder.",
    ),
]
NotClinical = Annotated[
    bool,
    typer.Option(
        "--yes-not-clinical",
        help="The destination written out feeds neither clinical AI nor primary reading.",
    ),
]


def send_command(
    inputs: Inputs,
    dest: Dest,
    destinations: Destinations = None,
    not_clinical: NotClinical = False,
    owner: Owners = None,
    owner_root: OwnerRoots = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Leave out what this destination stored before.")
    ] = False,
    read_back: Annotated[
        bool,
        typer.Option("--verify", help="Read back, and compare pixels and container."),
    ] = False,
    commit: Annotated[
        bool, typer.Option("--commit", help="Ask for storage commitment (DIMSE).")
    ] = False,
    passphrase_fd: PassphraseFd = None,
    passphrase_command: PassphraseCommand = None,
    no_input: NoInput = False,
    report: ReportFile = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be sent, ask nobody.")
    ] = False,
    as_json: AsJson = False,
    log_json: LogJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Send protected files to a PACS that is meant for releases. Originals never go out."""
    from miad_cli.commands.passphrases import Passphrases
    from miad_cli.commands.trust import trusted_owners
    from miad_cli.files import check_report_place
    from miad_cli.send import Wishes, send_study

    if report is not None:
        check_report_place(report, inputs)
    manners = console.Manners(as_json, log_json, quiet, verbose)
    passphrases = Passphrases(passphrase_fd, passphrase_command, no_input)
    destination = chosen_destination(dest, destinations, manners)
    owners = trusted_owners(owner, owner_root, manners)
    with console.progress_bar(manners, "Sending") as advance:

        def follow(one: FileReport, total: int) -> None:
            advance(total)
            if log_json:
                console.log_line(_as_facts(one))

        result = send_study(
            inputs,
            destination,
            owners,
            Wishes(resume, read_back, commit, dry_run),
            not_clinical=not_clinical,
            passphrase=passphrases.of,
            progress=follow,
        )
    facts = send_facts(result)
    if as_json:
        console.print_json(facts)
    render_send(result, manners)
    if report is not None:
        from miad_cli.files import write_report

        write_report(report, facts)
    raise typer.Exit(result.exit_code)


def chosen_destination(dest: str, path: Path | None, manners: console.Manners) -> Destination:
    """The destination that --dest means, with a warning for secrets that others can read.

    Raises:
        UsageError: there is none, or the destinations file is not valid.
    """
    from miad_cli.commands.trust import warn_of_readers
    from miad_cli.pacs.destinations import find_destination, load_destinations
    from miad_cli.seal.places import config_directory

    place = path or config_directory() / "destinations.toml"
    declared = load_destinations(place) if path is not None or place.exists() else {}
    found = find_destination(dest, declared)
    secrets = [found.tls.key if found.tls else None, found.auth.file if found.auth else None]
    for secret in secrets:
        if secret is not None:
            warn_of_readers(secret, manners)
    return found


def render_send(report: SendReport, manners: console.Manners) -> None:
    """A line for each file that needs one, and what became of all."""
    for one in report.files:
        _render_file(one, manners)
    counts = [
        f"{report.count(state)} {state}"
        for state in ("stored", "stored with warning", "kept", "left out", "passed over")
        if report.count(state)
    ]
    if report.count("planned"):
        counts.insert(0, f"{report.count('planned')} would be sent, nothing was")
    for state in ("refused", "failed"):
        if report.count(state):
            counts.append(f"[red]{report.count(state)} {state}[/]")
    read_back = sum(bool(one.read_back) for one in report.files)
    committed = sum(bool(one.committed) for one in report.files)
    counts += [f"{read_back} read back, the same"] if read_back else []
    counts += [f"{committed} committed"] if committed else []
    to = console.clean(report.destination)
    console.say(manners, f"[bold]{', '.join(counts)}[/]  to {to}")
    if recoded := sum(bool(one.transcoded_to) for one in report.files):
        console.warn(
            f"{recoded} sent uncompressed, because the PACS refused their encoding: the same "
            "pixels, and verify will call them re-encoded without loss",
            manners,
        )


def _render_file(one: FileReport, manners: console.Manners) -> None:
    name, reason = console.clean(one.name), console.clean(one.reason.rstrip("."))
    if one.state in ("failed", "refused"):
        console.file_failed(one.name, one.reason, one.hint, manners)
    elif one.state == "stored with warning":
        console.say(manners, f"[yellow]{one.state}[/] {name}: {reason}")
    elif one.state in ("left out", "passed over"):
        console.say(manners, f"[dim]{one.state}[/] {name}: {reason}")
    elif manners.verbose or one.state == "planned":
        console.say(manners, f"[green]{one.state}[/] {name}" + (f": {reason}" if reason else ""))


def send_facts(report: SendReport) -> dict[str, Any]:
    """The report as JSON. It names files by their place in the input, and no patient."""
    from miad_cli.send import STATES

    return {
        "command": "send",
        "destination": report.destination,
        "dry_run": report.dry_run,
        "counts": {state: report.count(state) for state in STATES if report.count(state)},
        "files": [_as_facts(one) for one in report.files],
        "exit_code": report.exit_code,
    }


def _as_facts(one: FileReport) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": str(one.name), "state": one.state}
    for field in ("reason", "hint", "sop_instance_uid", "attempts", "transcoded_to"):
        if getattr(one, field):
            facts[field] = getattr(one, field)
    for field in ("status", "read_back", "committed"):
        if getattr(one, field) is not None:
            facts[field] = getattr(one, field)
    return facts
