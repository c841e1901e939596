"""`miad models`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from miad_cli import console
from miad_cli.commands.options import AsJson

models_app = typer.Typer(help="The models that protection is made against.", no_args_is_help=True)


@models_app.command("list")
def list_command(as_json: AsJson = False) -> None:
    """Every model: what it answers, how well, and the licence of its training data."""
    from miad_cli.models.bank import list_models
    from miad_cli.models.manifest import load_manifest

    manifests = [load_manifest(folder) for folder in list_models()]
    if as_json:
        models = [one.model_dump(mode="json", by_alias=True) for one in manifests]
        console.print_json({"models": models})
        return
    from rich.table import Table

    table = Table("model", "family", "task", "accuracy", "training data", box=None)
    for one in manifests:
        for output in one.outputs:
            measured = [a for a in one.accuracy if a.task == output.task and a.split == "test"]
            shown = f"{measured[0].accuracy:.3f} on {measured[0].images}" if measured else "-"
            data = "; ".join(f"{d.name} ({d.licence})" for d in one.data if d.task == output.task)
            table.add_row(one.name, one.family, output.task, shown, console.clean(data))
    console.out().print(table)


@models_app.command("show")
def show_command(name: Annotated[str, typer.Argument(help="The model's name.")]) -> None:
    """Print one manifest as JSON."""
    from miad_cli.errors import UsageError
    from miad_cli.models.bank import list_models
    from miad_cli.models.manifest import load_manifest

    folders = {folder.name: folder for folder in list_models()}
    if name not in folders:
        raise UsageError(f"no model is called {name}", hint=f"There are: {', '.join(folders)}.")
    console.print_json(load_manifest(folders[name]).model_dump(mode="json", by_alias=True))


@models_app.command("check")
def check_command(as_json: AsJson = False) -> None:
    """Check every model: checksum, a probe through ONNX Runtime, and its gradients."""
    from miad_cli.errors import ModelUnusable
    from miad_cli.models.bank import Surrogate, list_models
    from miad_cli.models.session import Device

    results: list[dict[str, Any]] = []
    for folder in list_models():
        try:
            surrogate = Surrogate(folder, Device())
            _ = surrogate.differentiable
            results.append({"name": folder.name, "ok": True})
        except ModelUnusable as error:
            results.append({"name": folder.name, "ok": False, "reason": error.message})
    if as_json:
        console.print_json({"models": results})
    for one in results:
        said = "[green]ok[/]" if one["ok"] else f"[red]failed[/] {console.clean(one['reason'])}"
        console.say(console.Manners(as_json), f"{one['name']}: {said}")
    if not all(one["ok"] for one in results):
        raise typer.Exit(ModelUnusable.exit_code)
