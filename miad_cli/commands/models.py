"""`miad models`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from miad_cli import console
from miad_cli.commands.options import AsJson, Device
from miad_cli.errors import ModelUnusable, UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from miad_cli.models.check import Checked
    from miad_cli.models.installed import Added, Installed
    from miad_cli.models.manifest import Manifest

models_app = typer.Typer(help="The models that protection is made against.", no_args_is_help=True)

Role = Literal["classifier", "removal", "segmentation"]
Fit = Literal["stretch", "pad"]
Kind = Literal["logits", "probabilities"]


@models_app.command("list")
def list_command(as_json: AsJson = False) -> None:
    """Every model: what it answers, how well, and the licence of its training data."""
    from miad_cli.models.installed import installed_models

    models = installed_models()
    broken = [one for one in models if one.manifest is None]
    code = ModelUnusable.exit_code if broken else 0
    if as_json:
        console.print_json(
            {
                "models": [
                    _facts(one.manifest, one.folder, one.shipped) for one in models if one.manifest
                ],
                "unusable": [{"name": one.name, "reason": one.fault} for one in broken],
                "exit_code": code,
            }
        )
        raise typer.Exit(code)
    _render_list(models)
    for one in broken:
        console.file_failed(one.name, one.fault, _mend(one.name, one.shipped), console.Manners())
    raise typer.Exit(code)


def _render_list(models: list[Installed]) -> None:
    """A line for each task of each model, and then each data set with its licence."""
    titles = ("model", "role", "size", "task", "accuracy", "gradients", "from")
    table, learned = _table(*titles), _table("training data", "licence", "of")
    sources: dict[tuple[str, str], list[str]] = {}
    for one in models:
        if one.manifest is None:
            continue
        for number, row in enumerate(_rows(one.manifest)):
            table.add_row(*row, "" if number else "miad" if one.shipped else "you")
        for data in one.manifest.data:
            sources.setdefault((data.name, data.licence), []).append(one.name)
        if not one.manifest.data:
            sources.setdefault(("not stated", "not stated"), []).append(one.name)
    for (name, licence), names in sources.items():
        cells = (name, licence, ", ".join(dict.fromkeys(names)))
        learned.add_row(*(console.clean(cell) for cell in cells))
    console.out().print(table)
    console.out().print()
    console.out().print(learned)
    own = [one.folder.parent for one in models if not one.shipped]
    if own:
        console.say(console.Manners(), f"\nyours lie in {console.clean(own[0])}")


def _table(*titles: str) -> Table:
    """An empty table in which nothing is cut off where the terminal is narrow."""
    from rich.table import Table

    table = Table(box=None)
    for title in titles:
        table.add_column(title, overflow="fold", min_width=WIDTHS.get(title))
    return table


WIDTHS = {"model": 12, "role": 12, "size": 9, "task": 10, "accuracy": 8, "gradients": 9}
"""Of columns whose words are not to be broken on 80 columns."""


def _mend(name: str, shipped: bool) -> str:
    return "Reinstall miad." if shipped else f"Take it out with  miad models remove {name}."


def _rows(one: Manifest) -> list[list[str]]:
    """A line for each task, or the only one; what all of them share stands in the first."""
    size = f"{one.input.rows}x{one.input.columns}"
    gradients = "yes" if one.query_only is None else "no"
    rows: list[list[str]] = []
    for task in [output.task for output in one.answers] or ["-"]:
        measured = [a for a in one.accuracy if a.task == task and a.split == "test"]
        shown = f"{measured[0].accuracy:.3f}" if measured else "-"
        shared = ["", "", ""] if rows else [one.name, one.role, size]
        row = [*shared, task, shown, "" if rows else gradients]
        rows.append([console.clean(cell) for cell in row])
    return rows


def _facts(one: Manifest, folder: Path, shipped: bool) -> dict[str, Any]:
    return {
        **one.model_dump(mode="json", by_alias=True),
        "gradients": one.query_only is None,
        "shipped": shipped,
        "folder": str(folder),
    }


@models_app.command("show")
def show_command(
    name: Annotated[str, typer.Argument(help="The model's name, or its path.")],
    as_json: AsJson = False,
) -> None:
    """Print what is known of one model, as JSON."""
    from miad_cli.models.bank import find_model
    from miad_cli.models.installed import installed_models
    from miad_cli.models.manifest import load_manifest

    folder = find_model(name)
    shipped = any(one.shipped and one.folder == folder for one in installed_models())
    console.print_json(_facts(load_manifest(folder), folder, shipped))


@models_app.command("check")
def check_command(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names or paths; all if left out.")
    ] = None,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Check models: checksum, a probe through ONNX Runtime, and its gradients against it."""
    from miad_cli.models.bank import find_model, list_models
    from miad_cli.models.check import check_model
    from miad_cli.models.session import choose_device

    chosen = choose_device(device)
    folders = [find_model(name) for name in names] if names else list_models()
    if not folders:
        raise ModelUnusable("there is no model to check", hint="Reinstall miad.")
    manners = console.Manners(as_json)
    results = []
    with console.progress_bar(manners, "Checking") as advance:
        for folder in folders:
            results.append(check_model(folder, chosen))
            advance(len(folders))
    code = 0 if all(one.ok for one in results) else ModelUnusable.exit_code
    if as_json:
        models = [{**vars(one), "ok": one.ok} for one in results]
        console.print_json({"models": models, "exit_code": code})
    else:
        _render_checks(results)
    raise typer.Exit(code)


