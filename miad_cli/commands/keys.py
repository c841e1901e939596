"""`miad keys`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from miad_cli import console
from miad_cli.commands.options import (
    AsJson,
    DryRun,
    Inputs,
    Keys,
    LogJson,
    NoInput,
    PassphraseCommand,
    PassphraseFd,
    Quiet,
    SignWith,
    Verbose,
)

if TYPE_CHECKING:
    from miad_cli.rekey import Outcome, Report

keys_app = typer.Typer(help="Keys: make, show, trust, change who can open.", no_args_is_help=True)
new_app = typer.Typer(help="Make a key.", no_args_is_help=True)
keys_app.add_typer(new_app, name="new")

UNDER_PASSPHRASE = "Put it under a passphrase, asked for on the terminal."  # noqa: S105
RECALL = (
    "copies that were sent, synced or backed up before cannot be recalled: "
    "whoever could open those still can"
)

UnderPassphrase = Annotated[bool, typer.Option("--passphrase", help=UNDER_PASSPHRASE)]
Recipients = list[str] | None


@new_app.command("owner")
def new_owner_command(
    path: Annotated[
        Path | None, typer.Argument(help="Where; your own key if left out.", show_default=False)
    ] = None,
    passphrase: UnderPassphrase = False,
    passphrase_fd: PassphraseFd = None,
    passphrase_command: PassphraseCommand = None,
    no_input: NoInput = False,
    as_json: AsJson = False,
) -> None:
    """Make an owner's signing key (Ed25519), and its public half beside it in NAME.pub.pem."""
    from miad_cli.commands.passphrases import Passphrases
    from miad_cli.errors import OutputExists
    from miad_cli.seal.key_files import private_directory
    from miad_cli.seal.owner import OwnerKey
    from miad_cli.seal.places import own_key_path, public_half_of

    private = path or own_key_path()
    public = public_half_of(private)
    _refuse_existing(private, public)
    passphrases = Passphrases(passphrase_fd, passphrase_command, no_input)
    wanted = passphrase or passphrases.are_named
    secret = passphrases.new(private).encode() if wanted else b""
    if path is None:
        private_directory(private.parent)
    owner = OwnerKey.generate()
    owner.save(private, secret)
    try:
        owner.public.save(public)
    except OutputExists:
        private.unlink()  # made a moment ago; its public half is another's
        raise
    _say_made(
        as_json,
        {
            "kind": "owner",
            "path": str(private),
            "public_path": str(public),
            "public": owner.public.pem.decode().strip(),
            "key_id": owner.public.key_id,
            "fingerprint": owner.public.fingerprint,
        },
        [
            f"signing key: {private}   keep it to yourself",
            f"public key:  {public}   give it to whoever verifies",
            f"fingerprint: {owner.public.fingerprint}",
        ],
    )


@new_app.command("identity")
def new_identity_command(
    path: Annotated[Path, typer.Argument(help="Where.", show_default=False)],
    passphrase: UnderPassphrase = False,
    passphrase_fd: PassphraseFd = None,
    passphrase_command: PassphraseCommand = None,
    no_input: NoInput = False,
    as_json: AsJson = False,
) -> None:
    """Make an identity (age X25519) that opens what is sealed to its recipient age1…"""
    from miad_cli.commands.passphrases import Passphrases
    from miad_cli.seal.identities import new_identity

    _refuse_existing(path)
    passphrases = Passphrases(passphrase_fd, passphrase_command, no_input)
    secret = passphrases.new(path) if passphrase or passphrases.are_named else ""
    recipient = new_identity(path, secret)
    _say_made(
        as_json,
        {"kind": "identity", "path": str(path), "public": recipient},
        [
            f"identity:  {path}   keep it to yourself, and keep it: it is the way back",
            f"recipient: {recipient}",
        ],
    )


def _refuse_existing(*paths: Path) -> None:
    """Before anybody types a passphrase in vain."""
    from miad_cli.errors import OutputExists

    for path in paths:
        if path.exists() or path.is_symlink():
            raise OutputExists(f"{path} exists already; keys are never overwritten.")


def _say_made(as_json: bool, facts: dict[str, Any], lines: list[str]) -> None:
    if as_json:
        console.print_json({"command": "keys new", **facts, "exit_code": 0})
    for line in lines:
        console.say(console.Manners(as_json), console.clean(line))


@keys_app.command("show")
def show_command(
    paths: Annotated[list[Path], typer.Argument(help="Key files.", show_default=False)],
    passphrase_fd: PassphraseFd = None,
    passphrase_command: PassphraseCommand = None,
    no_input: NoInput = False,
    as_json: AsJson = False,
) -> None:
    """Print kind, public part and fingerprint of keys, private or public; never a secret."""
    from miad_cli.commands.passphrases import Passphrases
    from miad_cli.commands.trust import warn_of_readers
    from miad_cli.seal.facts import facts_of

    manners = console.Manners(as_json)
    passphrases = Passphrases(passphrase_fd, passphrase_command, no_input)
    shown: list[dict[str, Any]] = []
    for path in paths:
        keys = facts_of(path, partial(passphrases.of, path))
        if any(one.is_private for one in keys):
            warn_of_readers(path, manners)
        shown += [{"path": str(path), **vars(one)} for one in keys]
    if as_json:
        console.print_json({"command": "keys show", "keys": shown, "exit_code": 0})
    for one in shown:
        secret = "private" if one["is_private"] else "public"
        title = f"{one['path']}: {one['kind']} ({secret})"
        for line in (title, f"fingerprint: {one['fingerprint']}", *one["public"].split("\n")):
            console.say(manners, console.clean(line))


