"""Unlock: give a key holder the original files back, byte for byte, under their own names."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Literal

from miad_cli.errors import (
    ContainerDamaged,
    KeyUnusable,
    MiadError,
    NotProtected,
    NoUsableInput,
    OutputExists,
    OwnerUnknown,
    PictureFailed,
    RestorationMismatch,
    VerificationFailed,
    exit_code_of,
)
from miad_cli.files import (
    InputFile,
    check_output,
    collect_inputs,
    read_file,
    remove_abandoned_parts,
    write_files,
)
from miad_cli.imaging.dicom import is_dicom
from miad_cli.imaging.picture import container_in, container_in_file, read_picture
from miad_cli.imaging.raster import raster_format
from miad_cli.restoration import restore
from miad_cli.seal.carriers import is_sidecar, parse_copies, picture_of, read_sidecar
from miad_cli.seal.container import Container, check_signature, open_payload
from miad_cli.seal.identities import Identity
from miad_cli.seal.owner import OwnerPublicKey
from miad_cli.seal.payload import Payload, decode

State = Literal["unlocked", "skipped", "left out", "failed"]
OnExists = Literal["fail", "skip", "replace"]


@dataclass(frozen=True)
class Outcome:
    """What became of one protected file. `output` is relative to the output folder."""

    name: PurePosixPath
    state: State
    reason: str = ""
    hint: str = ""
    exit_code: int = 0
    output: PurePosixPath | None = None
    signed_by: str = ""


@dataclass(frozen=True)
class Report:
    """A whole run."""

    output: Path
    outcomes: tuple[Outcome, ...]

    def count(self, state: State) -> int:
        return sum(one.state == state for one in self.outcomes)

    @property
    def exit_code(self) -> int:
        codes = [one.exit_code for one in self.outcomes if one.exit_code]
        if all(one.state == "left out" for one in self.outcomes):
            codes.append(NoUsableInput.exit_code)
        return exit_code_of(codes)


def unlock(
    inputs: Sequence[Path],
    output: Path,
    identities: Sequence[Identity],
    owners: Collection[OwnerPublicKey] = (),
    on_exists: OnExists = "fail",
    progress: Callable[[Outcome, int], None] | None = None,
) -> Report:
    """Restore every protected file below the inputs.

    What a trusted owner is said to have signed and has not is refused. A container of an owner
    whom `owners` does not hold is opened, since the key fits, and its outcome says that nobody
    vouches for it.

    Raises:
        MiadError: the run as a whole cannot be done.
    """
    files = _with_orphaned_sidecars(collect_inputs(inputs))
    check_output(inputs, output, may_exist=on_exists != "fail")
    remove_abandoned_parts(output)
    written: set[PurePosixPath] = set()
    outcomes = []
    for file in files:
        outcome = _outcome_of(file, output, identities, owners, on_exists, written)
        outcomes.append(outcome)
        if outcome.output is not None:
            written.add(outcome.output)
        if progress:
            progress(outcome, len(files))
    return Report(output, tuple(outcomes))


def _with_orphaned_sidecars(files: Sequence[InputFile]) -> list[InputFile]:
    """Sidecars belong to their picture; one whose picture is gone stands for itself."""
    present = {file.path for file in files}
    return [
        file for file in files if not is_sidecar(file.path) or picture_of(file.path) not in present
    ]


def _outcome_of(
    file: InputFile,
    output: Path,
    identities: Sequence[Identity],
    owners: Collection[OwnerPublicKey],
    on_exists: OnExists,
    written: set[PurePosixPath],
) -> Outcome:
    try:
        opened = _open(file.path, identities)
        if opened is None:
            return Outcome(file.relative, "left out", "not an image")
        container, payload, content = opened
        signer = _signer(container, owners)
        target = _place_for(file, payload.original_name)
        if target in written:
            raise PictureFailed(f"a second file wants to be {target}; rename one of them first")
        if (output / target).exists() and on_exists != "replace":
            if on_exists == "skip":
                return Outcome(file.relative, "skipped", "there already", output=target)
            raise OutputExists(f"{target} is there already", hint="Use --on-exists replace.")
        # What an unknown signer says of the pixels says nothing.
        original = restore(payload, content, container.manifest.pixels_sha256 if signer else "")
        _write_checked(output / target, original, payload)
    except NotProtected as error:
        return Outcome(file.relative, "failed", error.message, error.hint, PictureFailed.exit_code)
    except (PictureFailed, VerificationFailed, KeyUnusable, OutputExists) as error:
        return Outcome(file.relative, "failed", error.message, error.hint, error.exit_code)
    except OSError as error:
        reason = f"cannot be written ({error.strerror})"
        return Outcome(file.relative, "failed", reason, exit_code=PictureFailed.exit_code)
    except Exception as error:  # one file that meets a bug of ours must not stop the others
        reason = f"internal error ({type(error).__name__})"
        return Outcome(file.relative, "failed", reason, exit_code=MiadError.exit_code)
    return Outcome(file.relative, "unlocked", output=target, signed_by=signer)


def _open(
    path: Path, identities: Sequence[Identity]
) -> tuple[Container, Payload, bytes | None] | None:
    """The first copy of the container that a key opens, its payload, and the protected file."""
    content: bytes | None = None
    if is_sidecar(path):
        copies = [read_file(path)]
    else:
        content = read_file(path)
        embedded, readable = _embedded(content, path)
        sidecar = read_sidecar(path)
        if not readable and sidecar is None:
            return None
        copies = [copy for copy in (embedded, sidecar) if copy is not None]
    failure: MiadError | None = None
    for container in parse_copies(copies):
        try:
            payload = decode(open_payload(container, identities))
            if payload.subject != container.manifest.subject:
                raise ContainerDamaged("the payload was sealed for another picture")
            return container, payload, content
        except (KeyUnusable, ContainerDamaged) as error:
            failure = failure or error
    raise failure or NotProtected("not protected by miad")


def _embedded(content: bytes, path: Path) -> tuple[bytes | None, bool]:
    """The container inside a file, and whether the file is an image at all.

    A picture that cannot be read any more does not matter yet: its sidecar may hold the original.
    Pixels are not needed yet, so none are decoded.
    """
    try:
        if raster_format(content[:16]) or is_dicom(content[:132]):
            return container_in_file(content), True
        picture = read_picture(content, path)
    except PictureFailed:
        return None, True
    return (container_in(picture), True) if picture is not None else (None, False)


def _write_checked(target: Path, original: bytes, payload: Payload) -> None:
    def check(parts: dict[str, Path]) -> None:
        written = parts[target.name].read_bytes()
        if hashlib.sha256(written).hexdigest() != payload.original_sha256:
            raise RestorationMismatch("the disk did not keep what was written")

    write_files(target.parent, {target.name: original}, check)


def _place_for(file: InputFile, original_name: str) -> PurePosixPath:
    """Where the original goes: its own name, in the folder of the protected file.

    The payload holds no name with a separator in it; on Windows a colon is one, too.

    Raises:
        PictureFailed: the name would lead out of that folder.
    """
    if os.name == "nt" and PureWindowsPath(original_name).name != original_name:
        raise PictureFailed("the original's name cannot be a file name on this system")
    return file.relative.with_name(original_name)


def _signer(container: Container, owners: Collection[OwnerPublicKey]) -> str:
    """The key id of the trusted owner who signed; empty where the owner is not known here.

    Raises:
        SignatureInvalid: the container names a trusted owner who did not sign it, or nobody did.
    """
    try:
        return check_signature(container, owners).key_id
    except OwnerUnknown:
        return ""
