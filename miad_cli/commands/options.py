"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Inputs = Annotated[list[Path], typer.Argument(help="Files or folders.", show_default=False)]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Folder for the results.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
LogJson = Annotated[bool, typer.Option("--log-json", help="A JSON line per file on stderr.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="A line for every file.")]
Owners = Annotated[
    list[Path] | None,
    typer.Option("--owner", help="Public key of an owner to trust (PEM); repeatable."),
]
Keys = Annotated[
    list[Path] | None,
    typer.Option("--key", help="Identity file (age) that opens the seal; repeatable."),
]
OwnerRoots = Annotated[
    list[Path] | None,
    typer.Option(
        "--owner-root",
        help="Root certificate (PEM): --owner certificates must lead to one; repeatable.",
    ),
]
SignWith = Annotated[Path | None, typer.Option("--sign-with", help="Owner's signing key (PEM).")]
PassphraseFd = Annotated[
    int | None,
    typer.Option("--passphrase-fd", min=0, help="Read passphrases from this file descriptor."),
]
PassphraseCommand = Annotated[
    str | None,
    typer.Option("--passphrase-command", help="Run this for a passphrase; MIAD_KEY_FILE is set."),
]
NoInput = Annotated[bool, typer.Option("--no-input", help="Never ask for anything.")]
ReportFile = Annotated[Path | None, typer.Option("--report", help="Write the JSON report here.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, write nothing.")]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        envvar="MIAD_JOBS",
        min=1,
        help="Processes that share the work. Default: 1; to verify many files, one a processor.",
        show_default=False,
    ),
]