@keys_app.command("trust")
def trust_command(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(help="Owners' public keys to trust from now on.", show_default=False),
    ] = None,
    remove: Annotated[
        list[str] | None,
        typer.Option("--remove", help="Fingerprint or file of a key to trust no more; repeatable."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Trust owners' keys without naming them each time; without arguments, list them."""
    from miad_cli.seal import trust
    from miad_cli.seal.owner import OwnerPublicKey

    manners = console.Manners(as_json)
    keys = [OwnerPublicKey.load(path) for path in paths or []]
    removed = [one.key for named in remove or [] for one in trust.distrust(named)]
    added = [key for key in keys if trust.trust(key)]
    if warning := trust.trust_warning():
        console.warn(warning, manners)
    listed = trust.trust_list()
    if as_json:
        console.print_json(
            {
                "command": "keys trust",
                "folder": str(trust.trust_directory()),
                "added": [one.fingerprint for one in added],
                "removed": [one.fingerprint for one in removed],
                "trusted": [
                    {"fingerprint": one.key.fingerprint, "key_id": one.key.key_id} for one in listed
                ],
                "exit_code": 0,
            }
        )
    for key in removed:
        console.say(manners, f"trusted no more: {key.fingerprint}")
    for key in keys:
        console.say(manners, f"trusted: {key.fingerprint}   compare it with the owner's own words")
    if not (keys or removed):
        for one in listed:
            console.say(manners, f"{one.key.fingerprint}   {console.clean(one.path)}")
        if not listed:
            console.say(manners, "no other owner's key is trusted here")


@keys_app.command("rekey")
def rekey_command(
    inputs: Inputs,
    key: Keys = None,
    sign_with: SignWith = None,
    to: Annotated[
        Recipients, typer.Option("--to", help="Everybody who is to open them; repeatable.")
    ] = None,
    to_file: Annotated[
        list[Path] | None, typer.Option("--to-file", help="The same from a file, one a line.")
    ] = None,
    add: Annotated[
        Recipients, typer.Option("--add", help="Somebody who is to open them too; repeatable.")
    ] = None,
    remove: Annotated[
        Recipients, typer.Option("--remove", help="Somebody who is no longer to; repeatable.")
    ] = None,
    passphrase_fd: PassphraseFd = None,
    passphrase_command: PassphraseCommand = None,
    no_input: NoInput = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    log_json: LogJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Change in place who can open protected files; no pixel is touched.

    It takes a key that opens them and the owner's signing key. Copies sent before cannot be
    recalled.
    """
    from miad_cli.commands.passphrases import Passphrases
    from miad_cli.commands.trust import read_identities, read_owner, read_recipients
    from miad_cli.errors import KeyUnusable, UsageError
    from miad_cli.rekey import Change, rekey
    from miad_cli.seal.places import own_key_path

    if not key:
        raise UsageError("changing who can open needs a key that opens", hint="Name it with --key.")
    change = Change(
        tuple(read_recipients(to, to_file)),
        tuple(read_recipients(add)),
        tuple(read_recipients(remove)),
    )
    signer = sign_with or own_key_path()
    if sign_with is None and not signer.exists():
        raise KeyUnusable(
            "There is no signing key of your own here.", "Name the owner's with --sign-with."
        )
    manners = console.Manners(as_json, log_json, quiet, verbose)
    passphrases = Passphrases(passphrase_fd, passphrase_command, no_input)
    identities = read_identities(key, manners, passphrases)
    owner = read_owner(signer, manners, passphrases)
    with console.progress_bar(manners, "Rekeying") as advance:

        def follow(outcome: Outcome, total: int) -> None:
            advance(total)
            if log_json:
                console.log_line(_as_facts(outcome))

        report = rekey(inputs, change, identities, owner, dry_run, follow)
    _render(report, manners)
    raise typer.Exit(report.exit_code)


def _render(report: Report, manners: console.Manners) -> None:
    if manners.as_json:
        console.print_json(
            {
                "command": "keys rekey",
                "files": [_as_facts(outcome) for outcome in report.outcomes],
                "could_open_none": list(report.unmet),
                "note": RECALL,
                "exit_code": report.exit_code,
            }
        )
    for outcome in report.outcomes:
        name, reason = console.clean(outcome.name), console.clean(outcome.reason)
        if outcome.state == "failed":
            console.file_failed(outcome.name, outcome.reason, outcome.hint, manners)
        elif outcome.state == "left out":
            console.say(manners, f"[dim]left out[/] {name}: {reason}")
        elif manners.verbose or outcome.state == "planned":
            who = ", ".join(console.clean(text) for text in outcome.recipients)
            console.say(manners, f"[green]{outcome.state}[/] {name}: for {who}")
    parts = [f"[bold]{report.count('rekeyed')} rekeyed[/]"]
    if report.count("planned"):
        parts = [f"{report.count('planned')} would be rekeyed; nothing was written"]
    if report.count("unchanged"):
        parts.append(f"{report.count('unchanged')} were so already")
    if report.count("failed"):
        parts.append(f"[red]{report.count('failed')} failed[/]")
    console.say(manners, ", ".join(parts))
    for text in report.unmet:
        console.warn(f"{text} was among the recipients of none of these files", manners)
    if report.count("rekeyed"):
        console.warn(RECALL, manners)


def _as_facts(outcome: Outcome) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": str(outcome.name), "state": outcome.state}
    if outcome.reason:
        facts["reason"] = outcome.reason
    if outcome.recipients:
        facts["recipients"] = list(outcome.recipients)
    return facts
