"""Files and folders: what goes in, where it comes out, and writing so that nothing half stays."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from miad_cli.errors import NoUsableInput, OutputExists, PictureFailed, UsageError

PART_PREFIX = ".miad-part-"
LINK = "a link; links are not followed"
_CONVERTED = (".jpg", ".jpeg", ".jpe", ".tif", ".tiff")


@dataclass(frozen=True)
class InputFile:
    """A file to work on: where it is, and its place relative to what was named.

    `obstacle` says why it cannot be read at all: a link, or a folder without permission.
    """

    path: Path
    relative: PurePosixPath
    obstacle: str = ""


def collect_inputs(inputs: Sequence[Path]) -> list[InputFile]:
    """Every regular file named or below a folder named, in a stable order.

    Links to folders are not followed, and links to files only when named themselves: nothing
    outside the tree that was given is read. With several inputs, folders keep their own name.

    Raises:
        NoUsableInput: an input does not exist, or there is no file at all.
    """
    found: list[InputFile] = []
    for given in inputs:
        if not given.exists():
            raise NoUsableInput(f"{given}: no such file or folder")
        if given.is_file():
            found.append(InputFile(given, PurePosixPath(given.name)))
            continue
        base = PurePosixPath(given.resolve().name) if len(inputs) > 1 else PurePosixPath()
        found.extend(
            InputFile(path, base / PurePosixPath(path.relative_to(given).as_posix()), obstacle)
            for path, obstacle in _walk(given)
        )
    if not found:
        named = ", ".join(str(path) for path in inputs)
        raise NoUsableInput(f"{named}: the folder is empty")
    doubled = [str(name) for name, n in Counter(one.relative for one in found).items() if n > 1]
    if doubled:
        raise UsageError(
            f"several inputs would be written to the same place: {doubled[0]}",
            hint="Name the folder that holds them all, or run miad once for each.",
        )
    return found


def _walk(folder: Path) -> Iterator[tuple[Path, str]]:
    """Files below a folder, each with what keeps it from being read, if anything does."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        yield folder, f"the folder cannot be read ({error.strerror})"
        return
    for entry in entries:
        if entry.is_symlink():
            yield Path(entry.path), LINK
        elif entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path))
        elif entry.is_file(follow_symlinks=False) and not entry.name.startswith(PART_PREFIX):
            yield Path(entry.path), ""


def default_output(inputs: Sequence[Path], suffix: str) -> Path:
    """`study/` gives `study-protected/`; a file `scan.dcm` gives `scan-protected/`.

    Raises:
        UsageError: several inputs have no common name.
    """
    if len(inputs) != 1:
        raise UsageError("several inputs need an output folder", hint="Name it with -o.")
    given = inputs[0]
    # What was given stays as it was given: an absolute path says more than anyone asked for.
    whole = given if given.name not in ("", "..") else given.resolve()
    name = whole.stem if whole.is_file() else whole.name
    plain = name.removesuffix("-protected") if suffix == "unlocked" else name
    return whole.parent / f"{plain}-{suffix}"


def check_output(inputs: Sequence[Path], output: Path, *, may_exist: bool) -> None:
    """Refuse an output that would mix with the input or with what is there already.

    Raises:
        UsageError: output and an input lie inside each other, or the output is a file.
        OutputExists: there are files in it, and nothing says that this is meant.
    """
    target = output.resolve()
    for given in inputs:
        source = given.resolve()
        inside = target == source or source in target.parents
        around = source.is_dir() and target in source.parents
        if inside or around:
            raise UsageError(
                f"the output {output} and the input {given} lie inside each other",
                hint="Name a folder elsewhere with -o.",
            )
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output}: the output must be a folder", hint="Name one with -o.")
    if not may_exist and output.is_dir() and any(output.iterdir()):
        raise OutputExists(
            f"{output}: there are files in it already",
            hint="Name another folder with -o, or use --on-exists skip or replace.",
        )


def plan_outputs(files: Iterable[InputFile]) -> dict[PurePosixPath, PurePosixPath]:
    """Output name of each input: JPEG and TIFF become PNG.

    `a.jpg` beside `a.png` becomes `a.jpg.png`, so that neither overwrites the other.
    """
    plain = {one.relative: _as_png(one.relative) for one in files}
    uses = Counter(plain.values())
    planned = {s: t for s, t in plain.items() if s == t or uses[t] == 1}
    taken = set(planned.values())
    for source in plain:
        if source not in planned:
            target = source.with_name(source.name + ".png")
            while target in taken:
                target = target.with_name(target.name + ".png")
            planned[source] = target
            taken.add(target)
    return planned


def _as_png(relative: PurePosixPath) -> PurePosixPath:
    return relative.with_suffix(".png") if relative.suffix.lower() in _CONVERTED else relative


def read_file(path: Path) -> bytes:
    """The bytes of a file, read once.

    Raises:
        PictureFailed: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise PictureFailed(f"cannot be read ({error.strerror})") from None


def write_files(
    folder: Path, contents: dict[str, bytes], check: Callable[[dict[str, Path]], None]
) -> None:
    """Write files so that each is whole or not there: temporary name, fsync, check, rename.

    `check` gets the temporary paths by final name and may raise; nothing stays then. The files
    take their names in the order of `contents`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stamp = f"{PART_PREFIX}{_machine()}-{os.getpid()}-"
    parts = {name: folder / f"{stamp}{secrets.token_hex(8)}" for name in contents}
    try:
        for name, content in contents.items():
            _write_synced(parts[name], content)
        check(parts)
        for name, part in parts.items():
            part.replace(folder / name)
        _sync_folder(folder)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


def remove_abandoned_parts(folder: Path) -> None:
    """Delete unfinished files below `folder` that a killed run on this machine left behind.

    Those of a run that is still alive, or that belong to another machine, stay.
    """
    if os.name != "posix":
        return
    for part in folder.rglob(f"{PART_PREFIX}{_machine()}-*"):
        process = part.name.split("-")[-2]
        if not _is_alive(process):
            part.unlink(missing_ok=True)


def _machine() -> str:
    """A short name for this machine that tells nobody which it is, without dashes."""
    return hashlib.sha256(f"miad {uuid.getnode()}".encode()).hexdigest()[:8]


def _is_alive(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ValueError, ProcessLookupError):
        return False
    except OSError:  # it exists and belongs to somebody else
        return True
    return True


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("xb") as target:
        target.write(content)
        target.flush()
        os.fsync(target.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def check_report_place(path: Path, inputs: Sequence[Path]) -> None:
    """Refuse a report that would overwrite something that is no report.

    Raises:
        UsageError: it is a folder, lies in an input, or is another kind of file.
    """
    target = path.resolve()
    if any(given.resolve() in (target, *target.parents) for given in inputs):
        raise UsageError(f"{path}: the report would lie in the input", hint="Name it elsewhere.")
    if path.is_dir() or (path.exists() and path.suffix != ".json"):
        raise UsageError(f"{path}: is there and is no report", hint="Name a new .json file.")


def write_report(path: Path, facts: object) -> None:
    """Write `facts` as JSON, whole or not at all.

    Raises:
        UsageError: the place cannot be written to.
    """
    text = json.dumps(facts, indent=2, ensure_ascii=False, default=str)
    content = text.encode("utf-8", "replace")
    try:
        write_files(path.parent, {path.name: content}, lambda parts: None)
    except OSError as error:
        raise UsageError(f"{path}: the report cannot be written ({error.strerror})") from None
