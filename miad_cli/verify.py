"""Verify protected files: is this what its owner sealed, and if not, what happened to it."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from miad_cli.changes import Changes, changes_in, drawing_of, lossy_encoding
from miad_cli.errors import (
    ContainerDamaged,
    KeyUnusable,
    MiadError,
    NotProtected,
    NoUsableInput,
    OwnerUnknown,
    PictureFailed,
    SignatureInvalid,
    UsageError,
    VerificationFailed,
    exit_code_of,
)
from miad_cli.files import LINK, InputFile, collect_inputs, read_file, write_files
from miad_cli.imaging.dicom import LARGEST_DECODED, LARGEST_INFLATED, NoPicture, is_dicom
from miad_cli.imaging.glance import glance_at
from miad_cli.imaging.picture import Identity as PictureIdentity
from miad_cli.imaging.picture import Picture, container_in, doubt_about, identify, read_picture
from miad_cli.imaging.structure import structure_fault
from miad_cli.restoration import marked_again, restore
from miad_cli.seal.carriers import is_sidecar, parse_copies, picture_of, read_sidecar, sidecar_of
from miad_cli.seal.companion import has_companion_seal, is_unchanged
from miad_cli.seal.container import MAGIC, Container, Manifest, check_signature, open_payload
from miad_cli.seal.identities import Identity
from miad_cli.seal.owner import OwnerPublicKey
from miad_cli.seal.payload import Payload, decode
from miad_cli.workers import Lost, in_processes, usable_cores

MANY_FILES = 1500
"""Files, or else"""
MANY_BYTES = 1 << 30
"""bytes, from which on starting further processes pays."""


class Verdict(Enum):
    """One word for each thing that can have happened. Only the first is good."""

    AUTHENTIC = "authentic"
    OTHER_RECIPE = "not what its recipe makes of the original"
    RE_ENCODED = "re-encoded without loss"
    ATTRIBUTES_CHANGED = "attributes of the picture changed"
    PIXELS_CHANGED = "pixels changed"
    MOVED = "container moved here from another picture"
    DAMAGED = "container missing or damaged"
    SIGNATURE_INVALID = "signature invalid"
    OWNER_UNKNOWN = "owner unknown"
    DISPUTED = "readers differ"
    NOT_PROTECTED = "not protected"
    UNREADABLE = "unreadable"
    NO_PICTURE = "no picture"
    FAILED = "internal failure"


@dataclass(frozen=True)
class Verification:
    """What is known of one file.

    Attributes:
        changes: what differs from what was sealed, where pixels or attributes do.
        restorable: whether a key that was given gets the original back; None without a key.
        recipe_holds: whether the sealed recipe, applied to the restored original, gives exactly
            these pixels (MedLocker's certificate); None where that could not be tried.
        picture: where the changes were drawn, below the folder for reports.
        job: the owner's tag of the original and of how it was protected, once that is signed.
    """

    name: PurePosixPath
    verdict: Verdict
    reason: str = ""
    changes: Changes | None = None
    restorable: bool | None = None
    recipe_holds: bool | None = None
    picture: PurePosixPath | None = None
    job: str = ""
    exit_code: int = 0


@dataclass(frozen=True)
class Report:
    """All verdicts of a run."""

    verifications: tuple[Verification, ...]

    def count(self, verdict: Verdict) -> int:
        return sum(one.verdict is verdict for one in self.verifications)

    @property
    def exit_code(self) -> int:
        codes = [one.exit_code for one in self.verifications]
        if all(one.verdict is Verdict.NO_PICTURE for one in self.verifications):
            codes.append(NoUsableInput.exit_code)
        return exit_code_of(codes)


def verify(
    inputs: Sequence[Path],
    owners: Collection[OwnerPublicKey],
    identities: Sequence[Identity] = (),
    progress: Callable[[Verification, int], None] | None = None,
    drawings: Path | None = None,
    jobs: int | None = 1,
) -> Report:
    """A verdict on every file below the inputs. `owners` are the keys that are trusted.

    `drawings` is where a small picture of each file whose pixels changed is written: a folder,
    or for a single file a name that ends in .png. `jobs` is how many processes share the work;
    None is as many as there are processors, where there is enough to do. What comes out is the
    same. With `identities` there is one: a secret key is not handed on.

    Raises:
        NoUsableInput: there is no file.
        UsageError: one drawing cannot be made of several files, or not be written there.
    """
    files = _without_sidecars(collect_inputs(inputs))
    if drawings and _is_one_drawing(drawings) and len(files) > 1:
        raise UsageError(
            f"{drawings} is one picture, and there are {len(files)} files",
            hint="Name a folder with --report.",
        )
    work = partial(_verified, tuple(owners), tuple(identities), drawings)
    results = []
    with closing(_shared(work, files, 1 if identities else _processes(files, jobs))) as verified:
        for result in verified:
            results.append(result)
            if progress:
                progress(result, len(files))
    return Report(tuple(results))


def _processes(files: Sequence[InputFile], jobs: int | None) -> int:
    """How many processes are to share the work."""
    if jobs is not None:
        return min(jobs, len(files))
    many = len(files) >= MANY_FILES or sum(map(_size, files)) >= MANY_BYTES
    return min(usable_cores(), len(files)) if many else 1


def _size(file: InputFile) -> int:
    try:
        return os.lstat(file.path).st_size
    except OSError:
        return 0


def _shared(
    work: Callable[[InputFile], Verification], files: Sequence[InputFile], jobs: int
) -> Generator[Verification, None, None]:
    """`work` of every file, in order, done by this process or shared by `jobs` others."""
    if jobs < 2:
        yield from map(work, files)
        return
    with closing(in_processes(work, files, jobs, preload=__name__)) as verified:
        for file, result in zip(files, verified, strict=True):
            yield _failed(file, "the process died over it") if isinstance(result, Lost) else result


def _verified(
    owners: Collection[OwnerPublicKey],
    identities: Sequence[Identity],
    drawings: Path | None,
    file: InputFile,
) -> Verification:
    """The verdict on one of many files; an error of ours is one, and does not stop the others."""
    if file.obstacle == LINK:
        return Verification(file.relative, Verdict.NO_PICTURE, LINK)
    if file.obstacle:
        return _bad(file.relative, Verdict.UNREADABLE, file.obstacle)
    try:
        return verify_file(file.path, owners, identities, file.relative, drawings)
    except MiadError:
        raise
    except Exception as error:
        if os.environ.get("MIAD_DEBUG"):
            raise
        return _failed(file, f"{type(error).__name__}; MIAD_DEBUG=1 shows where")


def _failed(file: InputFile, reason: str) -> Verification:
    return Verification(file.relative, Verdict.FAILED, reason, exit_code=MiadError.exit_code)


def verify_file(
    path: Path,
    owners: Collection[OwnerPublicKey],
    identities: Sequence[Identity] = (),
    name: PurePosixPath | None = None,
    drawings: Path | None = None,
) -> Verification:
    """The verdict on one file, with its sidecar where there is one."""
    shown = name or PurePosixPath(path.name)
    if is_sidecar(path):
        if has_companion_seal(picture_of(path)):
            return _of_companion(shown, picture_of(path), None, owners, identities)
        return _bad(shown, Verdict.DAMAGED, "a sidecar whose picture is gone")
    try:
        content = read_file(path)
        if not identities and (found := _at_a_glance(shown, path, content, owners)):
            return found
        # A file that is as long as its pixels asks for no more memory than it brings.
        picture = read_picture(content, path, max(LARGEST_DECODED, len(content)))
    except PictureFailed as error:
        return _bad(shown, Verdict.UNREADABLE, error.message)
    if picture is None or isinstance(picture, NoPicture):
        return _of_no_picture(shown, path, content, picture, owners, identities)
    try:
        identity = identify(picture)
        copies = (container_in(picture), read_sidecar(path))
        verdict, reason, container = _judge(identity, _signed(parse_copies(copies), owners))
    except NotProtected as error:
        return _bad(shown, Verdict.NOT_PROTECTED, error.message)
    except ContainerDamaged as error:
        return _bad(shown, Verdict.DAMAGED, error.message)
    except VerificationFailed as error:
        unknown = isinstance(error, OwnerUnknown)
        verdict = Verdict.OWNER_UNKNOWN if unknown else Verdict.SIGNATURE_INVALID
        return _bad(shown, verdict, error.message)
    if verdict is Verdict.AUTHENTIC and (doubt := doubt_about(picture)):
        return _bad(shown, Verdict.DISPUTED, f"the seal is right, and yet: {doubt}")
    if verdict is Verdict.AUTHENTIC:
        found = _authentic(shown, container, copies)
    else:
        found = Verification(shown, verdict, reason, job=container.manifest.job)
    return _examined(found, container, picture, identities, drawings)


def _of_no_picture(
    name: PurePosixPath,
    path: Path,
    content: bytes,
    found: NoPicture | None,
    owners: Collection[OwnerPublicKey],
    identities: Sequence[Identity],
) -> Verification:
    """The verdict on a file in which no picture was found."""
    if has_companion_seal(path):
        return _of_companion(name, path, content, owners, identities)
    reason = found.reason if found else "not an image"
    if _was_protected(content, path):
        return _bad(name, Verdict.DAMAGED, f"protected once, and no picture now: {reason}")
    if found is not None and found.has_pixels:
        # Whatever it calls itself: others may show these pixels, and nobody vouches for them.
        return _bad(name, Verdict.NOT_PROTECTED, f"{reason}, with pixels and without a seal")
    return Verification(name, Verdict.NO_PICTURE, reason)


def _of_companion(
    name: PurePosixPath,
    path: Path,
    content: bytes | None,
    owners: Collection[OwnerPublicKey],
    identities: Sequence[Identity],
) -> Verification:
    """The verdict on a file without a picture that has a seal of its own (DICOMDIR, a copy).

    `content` is None where only the seal is there, as for a directory that could not be made anew.
    """
    try:
        (container,) = _signed(parse_copies((None, read_sidecar(path))), owners)
    except VerificationFailed as error:
        verdicts = {
            OwnerUnknown: Verdict.OWNER_UNKNOWN,
            SignatureInvalid: Verdict.SIGNATURE_INVALID,
        }
        return _bad(name, verdicts.get(type(error), Verdict.DAMAGED), error.message)
    if not is_unchanged(container.manifest, content):
        gone = "the file that belongs to this seal is gone"
        changed = "it is not, byte for byte, the file that was sealed"
        return _bad(name, Verdict.DAMAGED, gone if content is None else changed)
    found = Verification(name, Verdict.AUTHENTIC, "no picture", job=container.manifest.job)
    if not identities:
        return found
    try:
        restore(decode(open_payload(container, identities)), None)
    except (KeyUnusable, VerificationFailed) as error:
        failed = replace(found, restorable=False, exit_code=error.exit_code)
        return _because(failed, error.message)
    return replace(found, restorable=True)


def _at_a_glance(
    name: PurePosixPath, path: Path, content: bytes, owners: Collection[OwnerPublicKey]
) -> Verification | None:
    """The verdict on a file that a glance shows to be authentic; None for every other."""
    glance = glance_at(content)
    if glance is None:
        return None
    copies = (glance.container, read_sidecar(path))
    try:
        containers = _signed(parse_copies(copies), owners)
    except VerificationFailed:
        return None
    identity = glance.identity()
    if identity is None:
        return None
    verdict, _, container = _judge(identity, containers)
    if structure_fault(content, LARGEST_INFLATED):
        return None
    return _authentic(name, container, copies) if verdict is Verdict.AUTHENTIC else None


def _authentic(
    name: PurePosixPath, container: Container, copies: tuple[bytes | None, bytes | None]
) -> Verification:
    reason = "" if copies[0] is not None else "the container is in the sidecar only"
    return Verification(name, Verdict.AUTHENTIC, reason, job=container.manifest.job)


def _examined(
    found: Verification,
    container: Container,
    picture: Picture,
    identities: Sequence[Identity],
    drawings: Path | None,
) -> Verification:
    """`found`, with what happened to the picture in detail, and the exit code."""
    verdict = found.verdict
    if verdict in (Verdict.PIXELS_CHANGED, Verdict.ATTRIBUTES_CHANGED):
        found = replace(found, changes=changes_in(picture, container.manifest))
    if identities:
        found = _with_key(found, container, picture, identities)
    if drawings and found.changes and verdict is Verdict.PIXELS_CHANGED:
        found = _drawn(found, picture, found.changes, drawings)
    if found.changes:
        found = _because(found, found.changes.sentence)
    if verdict in (Verdict.PIXELS_CHANGED, Verdict.MOVED) and (encoding := lossy_encoding(picture)):
        found = _because(found, f"it was encoded again as {encoding}, which can lose detail")
    if found.verdict is not Verdict.AUTHENTIC:
        codes = [found.exit_code, VerificationFailed.exit_code]
        found = replace(found, exit_code=exit_code_of(codes))
    return found


def _was_protected(content: bytes, path: Path) -> bool:
    """Whether something that is no picture was one: it holds a container, or its header is ours."""
    header_is_ours = is_dicom(content[:132]) and b"MIAD" in content[:1024]
    return header_is_ours or MAGIC in content or sidecar_of(path).exists()


def _bad(name: PurePosixPath, verdict: Verdict, reason: str) -> Verification:
    return Verification(name, verdict, reason, exit_code=VerificationFailed.exit_code)


def _signed(containers: Iterable[Container], owners: Collection[OwnerPublicKey]) -> list[Container]:
    """The containers that one of `owners` signed.

    Raises:
        OwnerUnknown, SignatureInvalid: there is none.
    """
    signed, refusal = [], None
    for container in containers:
        try:
            check_signature(container, owners)
        except (OwnerUnknown, SignatureInvalid) as error:
            refusal = error
            continue
        signed.append(container)
    if not signed:
        raise refusal or ContainerDamaged("no readable container")
    return signed


def _judge(
    identity: PictureIdentity, containers: Iterable[Container]
) -> tuple[Verdict, str, Container]:
    """The best verdict that any of the trusted containers allows."""
    judged = [(*_compare(identity, one.manifest), one) for one in containers]
    order = list(Verdict)
    return min(judged, key=lambda one: order.index(one[0]))


def _compare(identity: PictureIdentity, manifest: Manifest) -> tuple[Verdict, str]:
    same_pixels = identity.pixels_sha256 == manifest.pixels_sha256
    same_subject = identity.subject == manifest.subject
    same_attributes = identity.attributes_sha256 == manifest.attributes_sha256
    if not same_pixels and not same_subject and not manifest.subject.startswith("sha256:"):
        return Verdict.MOVED, "neither the pixels nor the SOP Instance UID are the sealed ones"
    if not same_pixels:
        return Verdict.PIXELS_CHANGED, "the pixels are not the ones that were sealed"
    if not same_attributes:
        return Verdict.ATTRIBUTES_CHANGED, "geometry, display or UIDs are not the sealed ones"
    if identity.pixel_data_sha256 != manifest.pixel_data_sha256:
        return Verdict.RE_ENCODED, "the same pixels in another encoding"
    if not same_subject:
        return Verdict.ATTRIBUTES_CHANGED, "something beside the pixels is not as it was sealed"
    return Verdict.AUTHENTIC, ""


def _because(found: Verification, *reasons: str) -> Verification:
    """`found` with more reasons."""
    said = [reason.rstrip(".") for reason in (found.reason, *reasons) if reason]
    return replace(found, reason="; ".join(said))


def _with_key(
    found: Verification, container: Container, picture: Picture, identities: Sequence[Identity]
) -> Verification:
    """`found`, and what only the holder of a key can say."""
    try:
        payload = decode(open_payload(container, identities))
        if payload.subject != container.manifest.subject:
            raise ContainerDamaged("the payload was sealed for another picture")
        sealed_pixels = container.manifest.pixels_sha256
        original = restore(payload, picture.content, sealed_pixels)
    except (KeyUnusable, VerificationFailed, PictureFailed) as error:
        failed = replace(found, restorable=False, exit_code=error.exit_code)
        return _because(failed, error.message)
    return _with_recipe(replace(found, restorable=True), payload, original, picture)


def _with_recipe(
    found: Verification, payload: Payload, original: bytes, picture: Picture
) -> Verification:
    """`found`, and whether the recipe makes these pixels of the original, or how many it misses."""
    try:
        expected, stored = marked_again(payload, original), picture.image.stored
    except PictureFailed as error:
        return _because(found, f"the recipe could not be tried: {error.message}")
    except ContainerDamaged as error:
        return _of_other_recipe(found, error.message)
    if found.verdict in (Verdict.PIXELS_CHANGED, Verdict.MOVED):
        changes = found.changes and found.changes.counted(expected, stored)
        return replace(found, changes=changes)
    if not np.array_equal(expected, stored):
        reason = "the sealed recipe, applied to the restored original, gives other pixels"
        return _of_other_recipe(found, reason)
    return replace(found, recipe_holds=True)


def _of_other_recipe(found: Verification, reason: str) -> Verification:
    return _because(replace(found, verdict=Verdict.OTHER_RECIPE, recipe_holds=False), reason)


def _is_one_drawing(place: Path) -> bool:
    return place.suffix.lower() == ".png" and not place.is_dir()


def _drawn(found: Verification, picture: Picture, changes: Changes, place: Path) -> Verification:
    """`found`, with its changes drawn below `place`."""
    relative = PurePosixPath(f"{found.name}.png")
    target = place if _is_one_drawing(place) else place / relative
    try:
        write_files(target.parent, {target.name: drawing_of(picture, changes)}, lambda parts: None)
    except PictureFailed as error:
        return _because(found, f"no picture of the changes: {error.message}")
    except OSError as error:
        raise UsageError(f"{place}: the report cannot be written ({error.strerror})") from None
    return replace(found, picture=PurePosixPath(target.name) if target == place else relative)


def _without_sidecars(files: Sequence[InputFile]) -> list[InputFile]:
    """`files` but for sidecars of pictures that are there, among the files or not."""
    paths = {str(file.path) for file in files}

    def belongs_to_picture(path: Path) -> bool:
        if not is_sidecar(path):
            return False
        picture = picture_of(path)
        return str(picture) in paths or picture.exists()

    return [file for file in files if not belongs_to_picture(file.path)]
