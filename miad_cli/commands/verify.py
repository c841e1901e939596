"""`miad verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from miad_cli import console
from miad_cli.commands.options import (
    AsJson,
    Inputs,
    Jobs,
    Keys,
    LogJson,
    NoInput,
    OwnerRoots,
    Owners,
    PassphraseCommand,
    PassphraseFd,
    Quiet,
    Verbose,
)

if TYPE_CHECKING:
    from miad_cli.changes import Changes
    from miad_cli.verify import Report, Verification


def verify_command(
    inputs: Inputs,
    owner: Owners = None,
    owner_root: OwnerRoots = None,
    key: Keys = None,
    passphrase_fd: PassphraseFd = None,
    passphrase_command: PassphraseCommand = None,
    no_input: NoInput = False,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            help="Draw where pixels changed: a folder, or FILE.png for a single file.",
            show_default=False,
        ),
    ] = None,
    jobs: Jobs = None,
    as_json: AsJson = False,
    log_json: LogJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Say of every file whether it is what its owner sealed. Needs no private key."""
    from miad_cli.commands.passphrases import Passphrases
    from miad_cli.commands.trust import read_identities, trusted_owners
    from miad_cli.verify import verify

    manners = console.Manners(as_json, log_json, quiet, verbose)
    passphrases = Passphrases(passphrase_fd, passphrase_command, no_input)
    identities = read_identities(key or [], manners, passphrases)
    owners = trusted_owners(owner, owner_root, manners)
    with console.progress_bar(manners, "Verifying") as advance:

        def follow(one: Verification, total: int) -> None:
            advance(total)
            if log_json:
                console.log_line(_as_facts(one))

        result = verify(inputs, owners, identities, follow, report, jobs)
    _render(result, manners)
    raise typer.Exit(result.exit_code)


def _render(report: Report, manners: console.Manners) -> None:
    from miad_cli.verify import Verdict

    if manners.as_json:
        console.print_json(
            {
                "command": "verify",
                "counts": {v.value: report.count(v) for v in Verdict if report.count(v)},
                "files": [_as_facts(one) for one in report.verifications],
                "exit_code": report.exit_code,
            }
        )
    for one in report.verifications:
        good = not one.exit_code
        if good and not manners.verbose and one.verdict is Verdict.AUTHENTIC and not one.reason:
            continue
        colour = "green" if one.verdict is Verdict.AUTHENTIC and good else "dim" if good else "red"
        details = [console.clean(one.reason.rstrip("."))] if one.reason else []
        if one.restorable is not None:
            details.append("restorable" if one.restorable else "not restorable with this key")
        line = f"[{colour}]{one.verdict.value}[/] {console.clean(one.name)}"
        console.say(manners, line + (f": {'; '.join(details)}" if details else ""))
    counts = [f"{report.count(v)} {v.value}" for v in Verdict if report.count(v)]
    restorable = sum(bool(one.restorable) for one in report.verifications)
    if any(one.restorable is not None for one in report.verifications):
        counts.append(f"{restorable} restorable")
    console.say(manners, f"[bold]{', '.join(counts)}[/]")


def _as_facts(one: Verification) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": str(one.name), "verdict": one.verdict.value}
    if one.reason:
        facts["reason"] = one.reason
    if one.changes is not None:
        facts["changes"] = _as_change_facts(one.changes)
    if one.restorable is not None:
        facts["restorable"] = one.restorable
    if one.recipe_holds is not None:
        facts["recipe_holds"] = one.recipe_holds
    if one.picture is not None:
        facts["picture"] = str(one.picture)
    return facts


def _as_change_facts(changes: Changes) -> dict[str, Any]:
    facts: dict[str, Any] = {"tiles": list(changes.tiles)}
    for field in ("rows", "columns", "attributes"):
        if getattr(changes, field):
            facts[field] = list(getattr(changes, field))
    if changes.pixels is not None:
        facts["pixels"] = changes.pixels
    return facts
