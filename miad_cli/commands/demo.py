"""`miad demo`."""

from __future__ import annotations

import hashlib
import shlex
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from miad_cli import console
from miad_cli.errors import OutputExists, VerificationFailed

if TYPE_CHECKING:
    from miad_cli.demo import Row
    from miad_cli.outcomes import Report


def demo_command(
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Where to work (default: a new temporary folder)."),
    ] = None,
) -> None:
    """Protect, verify and unlock real DICOM files. Needs no data, no network and no GPU."""
    from miad_cli.demo import comparison, lay_out_study

    started = time.perf_counter()
    folder = output or Path(tempfile.mkdtemp(prefix="miad-demo-"))
    if folder.exists() and any(folder.iterdir()):
        raise OutputExists(f"{folder}: there are files in it already", hint="Name another folder.")
    study = lay_out_study(folder)
    protected, unlocked = folder / "study-protected", folder / "study-unlocked"
    key = folder / "key.txt"
    report = _run(folder, study, protected, unlocked, key)
    rows = [_row(report, path.name) for path in sorted(study.iterdir())]
    comparison(study, protected, unlocked, rows).save(folder / "comparison.png")
    identical = {
        path.name: _sha256(path) == _sha256(unlocked / path.name) for path in study.iterdir()
    }
    _render(report, identical, folder, time.perf_counter() - started)
    if not all(identical.values()):
        raise VerificationFailed("a restored file differs from its original")


def _run(folder: Path, study: Path, protected: Path, unlocked: Path, key: Path) -> Report:
    """Run the three commands as a user would type them, and say them."""
    from miad_cli.commands.trust import read_identities
    from miad_cli.protect import protect
    from miad_cli.protection.request import Request
    from miad_cli.seal.owner import OwnerKey
    from miad_cli.unlock import unlock
    from miad_cli.verify import verify

    owner_path, public_path = folder / "owner.pem", folder / "owner.pub.pem"
    owner = OwnerKey.generate()
    owner.save(owner_path)
    owner.public.save(public_path)
    logo = folder / "hospital.png"
    _say(
        "protect",
        study,
        "--logo",
        logo,
        "-o",
        protected,
        "--key-out",
        key,
        "--sign-with",
        owner_path,
    )
    report = protect(
        Request(inputs=(study,), logo=logo, output=protected, key_out=key, owner=owner)
    )
    if report.exit_code:
        raise typer.Exit(report.exit_code)
    _say("verify", protected, "--owner", public_path, "--key", key)
    identities = read_identities([key], console.Manners())
    verified = verify([protected], [owner.public], identities)
    if verified.exit_code:
        raise typer.Exit(verified.exit_code)
    _say("unlock", protected, "--key", key, "-o", unlocked)
    undone = unlock([protected], unlocked, identities, [owner.public])
    if undone.exit_code:
        raise typer.Exit(undone.exit_code)
    return report


def _say(*words: str | Path) -> None:
    console.out().print(
        "[bold]$[/] " + console.clean(shlex.join(["miad", *map(str, words)])), soft_wrap=True
    )


def _row(report: Report, name: str) -> Row:
    from miad_cli.demo import Row

    made = next(one.protection for one in report.outcomes if one.name.name == name)
    if made is None:
        raise VerificationFailed(f"{name} was not protected")
    if made.task is None:
        caption = "no model for this task; boxes show where the models' features respond"
    else:
        caption = f"boxes show the model's attention, task {made.task}"
    return Row(name, made.lesions, caption)


def _render(report: Report, identical: dict[str, bool], folder: Path, seconds: float) -> None:
    from rich.table import Column, Table

    table = Table(Column("file", no_wrap=True), "boxes are", "effect", "restored")
    for outcome in report.outcomes:
        made = outcome.protection
        if made is None:
            continue
        known = made.task is not None
        effect = (
            f"{made.models_fooled} of {made.models} models fooled"
            if known
            else f"features moved {made.feature_distance:.2f}"
        )
        table.add_row(
            str(outcome.name),
            "model attention" if known else "no model for this task",
            effect,
            "[green]identical[/]" if identical[outcome.name.name] else "[red]different[/]",
        )
    console.out().print(table)
    console.out().print(f"look at {console.clean(folder / 'comparison.png')}", soft_wrap=True)
    console.out().print(f"{seconds:.0f} seconds, provider {report.provider}")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
