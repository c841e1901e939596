"""`miad profiles`."""

from __future__ import annotations

from typing import Annotated

import typer

from miad_cli import console
from miad_cli.commands.options import AsJson

profiles_app = typer.Typer(help="The presets, one for each kind of study.", no_args_is_help=True)


@profiles_app.command("list")
def list_command(as_json: AsJson = False) -> None:
    """Name every profile that ships with miad."""
    from miad_cli.profiles import shipped_profiles

    profiles = shipped_profiles()
    if as_json:
        console.print_json({name: one.model_dump(mode="json") for name, one in profiles.items()})
    for name, one in profiles.items():
        console.say(console.Manners(as_json), f"{name:12} {one.title}")


@profiles_app.command("show")
def show_command(name: Annotated[str, typer.Argument(help="Name or .toml file.")]) -> None:
    """Print one profile as JSON, with its defaults filled in and its hash."""
    from miad_cli.profiles import named_profile

    profile = named_profile(name)
    console.print_json({"sha256": profile.digest, **profile.model_dump(mode="json")})
