"""`miad unlock`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from miad_cli import console
from miad_cli.commands.options import (
    AsJson,
    Inputs,
    Keys,
    LogJson,
    NoInput,
    OnExists,
    Output,
    OwnerRoots,
    Owners,
    PassphraseCommand,
    PassphraseFd,
    Quiet,
    Verbose,
)

if TYPE_CHECKING:
    from miad_cli.unlock import Outcome, Report


def unlock_command(
    inputs: Inputs,
    key: Keys = None,
    output: Output = None,
    owner: Owners = None,
    owner_root: OwnerRoots = None,
    passphrase_fd: PassphraseFd = None,
    passphrase_command: PassphraseCommand = None,
    no_input: NoInput = False,
    on_exists: OnExists = "fail",
    as_json: AsJson = False,
    log_json: LogJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Give the original files back, byte for byte, to whoever holds a key."""
    from miad_cli.commands.passphrases import Passphrases
    from miad_cli.commands.trust import read_identities, trusted_owners
    from miad_cli.errors import UsageError
    from miad_cli.files import default_output
    from miad_cli.unlock import unlock

    if not key:
        raise UsageError(
            "unlocking needs a key", hint="Name it with --key; protect printed where it lies."
        )
    manners = console.Manners(as_json, log_json, quiet, verbose)
    target = output or default_output(inputs, "unlocked")
    passphrases = Passphrases(passphrase_fd, passphrase_command, no_input)
    identities = read_identities(key, manners, passphrases)
    owners = trusted_owners(owner, owner_root, manners)
    with console.progress_bar(manners, "Unlocking") as advance:

        def follow(outcome: Outcome, total: int) -> None:
            advance(total)
            if log_json:
                console.log_line(_as_facts(outcome))

        result = unlock(inputs, target, identities, owners, on_exists, follow)
    _render(result, manners)
    raise typer.Exit(result.exit_code)


def _render(report: Report, manners: console.Manners) -> None:
    if manners.as_json:
        console.print_json(
            {
                "command": "unlock",
                "output": report.output.name,
                "files": [_as_facts(outcome) for outcome in report.outcomes],
                "exit_code": report.exit_code,
            }
        )
    for outcome in report.outcomes:
        name, reason = console.clean(outcome.name), console.clean(outcome.reason)
        if outcome.state == "failed":
            console.file_failed(outcome.name, outcome.reason, outcome.hint, manners)
        elif outcome.state == "left out":
            console.say(manners, f"[dim]left out[/] {name}: {reason}")
        elif manners.verbose:
            console.say(
                manners, f"[green]{outcome.state}[/] {name} -> {console.clean(outcome.output)}"
            )
    done = report.count("unlocked")
    parts = [f"[bold]{done} unlocked[/], identical to the originals" if done else "0 unlocked"]
    if report.count("skipped"):
        parts.append(f"{report.count('skipped')} skipped")
    if report.count("failed"):
        parts.append(f"[red]{report.count('failed')} failed[/]")
    console.say(manners, ", ".join(parts))
    if done:
        console.say(manners, f"output: {console.clean(report.output)}")
    if any(one.state == "unlocked" and not one.signed_by for one in report.outcomes):
        console.warn(
            "sealed by an owner who is not known here, so nobody vouches that these are the "
            "originals; name the owner's public key with --owner",
            manners,
        )


def _as_facts(outcome: Outcome) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": str(outcome.name), "state": outcome.state}
    for field in ("reason", "signed_by"):
        if getattr(outcome, field):
            facts[field] = getattr(outcome, field)
    if outcome.output is not None:
        facts["output"] = str(outcome.output)
    return facts
