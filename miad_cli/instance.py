"""One protected instance: the new file, its sealed container, and the proof that it undoes.

Here the rooms meet for a single picture: imaging derives the file, seal closes the container,
restoration proves it from what was written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Protocol

import numpy as np
from pydicom.uid import UID

from miad_cli import __version__
from miad_cli.errors import PictureFailed, RestorationMismatch
from miad_cli.files import write_files
from miad_cli.imaging.derivation import (
    Derived,
    NewIdentity,
    derive_instance,
    embed_container,
)
from miad_cli.imaging.dicom import LARGEST_DECODED, DicomPicture
from miad_cli.imaging.digests import pixels_digest
from miad_cli.imaging.image import Stored
from miad_cli.imaging.picture import (
    Evidence,
    Identity,
    Picture,
    container_in,
    doubt_about,
    evidence_of,
    identify,
    read_picture,
)
from miad_cli.imaging.raster import RasterPicture, embed_in_png, write_png
from miad_cli.restoration import layout_facts, restores
from miad_cli.seal.carriers import SIDECAR_SUFFIX, sidecar_of
from miad_cli.seal.container import Draft, seal
from miad_cli.seal.identities import Recipient
from miad_cli.seal.owner import OwnerKey
from miad_cli.seal.payload import Payload, encode
from miad_cli.watermark.blend import corrections
from miad_cli.watermark.delta import add, doubts
from miad_cli.watermark.marking import Marking
from miad_cli.watermark.recipe import recipe_of

Mode = Literal["compact", "original"]

_PIECE = 1 << 20

_METHOD = "Logo blended into the pixels at a place found by search; not for diagnosis"
_METHOD_WITH_DELTA = (
    "Faint perturbation of the pixels and a logo blended in at a place found by search; "
    "not for diagnosis"
)


@dataclass(frozen=True)
class Sealing:
    """Who seals, for whom, and how.

    `series_parts` are the bytes that, with the original series and the owner's key, make the new
    series UID: the same for all pictures that belong into one protected series. `job_parts` are
    further bytes that a run which is resumed tells finished work by.
    """

    owner: OwnerKey
    recipients: Sequence[Recipient]
    series_parts: tuple[bytes, ...]
    bank_digest: str
    payload: Literal["auto", "compact", "original"]
    carrier: Literal["both", "embed", "sidecar"]
    job_parts: tuple[bytes, ...] = ()

    def new_series_uid(self, original: str) -> str:
        """The Series Instance UID of what was the series `original`."""
        return self.owner.derive_uid("series", original.encode(), *self.series_parts)

    def dangling_uid(self, original: str) -> str:
        """A UID in place of an instance's that is not among the protected ones."""
        return self.owner.derive_uid("reference", original.encode())


@dataclass(frozen=True)
class WrittenInstance:
    """What was written: the payload's mode and the file's encoding in words."""

    payload: Mode
    syntax: str


def write_instance(
    output: Path,
    original_name: str,
    picture: Picture,
    marking: Marking,
    sealing: Sealing,
    reference: Callable[[str], str] | None = None,
    originals: Collection[str] = (),
) -> WrittenInstance:
    """Write the protected file, and its sidecar where the carrier asks for one.

    Nothing takes its final name before the original was restored from the written bytes.
    `reference` gives what stands for the UID of another instance or series; by default a UID
    that leads nowhere. `originals` are UIDs that must not be left anywhere in the file.

    Raises:
        PictureFailed: the picture cannot be written, or not so that it could be restored.
    """
    bare = _bare_file(picture, marking, sealing, reference or sealing.dangling_uid, originals)
    identity, evidence = _described(bare.content(), marking)
    syntax, embedded = bare.syntax, sealing.carrier != "sidecar"
    modes = _modes(sealing.payload, picture)
    for mode in modes:
        payload = _payload(mode, identity, original_name, picture, marking, sealing)
        container = _sealed(payload, identity, evidence, sealing)
        protected = bare.with_container(container) if embedded else bare.content()
        if mode == modes[-1]:
            del bare  # there is one copy less of the pixels while the rest is done
        try:
            _write_proved(output, protected, container, payload, picture, marking, sealing.carrier)
        except RestorationMismatch:
            continue  # a layout that the compact payload cannot undo; the original's bytes can
        return WrittenInstance(mode, syntax)
    raise PictureFailed(
        "the original could not be restored from what would be written, so nothing was kept",
        hint="Use --payload original.",
    )


