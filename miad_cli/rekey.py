"""Rekey: change who can open protected files, without touching a pixel.

What is sealed stays the same; it is encrypted anew, to other recipients, and the owner signs
anew. Copies that were sent before stay open to whoever could open them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol

from pydicom import Dataset, dcmread

from miad_cli.errors import (
    ContainerDamaged,
    KeyUnusable,
    NotProtected,
    NoUsableInput,
    PictureFailed,
    UsageError,
    VerificationFailed,
    exit_code_of,
)
from miad_cli.files import (
    InputFile,
    collect_inputs,
    read_file,
    remove_abandoned_parts,
    write_files,
)
from miad_cli.imaging.derivation import embed_container, embedded_container, encode_instance
from miad_cli.imaging.dicom import is_dicom
from miad_cli.imaging.raster import (
    container_in_png,
    embed_in_png,
    raster_format,
    without_container,
)
from miad_cli.seal.carriers import SIDECAR_SUFFIX, parse_copies, read_sidecar
from miad_cli.seal.container import (
    Container,
    Manifest,
    check_signature,
    open_payload,
    parse,
    seal,
)
from miad_cli.seal.identities import Identity, Recipient
from miad_cli.seal.owner import OwnerKey
from miad_cli.seal.payload import Payload, decode, encode

State = Literal["rekeyed", "unchanged", "planned", "left out", "failed"]


@dataclass(frozen=True)
class Change:
    """Who is to be able to open: all of `to`, or who can now with `add` and without `remove`.

    Raises:
        UsageError: both ways at once, neither, or somebody both added and removed.
    """

    to: tuple[Recipient, ...] = ()
    add: tuple[Recipient, ...] = ()
    remove: tuple[Recipient, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.to) == bool(self.add or self.remove):
            raise UsageError(
                "say who is to be able to open the files",
                hint="Name everybody with --to, or only the changes with --add and --remove.",
            )
        if set(self.add) & set(self.remove):
            raise UsageError("a recipient is both added and removed")

    def applied_to(self, recorded: Sequence[str]) -> tuple[Recipient, ...]:
        """The recipients after the change, in order, each once.

        Raises:
            UsageError: the present ones are not known and have to be, or nobody would be left.
        """
        if self.to:
            return _in_order(self.to)
        if not recorded:
            raise UsageError(
                "the seal does not say who can open it, so nobody can be added or removed",
                hint="Name everybody who is to open it with --to.",
            )
        present = [Recipient(text) for text in recorded]
        changed = _in_order(one for one in (*present, *self.add) if one not in self.remove)
        if not changed:
            raise UsageError("nobody would be left who can open it", hint="Add somebody as well.")
        return changed


def _in_order(recipients: Iterable[Recipient]) -> tuple[Recipient, ...]:
    return tuple(sorted(set(recipients), key=lambda one: one.text))


@dataclass(frozen=True)
class Outcome:
    """What became of one protected file; `recipients` can open it from now on, `removed` from
    now on cannot."""

    name: PurePosixPath
    state: State
    reason: str = ""
    hint: str = ""
    exit_code: int = 0
    recipients: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """A whole run. `unmet` are recipients to be removed who could open none of the files."""

    outcomes: tuple[Outcome, ...]
    unmet: tuple[str, ...]

    def count(self, state: State) -> int:
        return sum(one.state == state for one in self.outcomes)

    @property
    def exit_code(self) -> int:
        codes = [one.exit_code for one in self.outcomes if one.exit_code]
        if all(one.state == "left out" for one in self.outcomes):
            codes.append(NoUsableInput.exit_code)
        return exit_code_of(codes)


def rekey(
    inputs: Sequence[Path],
    change: Change,
    identities: Sequence[Identity],
    owner: OwnerKey,
    dry_run: bool = False,
    progress: Callable[[Outcome, int], None] | None = None,
) -> Report:
    """Change the recipients of every protected file below the inputs, in place.

    Each file and each sidecar is replaced whole or not at all. One of `identities` has to open
    a file before and after: that proves the new seal, and lets a second run see what the first
    one did.

    Raises:
        NoUsableInput: there is no file.
    """
    files = [file for file in collect_inputs(inputs) if not _has_a_picture(file.path)]
    if not dry_run:
        for folder in (path for path in inputs if path.is_dir()):
            remove_abandoned_parts(folder)
    job = _Job(change, identities, owner, dry_run)
    outcomes = []
    for file in files:
        outcome = job.outcome_of(file)
        outcomes.append(outcome)
        if progress:
            progress(outcome, len(files))
    met = {text for one in outcomes for text in one.removed}
    unmet = tuple(one.text for one in change.remove if one.text not in met)
    return Report(tuple(outcomes), unmet)


def _has_a_picture(path: Path) -> bool:
    suffix = SIDECAR_SUFFIX
    return path.name.endswith(suffix) and path.with_name(path.name.removesuffix(suffix)).exists()


@dataclass(frozen=True)
class _Job:
    change: Change
    identities: Sequence[Identity]
    owner: OwnerKey
    dry_run: bool

    def outcome_of(self, file: InputFile) -> Outcome:
        """Rekey one file; whatever goes wrong with it alone becomes its outcome."""
        try:
            return self._outcome_of(file)
        except NotProtected as error:
            code = PictureFailed.exit_code
            return Outcome(file.relative, "failed", error.message, error.hint, code)
        except (PictureFailed, VerificationFailed, KeyUnusable, UsageError) as error:
            return Outcome(file.relative, "failed", error.message, error.hint, error.exit_code)
        except OSError as error:
            reason = f"cannot be written ({error.strerror})"
            return Outcome(file.relative, "failed", reason, exit_code=PictureFailed.exit_code)

    def _outcome_of(self, file: InputFile) -> Outcome:
        protected = _read_protected(file.path.resolve() if file.path.is_symlink() else file.path)
        if protected is None:
            return Outcome(file.relative, "left out", "not an image")
        container, payload = self._open(protected.copies)
        recipients = self.change.applied_to(payload.recipients)
        texts = tuple(one.text for one in recipients)
        if texts == payload.recipients and _all_are(container, protected.copies):
            return Outcome(file.relative, "unchanged", recipients=texts)
        removed = tuple(text for text in payload.recipients if text not in texts)
        if self.dry_run:
            return Outcome(file.relative, "planned", recipients=texts, removed=removed)
        protected.write(self._sealed_anew(container.manifest, payload, recipients))
        return Outcome(file.relative, "rekeyed", recipients=texts, removed=removed)

    def _open(self, copies: Sequence[bytes]) -> tuple[Container, Payload]:
        """The first copy that a key opens, once the owner is known to have signed all of them."""
        containers = parse_copies(copies)
        for container in containers:
            self._check_owner(container)
        if len({_about(container.manifest) for container in containers}) > 1:
            raise ContainerDamaged(
                "the containers in the file and beside it belong to different pictures"
            )
        failure: KeyUnusable | ContainerDamaged | None = None
        for container in containers:
            try:
                payload = decode(open_payload(container, self.identities))
            except (KeyUnusable, ContainerDamaged) as error:
                failure = failure or error
                continue
            if payload.subject != container.manifest.subject:
                raise ContainerDamaged("the payload was sealed for another picture")
            return container, payload
        raise failure or ContainerDamaged("no readable container")

    def _check_owner(self, container: Container) -> None:
        if container.manifest.owner_key_id != self.owner.public.key_id:
            raise KeyUnusable(
                "it was signed by another owner, and only that owner can change who opens it",
                hint="Name the key that it was signed with by --sign-with.",
            )
        check_signature(container, [self.owner.public])

    def _sealed_anew(
        self, manifest: Manifest, payload: Payload, recipients: Sequence[Recipient]
    ) -> bytes:
        texts = tuple(one.text for one in recipients)
        plaintext = encode(replace(payload, recipients=texts))
        made = seal(manifest, plaintext, [one.age for one in recipients], self.owner)
        try:
            proved = open_payload(parse(made), self.identities)
        except KeyUnusable:
            raise UsageError(
                "none of the keys given would open it any more, so the result cannot be proved",
                hint="Name a key of one of the new recipients as well, by a second --key.",
            ) from None
        if proved != plaintext:
            raise ContainerDamaged("the new seal does not hold what the old one held")
        return made


def _about(manifest: Manifest) -> bytes:
    """What a manifest says of the picture, whoever can open its payload."""
    return replace(manifest, age_sha256="0" * 64, payload_length=0).to_bytes()


def _all_are(container: Container, copies: Iterable[bytes]) -> bool:
    """Whether every copy is this container, padded or not."""
    whole = container.to_bytes()
    return all(copy in (whole, whole + b"\0") for copy in copies)


# --- Files in place -----------------------------------------------------------------------


class _Body(Protocol):
    """A protected file around its container."""

    @property
    def container(self) -> bytes | None: ...

    def with_container(self, container: bytes) -> bytes:
        """The file's bytes with another container; everything else as it was.

        Raises:
            PictureFailed: something else would change.
        """


@dataclass(frozen=True)
class _Png:
    content: bytes

    @property
    def container(self) -> bytes | None:
        return container_in_png(self.content)

    def with_container(self, container: bytes) -> bytes:
        bare = without_container(self.content)
        made = embed_in_png(bare, container)
        if without_container(made) != bare or container_in_png(made) != container:
            raise PictureFailed("the PNG file is not whole, so its seal cannot be replaced")
        return made


@dataclass(frozen=True, eq=False)
class _Instance:
    dataset: Dataset
    pixel_data: bytes

    @property
    def container(self) -> bytes | None:
        return embedded_container(self.dataset)

    def with_container(self, container: bytes) -> bytes:
        embed_container(self.dataset, container)
        made = encode_instance(self.dataset)
        reread = _read_instance(made)
        carried = reread.container
        if reread.pixel_data != self.pixel_data:
            raise PictureFailed("its pixels would not stay as they are, so nothing was written")
        if carried is None or not carried.startswith(container):
            raise PictureFailed("the new seal would not survive in the file")
        return made


def _read_instance(content: bytes) -> _Instance:
    try:
        dataset = dcmread(BytesIO(content))
        raw = dataset.get_item("PixelData")
        value = raw.value if raw is not None else b""
    except Exception as error:  # a broken file makes pydicom raise anything
        raise PictureFailed(f"broken DICOM structure ({type(error).__name__})") from error
    return _Instance(dataset, value if isinstance(value, bytes) else b"")


@dataclass(frozen=True)
class _Protected:
    """A protected file in its place: `body` None where only the sidecar is left or counts."""

    path: Path
    body: _Body | None
    sidecar: Path | None
    copies: tuple[bytes, ...]

    def write(self, container: bytes) -> None:
        """Replace every copy. The sidecar takes its name first: until the file follows, there
        is an old and a new container, and both are whole."""
        contents: dict[str, bytes] = {}
        if self.sidecar is not None:
            contents[self.sidecar.name] = container
        if self.body is not None and self.body.container is not None:
            contents[self.path.name] = self.body.with_container(container)

        def check(parts: dict[str, Path]) -> None:
            for name, part in parts.items():
                if part.read_bytes() != contents[name]:
                    raise PictureFailed("the disk did not keep what was written")
                shutil.copymode(self.path.with_name(name), part)

        write_files(self.path.parent, contents, check)


def _read_protected(path: Path) -> _Protected | None:
    """A file with its containers; None for what is neither a picture nor a seal."""
    if path.name.endswith(SIDECAR_SUFFIX):
        return _Protected(path, None, path, (read_file(path),))
    content = read_file(path)
    body = _body_of(content)
    beside = read_sidecar(path)
    if body is None and beside is None:
        return None
    embedded = body.container if body is not None else None
    sidecar = path.with_name(path.name + SIDECAR_SUFFIX) if beside is not None else None
    copies = tuple(copy for copy in (embedded, beside) if copy is not None)
    return _Protected(path, body, sidecar, copies)


def _body_of(content: bytes) -> _Body | None:
    if raster_format(content[:16]) == "png":
        return _Png(content)
    if not is_dicom(content[:132]):
        return None
    instance = _read_instance(content)
    return instance if instance.container is not None or instance.pixel_data else None
