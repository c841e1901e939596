"""The `miad` program: its commands, and the one place that turns errors into exit codes."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Annotated

import typer

from miad_cli import __version__
from miad_cli.commands import (
    demo,
    evaluate,
    keys,
    models,
    pacs_check,
    profiles,
    protect,
    send,
    unlock,
    verify,
)
from miad_cli.console import print_json, report_error
from miad_cli.errors import Interrupted, MiadError

app = typer.Typer(
    name="miad",
    help="Put your logo on medical images where it hurts unauthorised AI most, and take it off "
    "again, byte for byte.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

app.command("protect")(protect.protect_command)
app.command("unlock")(unlock.unlock_command)
app.command("verify")(verify.verify_command)
app.command("send")(send.send_command)
app.command("pacs-check")(pacs_check.pacs_check_command)
app.command("evaluate")(evaluate.evaluate_command)
app.command("demo")(demo.demo_command)
app.add_typer(keys.keys_app, name="keys")
app.add_typer(models.models_app, name="models")
app.add_typer(profiles.profiles_app, name="profiles")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"miad {__version__}")
        raise typer.Exit()


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    """Nothing is common to all commands but --version."""


def main() -> None:
    """Run the program; the exit code is the truth (docs/exit-codes.md)."""
    if not (sys.warnoptions or os.environ.get("MIAD_DEBUG")):
        warnings.simplefilter("ignore")  # those of libraries quote what stands in the files
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run the program on `arguments` and return its exit code; nothing is raised."""
    try:
        app(arguments, prog_name="miad")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
        if code != Interrupted.exit_code:
            return code
        error: MiadError = Interrupted("interrupted; every file that was finished is whole")
    except MiadError as raised:
        error = raised
    except Exception as raised:
        if os.environ.get("MIAD_DEBUG"):
            raise
        error = MiadError(
            f"internal error ({type(raised).__name__})",
            hint="This is a bug in miad. MIAD_DEBUG=1 shows where; please report it.",
        )
    else:
        return 0
    report_error(error, as_log_line="--log-json" in arguments)
    if "--json" in arguments:
        print_json({"error": error.message, "hint": error.hint, "exit_code": error.exit_code})
    return error.exit_code
