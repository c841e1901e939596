"""`miad pacs-check`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from miad_cli import console
from miad_cli.commands.options import (
    AsJson,
    LogJson,
    NoInput,
    PassphraseCommand,
    PassphraseFd,
    Quiet,
    ReportFile,
    Verbose,
)
from miad_cli.commands.send import Destinations, NotClinical, chosen_destination

if TYPE_CHECKING:
    from miad_cli.pacs_check import CheckReport, Stored
    from miad_cli.probe import Finding

_ADVICE = {
    "embed": "what this PACS gives back can be unlocked from the file alone: --carrier embed is "
    "enough, --carrier both (the default) does no harm",
    "both": "on some ways, or for some pictures, the container is lost: use --carrier both, and "
    "keep the sidecars",
    "sidecar": "the container does not survive in this PACS: use --carrier both, keep the "
    "sidecars, and hand them over on another way",
    "unknown": "nothing came back, so nothing is known: use --carrier both, and keep the sidecars",
}
_ORIGINAL = (
    "pixels came back changed, so that even with the sidecar a compact payload cannot be undone: "
    "use --payload original"
)


def pacs_check_command(
    dest: Annotated[
        str,
        typer.Argument(
            help="A name from the destinations file, AET@HOST:PORT, or https://… (DICOMweb).",
            show_default=False,
        ),
    ],
    destinations: Destinations = None,
    not_clinical: NotClinical = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Store the probe study without asking.")
    ] = False,
    passphrase_fd: PassphraseFd = None,
    passphrase_command: PassphraseCommand = None,
    no_input: NoInput = False,
    report: ReportFile = None,
    as_json: AsJson = False,
    log_json: LogJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Store a small synthetic study in a PACS, fetch it back, and say what survived."""
    from miad_cli.commands.passphrases import Passphrases
    from miad_cli.files import check_report_place, write_report
    from miad_cli.pacs_check import check_pacs
    from miad_cli.probe import new_study_uid

    if report is not None:
        check_report_place(report, [])
    manners = console.Manners(as_json, log_json, quiet, verbose)
    passphrases = Passphrases(passphrase_fd, passphrase_command, no_input)
    destination = chosen_destination(dest, destinations, manners)
    destination.check_purpose(not_clinical)
    study_uid = new_study_uid()
    if not yes:
        _need_terminal(no_input)
    _announce(destination.name, study_uid, manners)
    if not yes:
        _ask()
    result = check_pacs(
        destination, study_uid, not_clinical=not_clinical, passphrase=passphrases.of
    )
    facts = check_facts(result)
    if as_json:
        console.print_json(facts)
    _render(result, manners)
    if report is not None:
        write_report(report, facts)
    raise typer.Exit(result.exit_code)


def _announce(name: str, study_uid: str, manners: console.Manners) -> None:
    """Say on stderr what is about to happen, so that the study can be found whatever happens."""
    if manners.log_json:
        console.log_line({"level": "info", "destination": name, "study_instance_uid": study_uid})
    elif not manners.quiet:
        from miad_cli.probe import PATIENT_NAME, PICTURES

        console.err().print(
            f"A study of {len(PICTURES)} small generated pictures of nobody ({PATIENT_NAME}) is "
            f"to be stored in {console.clean(name)}.\nStudy Instance UID: {study_uid}",
            soft_wrap=True,
        )


def _need_terminal(no_input: bool) -> None:
    """Refuse to store anything where nobody can be asked.

    Raises:
        UsageError: there is no terminal.
    """
    from miad_cli.errors import UsageError

    if no_input or not sys.stdin.isatty():
        raise UsageError(
            "pacs-check stores something in the PACS, and there is no terminal to ask on; "
            "nothing was stored",
            hint="Say --yes.",
        )


def _ask() -> None:
    """Ask on the terminal.

    Raises:
        Interrupted: the answer is no.
    """
    from miad_cli.errors import Interrupted

    try:
        agreed = typer.confirm("Store it?", err=True)
    except typer.Abort:
        agreed = False
    if not agreed:
        raise Interrupted("nothing was stored")


def _render(report: CheckReport, manners: console.Manners) -> None:
    for stored in report.stored:
        _render_stored(stored, manners)
    for way in dict.fromkeys(one.way for one in report.findings):
        console.say(manners, f"[bold]{way}[/]")
        for finding in report.findings:
            if finding.way == way:
                console.say(manners, f"  {_line(finding)}")
    for skipped in report.skipped:
        console.say(manners, f"[bold]{skipped.way}[/]\n  not tried: {skipped.reason}")
    console.say(manners, f"[bold]advice: {report.advice}[/]  {_ADVICE[report.advice]}")
    if report.needs_original:
        console.say(manners, f"[yellow]{_ORIGINAL}[/]")
    if report.left_behind:
        console.warn(
            f"the probe study is still there: {report.left_behind}. Delete Study Instance UID "
            f"{report.study_instance_uid} by hand",
            manners,
        )


def _render_stored(one: Stored, manners: console.Manners) -> None:
    if not one.is_stored:
        console.file_failed(one.picture, f"not stored: {one.reason}", one.hint, manners)
        return
    details = [console.clean(one.reason)] if one.reason else []
    if one.transcoded:
        details.append("sent uncompressed, because the PACS refused its encoding")
    if details or manners.verbose:
        console.say(manners, f"stored {one.picture}" + "".join(f"; {part}" for part in details))


def _line(finding: Finding) -> str:
    """What became of one picture, in one line."""
    name = finding.picture
    if not finding.came_back:
        return f"[yellow]did not come back[/] {name}: {console.clean(finding.reason)}"
    container = {
        "whole": "container whole",
        "by reference": "container named by reference",
        "changed": "container changed",
        "dropped": "container dropped",
    }[finding.container]
    said = [container]
    if finding.restores is None:
        colour = "green" if finding.container in ("whole", "by reference") else "yellow"
        verdict = "listed"
    else:
        colour = "green" if finding.restores else "red"
        verdict = "opens" if finding.restores else "does not open"
        said.append({"file": "the same file", "data set": "the same data set"}.get(
            finding.content, "written anew"
        ))  # fmt: skip
        said.append("the same pixels" if finding.pixels else "[red]other pixels[/]")
        if not finding.syntax_kept:
            from pydicom.uid import UID

            said.append(f"now {console.clean(UID(finding.transfer_syntax_uid).name)}")
        if not finding.restores and finding.restores_with_sidecar:
            said.append("opens with its sidecar")
    if finding.uids_kept is False:
        said.append("[red]other UIDs[/]")
    if finding.changed:
        said.append(f"attributes changed: {console.clean(', '.join(finding.changed))}")
    return f"[{colour}]{verdict}[/] {name}: {', '.join(said)}"


def check_facts(report: CheckReport) -> dict[str, Any]:
    """The report as JSON."""
    return {
        "command": "pacs-check",
        "destination": report.destination,
        "study_instance_uid": report.study_instance_uid,
        "stored": [_without_nothing(vars(one)) for one in report.stored],
        "findings": [_without_nothing(vars(one)) for one in report.findings],
        "skipped": [vars(one) for one in report.skipped],
        "advice": report.advice,
        "advice_in_words": _ADVICE[report.advice],
        "needs_payload_original": report.needs_original,
        "left_behind": report.left_behind or None,
        "exit_code": report.exit_code,
    }


def _without_nothing(facts: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in facts.items() if value not in (None, "")}