def _render_checks(results: list[Checked]) -> None:
    titles = ("model", "SHA-256", "queries", "gradients", "difference", "slope", "seconds")
    table = _table(*titles, "")
    for one in results:
        table.add_row(
            console.clean(one.name),
            one.sha256,
            one.queries,
            one.gradients,
            *("-" if value is None else f"{value:.1e}" for value in (one.difference, one.slope)),
            f"{one.seconds:.1f}",
            "[green]ok[/]" if one.ok else "[red]failed[/]",
        )
    console.out().print(table)
    for one in results:
        if not one.ok:
            console.file_failed(one.name, one.reason, one.hint, console.Manners())


@models_app.command("add")
def add_command(
    source: Annotated[
        Path, typer.Argument(metavar="FILE", help="An ONNX file, or a folder with a manifest.")
    ],
    labels: Annotated[
        str | None, typer.Option("--labels", help="The classes, in the order of the scores: A,B,…")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="What to call it. Default: after the file.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option("--task", help="What it answers, as in a profile's models.task."),
    ] = None,
    role: Annotated[Role | None, typer.Option("--role", help="Default: classifier.")] = None,
    shape: Annotated[
        str | None,
        typer.Option(
            "--input",
            help="Size where the file leaves it open: 224, 224x224; with channels 3x224x224 "
            "(NCHW) or 224x224x3 (NHWC).",
        ),
    ] = None,
    value_range: Annotated[
        str | None, typer.Option("--range", help="Values it takes: 0..1, 0..255 or -1..1.")
    ] = None,
    mean: Annotated[
        str | None, typer.Option("--mean", help="Taken off the values then; one, or one a channel.")
    ] = None,
    std: Annotated[
        str | None, typer.Option("--std", help="What they are divided by then; likewise.")
    ] = None,
    bgr: Annotated[bool, typer.Option("--bgr", help="Its channels are blue, green, red.")] = False,
    fit: Annotated[
        Fit | None,
        typer.Option("--fit", help="How pictures are made to fit. Default: stretch."),
    ] = None,
    scores: Annotated[
        Kind | None, typer.Option("--scores", help="What it gives, where nothing tells.")
    ] = None,
    output: Annotated[
        list[str] | None,
        typer.Option("--output", help="The tensor that answers; image=TENSOR, mask=TENSOR."),
    ] = None,
    cam: Annotated[
        str | None, typer.Option("--cam", help="Tensor for Grad-CAM, or none. Default: found.")
    ] = None,
    features: Annotated[
        str | None, typer.Option("--features", help="Output with features, for unknown tasks.")
    ] = None,
    family: Annotated[str | None, typer.Option("--family", help="Its architecture.")] = None,
    data: Annotated[str | None, typer.Option("--data", help="What it was trained on.")] = None,
    licence: Annotated[str | None, typer.Option("--licence", help="That data's licence.")] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take the place of your model of that name.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Probe it, write nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Add a model of your own: probe it, write its manifest, copy both to your models."""
    from miad_cli.models.installed import add_folder, add_model, name_for
    from miad_cli.models.probe import Wishes

    layout, channels, size = _shape(shape)
    given: dict[str, Any] = {
        "labels": tuple(one.strip() for one in labels.split(",")) if labels else None,
        "role": role,
        "task": task,
        "family": family,
        "layout": layout,
        "channels": channels,
        "size": size,
        "colours": "BGR" if bgr else None,
        "range": _range(value_range),
        "mean": _numbers("--mean", mean),
        "std": _numbers("--std", std),
        "fit": fit,
        "kind": scores,
        "outputs": _tensors(output, role) or None,
        "cam": cam,
        "features": features,
        "data": data,
        "licence": licence,
    }
    given = {key: value for key, value in given.items() if value is not None}
    if source.is_dir():
        if given:
            raise UsageError(
                f"{source}: a folder has a manifest that says what the model is",
                hint="Leave out every option but --name, --replace and --dry-run.",
            )
        added = add_folder(source, name, replacing=replace, dry_run=dry_run)
    else:
        wishes = Wishes(name=name if name is not None else name_for(source), **given)
        added = add_model(source, wishes, replacing=replace, dry_run=dry_run)
    _render_added(added, dry_run, as_json)


def _render_added(added: Added, dry_run: bool, as_json: bool) -> None:
    one, manners = added.manifest, console.Manners(as_json)
    if as_json:
        console.print_json(
            {
                "command": "models add",
                "added": not dry_run,
                "replaced": added.replaced,
                "model": _facts(one, added.folder, False),
                "notes": list(added.notes),
                "exit_code": 0,
            }
        )
        return
    spec = one.input
    sizes = [spec.rows, spec.columns]
    sizes.insert(0 if spec.layout == "NCHW" else 2, spec.channels)
    shape = " x ".join(map(str, sizes))
    batch = "any number at a time" if spec.batch is None else f"{spec.batch} at a time"
    low, high = spec.range
    verb = "would be added" if dry_run else "replaced" if added.replaced else "added"
    lines = [
        f"[bold]{verb}: {one.name}[/]",
        f"input:     {spec.layout} {shape}, {spec.dtype}, {low:g}..{high:g}, {batch}",
    ]
    for output in one.outputs:
        named = ", ".join(getattr(output, "labels", ()))
        kind = getattr(output, "values", output.kind)
        about = f"{output.tensor} ({kind})"
        lines.append(f"output:    {console.clean(f'{about}: {named}' if named else about)}")
    lines += [f"task:      {console.clean(output.task)}" for output in one.answers]
    lines.append(f"gradients: {'yes' if one.query_only is None else 'no, queries only'}")
    lines += [f"note:      {console.clean(note)}" for note in added.notes]
    lines.append(f"folder:    {console.clean(added.folder)}")
    if one.role == "classifier" and not dry_run:
        lines.append(f"use it:    miad protect … --models {one.name}")
    for line in lines:
        console.say(manners, line)


@models_app.command("remove")
def remove_command(
    name: Annotated[str, typer.Argument(help="The name of a model that you added.")],
    as_json: AsJson = False,
) -> None:
    """Take out a model that you added; those that ship with miad stay."""
    from miad_cli.models.installed import remove_model

    folder = remove_model(name)
    if as_json:
        facts = {"command": "models remove", "name": name, "folder": folder, "exit_code": 0}
        console.print_json(facts)
    console.say(console.Manners(as_json), f"removed: {console.clean(folder)}")


# --- What options say -------------------------------------------------------------------------


def _shape(text: str | None) -> tuple[str | None, int | None, tuple[int, int] | None]:
    """Layout, channels and (rows, columns) out of --input."""
    if text is None:
        return None, None, None
    if not re.fullmatch(r"\d{1,4}([x×]\d{1,4}){0,2}", text):
        raise UsageError(
            f"--input {text} is no size", hint="As in 224, 224x224, 3x224x224 or 224x224x3."
        )
    sizes = [int(one) for one in re.split("[x×]", text)]
    if len(sizes) < 3:
        return None, None, (sizes[0], sizes[-1])
    first, last = sizes[0] in (1, 3), sizes[2] in (1, 3)
    if first == last:
        raise UsageError(f"--input {text}: either the first or the last must be 1 or 3 channels")
    if first:
        return "NCHW", sizes[0], (sizes[1], sizes[2])
    return "NHWC", sizes[2], (sizes[0], sizes[1])


def _range(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    numbers = _numbers("--range", text.replace("..", ","))
    if numbers is None or len(numbers) != 2 or numbers[0] >= numbers[1]:
        raise UsageError(f"--range {text} is no range", hint="As in 0..1, 0..255 or -1..1.")
    return numbers[0], numbers[1]


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(one) for one in text.split(","))
    except ValueError:
        raise UsageError(f"{option} {text}: numbers with commas between them, please") from None


def _tensors(named: list[str] | None, role: str | None) -> dict[str, str]:
    """Tensors by what they give; a bare one answers, or is the mask of a segmentation."""
    tensors = {}
    for one in named or []:
        what, found, tensor = one.partition("=")
        if not found or what not in ("image", "mask"):
            what, tensor = ("mask" if role == "segmentation" else "answer"), one
        tensors[what] = tensor
    return tensors
