"""This user's own models: what is there, adding one, taking one out."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from miad_cli.errors import MiadError, ModelUnusable, OutputExists, UsageError
from miad_cli.models.bank import list_models
from miad_cli.models.check import check_model
from miad_cli.models.manifest import (
    NAME,
    Manifest,
    checked_model_bytes,
    load_manifest,
    manifest_text,
)
from miad_cli.models.places import user_models_directory
from miad_cli.models.probe import Described, Wishes, describe
from miad_cli.models.session import Device

LARGEST = 1 << 29
"""Bytes of an ONNX file that are read at most; the shipped ones have some 10 MB."""

_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?")
"""Names that are no folder on Windows."""


@dataclass(frozen=True)
class Installed:
    """A model that is there. `manifest` is None where it cannot be read, and `fault` says why."""

    name: str
    folder: Path
    shipped: bool
    manifest: Manifest | None
    fault: str = ""


@dataclass(frozen=True)
class Added:
    """A model that was added, or would be; `folder` is where it lies or would lie."""

    manifest: Manifest
    folder: Path
    notes: tuple[str, ...]
    replaced: bool


def installed_models() -> list[Installed]:
    """Every model that is there, the shipped ones first; one that is broken hides no other."""
    return [_installed(folder) for folder in list_models()]


def _installed(folder: Path) -> Installed:
    shipped = folder.parent != user_models_directory()
    try:
        return Installed(folder.name, folder, shipped, load_manifest(folder))
    except ModelUnusable as error:
        return Installed(folder.name, folder, shipped, None, error.message)


def name_for(source: Path) -> str:
    """A name made of a file's or folder's own.

    Raises:
        UsageError: nothing of it can stand in a name.
    """
    stem = source.stem if source.suffix == ".onnx" else source.name
    name = re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("._-")[:64].strip("._-")
    if not name:
        raise UsageError(f"{source}: no name can be made of this", hint="Give one with --name.")
    return name


def add_model(
    source: Path, wishes: Wishes, *, replacing: bool = False, dry_run: bool = False
) -> Added:
    """Probe the ONNX file `source` and copy it, with a manifest, into the user's folder.

    Without a task in `wishes` it is the one that other models answer with the same labels, else
    one of the model's own, called like it.

    Raises:
        ModelUnusable: it is missing, or cannot be run here.
        OutputExists: another model has the name.
        UsageError: something only the user knows is missing or cannot be so.
    """
    folder = _place_for(wishes.name, replacing)
    content = _read(source)
    with _about(source, wishes.name):
        found = describe(content, replace(wishes, task=_task(wishes)))
        _refuse_other_labels(found.manifest)
    return _put(found, content, folder, dry_run)


def add_folder(
    source: Path, name: str | None = None, *, replacing: bool = False, dry_run: bool = False
) -> Added:
    """Check the model in the folder `source`, which has a manifest, and copy both.

    Raises: as `add_model`.
    """
    manifest = load_manifest(source)
    folder = _place_for(name or manifest.name, replacing)
    _read(source / manifest.file, keep=False)
    content = checked_model_bytes(source, manifest)
    checked = check_model(source, Device())
    if not checked.ok:
        raise ModelUnusable(f"{source}: {checked.reason}", checked.hint)
    manifest = manifest.model_copy(update={"name": folder.name, "file": "model.onnx"})
    with _about(source, manifest.name):
        _refuse_other_labels(manifest)
    return _put(Described(manifest, ()), content, folder, dry_run)


def remove_model(name: str) -> Path:
    """Take out one of the user's own models; gives the folder that it lay in.

    Raises:
        UsageError: there is none of this name, or it ships with miad.
    """
    own = [one for one in installed_models() if not one.shipped]
    for one in own:
        if one.name == name:
            with _writing(one.folder):
                _discard(one.folder)
            return one.folder
    if any(one.name == name for one in installed_models()):
        raise UsageError(
            f"{name} ships with miad and stays",
            hint="Leave it out of a run by naming the others with --models.",
        )
    there = ", ".join(one.name for one in own) or "none"
    raise UsageError(f"no model of your own is called {name}", hint=f"There are: {there}.")


# --- Names and tasks --------------------------------------------------------------------------


def _place_for(name: str, replacing: bool) -> Path:
    """Where a model of this name goes."""
    if not re.fullmatch(NAME, name) or _RESERVED.fullmatch(name):
        raise UsageError(
            f"{name!r} is no name for a model",
            hint="Names are small letters, digits, dots and dashes, 64 at most.",
        )
    folder = user_models_directory() / name
    if any(one.shipped and one.name == name for one in installed_models()):
        raise OutputExists(
            f"a model that ships with miad is called {name}", hint="Give another --name."
        )
    if os.path.lexists(folder) and not replacing:
        raise OutputExists(
            f"{folder}: a model of this name is there already",
            hint="Give another --name, or say --replace.",
        )
    return folder


def _task(wishes: Wishes) -> str:
    if wishes.task is not None:
        return wishes.task
    alike = {
        output.task
        for one in _others(wishes.name)
        for output in one.answers
        if set(output.labels) == set(wishes.labels)
    }
    return alike.pop() if len(alike) == 1 else wishes.name


def _refuse_other_labels(manifest: Manifest) -> None:
    """Two models that answer a task must name the same classes, or no ensemble can be made."""
    for one in _others(manifest.name):
        for output in manifest.answers:
            theirs = one.output_for(output.task)
            if theirs is not None and set(theirs.labels) != set(output.labels):
                raise UsageError(
                    f"{one.name} answers {output.task} with other labels: "
                    f"{', '.join(theirs.labels)}",
                    hint="Use the same names, or give another --task.",
                )


def _others(name: str) -> list[Manifest]:
    there = [one.manifest for one in installed_models()]
    return [one for one in there if one is not None and one.name != name]


# --- Reading and writing ----------------------------------------------------------------------


def _read(source: Path, keep: bool = True) -> bytes:
    """The bytes of an ONNX file, or, where they are not to be kept, nothing once it is no trap."""
    try:
        if not source.is_file():
            raise ModelUnusable(f"{source}: no such file")
        size = source.stat().st_size
        if size > LARGEST:
            raise ModelUnusable(
                f"{source}: too large ({size >> 20} MiB; at most {LARGEST >> 20} MiB)"
            )
        return source.read_bytes() if keep else b""
    except OSError as error:
        raise ModelUnusable(f"{source}: cannot be read ({error.strerror})") from None


def _put(found: Described, content: bytes, folder: Path, dry_run: bool) -> Added:
    """Both files in a folder that takes its name when it is whole."""
    there = os.path.lexists(folder)
    if not dry_run:
        with _writing(folder):
            folder.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.parent.mkdir(exist_ok=True)
            part = folder.parent / f".adding-{secrets.token_hex(8)}"
            try:
                part.mkdir()
                _write(part / found.manifest.file, content)
                _write(part / "manifest.toml", manifest_text(found.manifest).encode())
                load_manifest(part)
                if there:
                    _discard(folder)
                part.rename(folder)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    return Added(found.manifest, folder, found.notes, there)


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as target:
        target.write(content)
        target.flush()
        os.fsync(target.fileno())


def _discard(folder: Path) -> None:
    """Delete a model at once for whoever looks; a link goes, and not what it leads to."""
    gone = folder.parent / f".removed-{secrets.token_hex(8)}"
    folder.rename(gone)
    if gone.is_symlink() or gone.is_file():
        gone.unlink()
    else:
        shutil.rmtree(gone)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written ({error.strerror})") from None


@contextmanager
def _about(source: Path, name: str) -> Iterator[None]:
    """Errors name the file that was given."""
    try:
        yield
    except (ModelUnusable, UsageError) as error:
        said = error.message.removeprefix(f"{name}: ")
        raised: MiadError = type(error)(f"{source}: {said}", error.hint)
        raise raised from None