def _described(content: bytes, marking: Marking) -> tuple[Identity, Evidence]:
    """What a signature is made over, of a file as it would be read."""
    written = _reread(content, marking.stored)
    return identify(written), evidence_of(written)


def _modes(wanted: str, picture: Picture) -> tuple[Mode, ...]:
    compact = isinstance(picture, DicomPicture) and picture.span is not None
    if wanted == "compact":
        if not compact:
            raise PictureFailed(
                "only uncompressed grey and RGB DICOM can be restored from a compact payload",
                hint="Use --payload auto.",
            )
        return ("compact",)
    return ("compact", "original") if compact and wanted == "auto" else ("original",)


class _Bare(Protocol):
    """A protected file before its container is put in."""

    def content(self) -> bytes: ...

    @property
    def syntax(self) -> str: ...

    def with_container(self, container: bytes) -> bytes: ...


@dataclass(frozen=True)
class _BarePng:
    png: bytes
    syntax: str = "PNG"

    def content(self) -> bytes:
        return self.png

    def with_container(self, container: bytes) -> bytes:
        return embed_in_png(self.png, container)


@dataclass(frozen=True, eq=False)
class _BareInstance:
    """Encoded whenever it is asked for: its bytes are as many as the picture's."""

    derived: Derived
    syntax: str

    def content(self) -> bytes:
        return self.derived.encode()

    def with_container(self, container: bytes) -> bytes:
        embed_container(self.derived.dataset, container)
        return self.derived.encode()


def _bare_file(
    picture: Picture,
    marking: Marking,
    sealing: Sealing,
    reference: Callable[[str], str],
    originals: Collection[str],
) -> _Bare:
    stored = marking.stored
    if isinstance(picture, RasterPicture):
        return _BarePng(write_png(picture, stored))
    identity = NewIdentity(
        new_sop_uid(picture, stored, sealing),
        sealing.new_series_uid(str(picture.dataset.get("SeriesInstanceUID") or "")),
        reference,
        originals,
    )
    method = _METHOD if marking.delta is None else _METHOD_WITH_DELTA
    derived = derive_instance(picture, stored, identity, method)
    return _BareInstance(derived, UID(derived.dataset.file_meta.TransferSyntaxUID).name)


def new_sop_uid(picture: DicomPicture, stored: Stored, sealing: Sealing) -> str:
    """The SOP Instance UID that `picture` gets once its stored values are `stored`."""
    words = picture.layout.with_values(picture.words, stored)
    return sealing.owner.derive_uid(
        "instance",
        str(picture.dataset.get("SOPInstanceUID") or "").encode(),
        pixels_digest(picture.layout, words).encode(),
    )


def _payload(
    mode: Mode,
    identity: Identity,
    original_name: str,
    picture: Picture,
    marking: Marking,
    sealing: Sealing,
) -> Payload:
    mark, tone, delta = marking.mark, marking.tone, marking.delta
    recipe: dict[str, Any] = recipe_of(mark, tone, marking.decision.sit, delta)
    recipe["bank"] = sealing.bank_digest
    parts = {"logo": mark.logo.tobytes()}
    if delta is not None:
        parts["delta"] = delta.grid.tobytes()
    if mode == "compact" and isinstance(picture, DicomPicture) and picture.span is not None:
        start, end = picture.span
        recipe["layout"] = layout_facts(picture.layout)
        parts["head"], parts["tail"] = picture.content[:start], picture.content[end:]
        beneath = _stored(picture)
        if delta is not None:
            parts["doubts"] = doubts(beneath, delta, tone)
            beneath = add(beneath, delta, tone)
        parts["corrections"] = corrections(beneath, marking.stored, mark, tone)
    else:
        parts["original"] = picture.content
    try:
        return Payload(
            subject=identity.subject,
            original_name=original_name,
            original_sha256=hashlib.sha256(picture.content).hexdigest(),
            original_length=len(picture.content),
            mode=mode,
            recipe=recipe,
            parts=parts,
            recipients=tuple(sorted({one.text for one in sealing.recipients})),
        )
    except ValueError as error:
        raise PictureFailed(f"it cannot be sealed: {error}") from None


