"""Options that several commands share, and what they override of a profile."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

SearchName = Literal["guided", "he-sit", "he", "random"]
EffortName = Literal["fast", "standard", "max"]
PayloadName = Literal["auto", "compact", "original"]
CarrierName = Literal["both", "embed", "sidecar"]
OnExistsName = Literal["fail", "skip", "replace"]

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
OnExists = Annotated[
    OnExistsName, typer.Option("--on-exists", help="What to do with files that are there.")
]

# --- How pictures are protected

Logo = Annotated[Path, typer.Option("--logo", help="The logo, a PNG.", show_default=False)]
ProfileName = Annotated[
    str | None,
    typer.Option("--profile", envvar="MIAD_PROFILE", help="Profile name or .toml file."),
]
Models = Annotated[
    list[str] | None,
    typer.Option("--models", help="Only this model: its name, folder or file; repeatable."),
]
Effort = Annotated[
    EffortName | None, typer.Option("--effort", help="How much work a picture is worth.")
]
Device = Annotated[
    str, typer.Option("--device", envvar="MIAD_DEVICE", help="auto, cpu, cuda or cuda:N.")
]


def overrides(
    *,
    models: list[str] | None = None,
    effort: EffortName | None = None,
    search: SearchName | None = None,
    payload: PayloadName | None = None,
    carrier: CarrierName | None = None,
    coherent: bool | None = None,
) -> dict[str, dict[str, Any]]:
    """The settings that a command line replaces in whatever profile is chosen, table by table."""
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
