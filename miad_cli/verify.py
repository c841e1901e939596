"""Verify protected files: is this what its owner sealed, and if not, what happened to it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path, PurePosixPath

from miad_cli.errors import (
    ContainerDamaged,
    KeyUnusable,
    NotProtected,
    NoUsableInput,
    OwnerUnknown,
    PictureFailed,
    SignatureInvalid,
    VerificationFailed,
    exit_code_of,
)
from miad_cli.files import collect_inputs, read_file
from miad_cli.imaging.dicom import NoPicture
from miad_cli.imaging.picture import Identity as PictureIdentity
from miad_cli.imaging.picture import container_in, identify, read_picture
from miad_cli.restoration import restore
from miad_cli.seal.carriers import SIDECAR_SUFFIX, parse_copies, read_sidecar
from miad_cli.seal.container import Container, Manifest, check_signature, open_payload
from miad_cli.seal.keys import Identity, OwnerPublicKey
from miad_cli.seal.payload import decode


class Verdict(Enum):
    """One word for each thing that can have happened. Only the first is good."""

    AUTHENTIC = "authentic"
    RE_ENCODED = "re-encoded without loss"
    ATTRIBUTES_CHANGED = "attributes of the picture changed"
    PIXELS_CHANGED = "pixels changed"
    MOVED = "container moved here from another picture"
    DAMAGED = "container missing or damaged"
    SIGNATURE_INVALID = "signature invalid"
    OWNER_UNKNOWN = "owner unknown"
    NOT_PROTECTED = "not protected"
    UNREADABLE = "unreadable"
    NO_PICTURE = "no picture"


@dataclass(frozen=True)
class Verification:
    """What is known of one file. `restorable` is None where no key was given."""

    name: PurePosixPath
    verdict: Verdict
    reason: str = ""
    restorable: bool | None = None
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
) -> Report:
    """A verdict on every file below the inputs. `owners` are the keys that are trusted.

    Raises:
        NoUsableInput: there is no file.
    """
    files = [file for file in collect_inputs(inputs) if not _is_sidecar_of_picture(file.path)]
    results = []
    for file in files:
        result = verify_file(file.path, owners, identities, file.relative)
        results.append(result)
        if progress:
            progress(result, len(files))
    return Report(tuple(results))


def verify_file(
    path: Path,
    owners: Collection[OwnerPublicKey],
    identities: Sequence[Identity] = (),
    name: PurePosixPath | None = None,
) -> Verification:
    """The verdict on one file, with its sidecar where there is one."""
    shown = name or PurePosixPath(path.name)
    if path.name.endswith(SIDECAR_SUFFIX):
        return _bad(shown, Verdict.DAMAGED, "a sidecar whose picture is gone")
    try:
        content = read_file(path)
        picture = read_picture(content, path)
    except PictureFailed as error:
        return _bad(shown, Verdict.UNREADABLE, error.message)
    if picture is None or isinstance(picture, NoPicture):
        reason = picture.reason if picture else "not an image"
        return Verification(shown, Verdict.NO_PICTURE, reason)
    try:
        identity = identify(picture)
        copies = (container_in(picture), read_sidecar(path))
        verdict, reason, container = _judge(identity, parse_copies(copies), owners)
    except NotProtected as error:
        return _bad(shown, Verdict.NOT_PROTECTED, error.message)
    except ContainerDamaged as error:
        return _bad(shown, Verdict.DAMAGED, error.message)
    except VerificationFailed as error:
        unknown = isinstance(error, OwnerUnknown)
        verdict = Verdict.OWNER_UNKNOWN if unknown else Verdict.SIGNATURE_INVALID
        return _bad(shown, verdict, error.message)
    if verdict is Verdict.AUTHENTIC and copies[0] is None:
        reason = "the container is in the sidecar only"
    restorable, why, code = _restorable(container, content, identities)
    if verdict is not Verdict.AUTHENTIC:
        code = exit_code_of([code, VerificationFailed.exit_code])
    return Verification(shown, verdict, "; ".join(filter(None, (reason, why))), restorable, code)


def _bad(name: PurePosixPath, verdict: Verdict, reason: str) -> Verification:
    return Verification(name, verdict, reason, exit_code=VerificationFailed.exit_code)


def _judge(
    identity: PictureIdentity, containers: Iterable[Container], owners: Collection[OwnerPublicKey]
) -> tuple[Verdict, str, Container]:
    """The best verdict that any trusted copy of the container allows."""
    judged, refusal = [], None
    for container in containers:
        try:
            check_signature(container, owners)
        except (OwnerUnknown, SignatureInvalid) as error:
            refusal = error
            continue
        judged.append((*_compare(identity, container.manifest), container))
    if not judged:
        raise refusal or ContainerDamaged("no readable container")
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
        return Verdict.ATTRIBUTES_CHANGED, "geometry, window or UIDs are not the sealed ones"
    if identity.pixel_data_sha256 != manifest.pixel_data_sha256:
        return Verdict.RE_ENCODED, "the same pixels in another encoding"
    return Verdict.AUTHENTIC, ""


def _restorable(
    container: Container, content: bytes, identities: Sequence[Identity]
) -> tuple[bool | None, str, int]:
    """Whether a given key gets the original back; why not; and that failure's exit code."""
    if not identities:
        return None, "", 0
    try:
        payload = decode(open_payload(container, identities))
        if payload.subject != container.manifest.subject:
            raise ContainerDamaged("the payload was sealed for another picture")
        restore(payload, content)
    except (KeyUnusable, VerificationFailed, PictureFailed) as error:
        return False, error.message, error.exit_code
    return True, "", 0


def _is_sidecar_of_picture(path: Path) -> bool:
    suffix = SIDECAR_SUFFIX
    return path.name.endswith(suffix) and path.with_name(path.name[: -len(suffix)]).exists()