def job_of(sealing: Sealing, original_sha256: str) -> str:
    """The tag of one original protected in one way, for whoever holds the owner's key.

    It lets a run that is resumed keep what is the same and redo what is not, and tells nobody
    else anything about the original.
    """
    recipients = sorted(recipient.text for recipient in sealing.recipients)
    return sealing.owner.derive_tag(
        "job",
        original_sha256.encode(),
        *sealing.series_parts,
        *sealing.job_parts,
        sealing.bank_digest.encode(),
        "\n".join(recipients).encode(),
    )


def _sealed(payload: Payload, identity: Identity, evidence: Evidence, sealing: Sealing) -> bytes:
    try:
        draft = Draft(
            **vars(identity),
            **vars(evidence),
            job=job_of(sealing, payload.original_sha256),
            payload_mode=payload.mode,
            tool=f"miad {__version__}",
        )
    except ValueError as error:
        raise PictureFailed(f"it cannot be sealed: {error}") from None
    keys = [one.age for one in sealing.recipients]
    return seal(draft, encode(payload), keys, sealing.owner)


def _write_proved(
    output: Path,
    protected: bytes,
    container: bytes,
    payload: Payload,
    picture: Picture,
    marking: Marking,
    carrier: str,
) -> None:
    embedded = carrier != "sidecar"
    contents = {output.name: protected}
    if carrier != "embed":
        # The sidecar takes its name first: a picture is never there without its seal.
        contents = {output.name + SIDECAR_SUFFIX: container, **contents}

    def prove(parts: dict[str, Path]) -> None:
        if not _holds(parts[output.name], protected):
            raise PictureFailed("the disk did not keep what was written")
        reread = _reread(protected, marking.stored)
        if not _same(_stored(reread), marking.stored):
            raise PictureFailed("the written pixels are not the ones that were decided on")
        if doubt := doubt_about(reread):
            raise PictureFailed(f"it cannot be written so that all readers agree: {doubt}")
        carried = container_in(reread)
        if embedded and (carried is None or not carried.startswith(container)):
            raise PictureFailed("the container did not survive in the file")
        if not restores(payload, protected, picture.content):
            raise RestorationMismatch("the restored file differs from the original")

    write_files(output.parent, contents, prove)
    if carrier == "embed":  # a sidecar from an earlier run would still open for its recipients
        sidecar_of(output).unlink(missing_ok=True)


def _holds(path: Path, content: bytes) -> bool:
    """Whether a file is `content` and nothing else; it is read piece by piece."""
    position = 0
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE):
            if content[position : position + len(piece)] != piece:
                return False
            position += len(piece)
    return position == len(content)


def _same(one: Stored, other: Stored) -> bool:
    return one.shape == other.shape and all(map(np.array_equal, one, other))


def _stored(picture: Picture) -> Stored:
    """The picture's values, without asking how they are shown."""
    if isinstance(picture, DicomPicture):
        return picture.layout.values(picture.words)
    return picture.image.stored


def _reread(content: bytes, stored: Stored) -> Picture:
    """Read back what we made of `stored`, as a stranger would."""
    largest = max(LARGEST_DECODED, stored.nbytes)
    picture = read_picture(content, PurePosixPath("picture"), largest)
    if not isinstance(picture, DicomPicture | RasterPicture):
        raise PictureFailed("what was written is no longer a picture")
    return picture
