"""Rebuild the original file from the protected one and the payload that was sealed with it.

Used by unlock, by protect to prove its own work, and by verify. Integer arithmetic alone: nothing
here renders, loads a model or imports torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from miad_cli.errors import ContainerDamaged, RestorationMismatch
from miad_cli.imaging.dicom import LARGEST_DECODED, DicomPicture, read_dicom
from miad_cli.imaging.digests import pixels_digest
from miad_cli.imaging.image import Stored
from miad_cli.imaging.picture import read_picture
from miad_cli.imaging.raster import RasterPicture
from miad_cli.imaging.words import WordLayout
from miad_cli.seal.payload import Payload
from miad_cli.watermark.blend import Tone, blend, unblend_frames
from miad_cli.watermark.delta import UnfittingDoubts, add, subtract_frames
from miad_cli.watermark.recipe import delta_of, mark_of

_CHANGED = (
    "the original cannot be rebuilt: the pixels of the protected file were changed, and its "
    "compact seal holds only what the mark hid, to be put back into unchanged pixels"
)
_UNFITTING = (
    "the original cannot be rebuilt: the sealed payload does not fit the picture, whose pixels are "
    "those that were sealed"
)
_CHANGED_HINT = "Find an unchanged copy of the protected file; lossy compression changes pixels."


def restore(payload: Payload, protected: bytes | None, sealed_pixels: str = "") -> bytes:
    """The original file, byte for byte.

    Args:
        payload: what was sealed.
        protected: the protected file; not needed where the payload holds the original itself.
        sealed_pixels: `pixels_sha256` of a manifest whose signature is that of a trusted owner.
            With it, a payload that does not fit is told from pixels that were changed.

    Raises:
        RestorationMismatch: what comes out is not the original (its SHA-256 differs).
        ContainerDamaged: the payload contradicts itself, or does not fit the sealed pixels.
    """
    try:
        original = b"".join(_pieces(payload, protected))
        _check(payload, len(original), hashlib.sha256(original))
    except RestorationMismatch:
        if protected is None or not _are_sealed(protected, payload, sealed_pixels):
            raise
        raise ContainerDamaged(_UNFITTING) from None
    return original


def _are_sealed(protected: bytes, payload: Payload, sealed_pixels: str) -> bool:
    """Whether the pixels that a compact payload belongs to are known to be the sealed ones."""
    if payload.mode != "compact" or not sealed_pixels:
        return False
    picture = read_dicom(protected, max(LARGEST_DECODED, payload.original_length))
    if not isinstance(picture, DicomPicture):
        return False
    return pixels_digest(picture.layout, picture.words) == sealed_pixels


def restores(payload: Payload, protected: bytes | None, original: bytes) -> bool:
    """Whether `restore` gives `original`; it is made a frame at a time and never held whole.

    Raises:
        RestorationMismatch, ContainerDamaged: as `restore` does.
    """
    whole, position, digest = memoryview(original), 0, hashlib.sha256()
    same = True
    for piece in _pieces(payload, protected):
        same = same and whole[position : position + len(piece)] == piece
        position += len(piece)
        digest.update(piece)
    _check(payload, position, digest)
    return same and position == len(original)


def marked_again(payload: Payload, original: bytes) -> Stored:
    """What the recipe makes of the original: (frames, rows, columns, samples) stored values.

    This is MedLocker's certificate: the protected picture is this and nothing else.

    Raises:
        ContainerDamaged: the recipe cannot be used on this original.
        PictureFailed: the original cannot be decoded here.
    """
    name, largest = PurePosixPath(payload.original_name), payload.original_length
    picture = read_picture(original, name, max(LARGEST_DECODED, largest))
    if not isinstance(picture, DicomPicture | RasterPicture):
        raise ContainerDamaged("what was sealed is no picture")
    try:
        mark, tone = mark_of(payload.recipe, _part(payload, "logo"))
        delta, stored = delta_of(payload.recipe, payload.parts.get("delta")), picture.image.stored
        return blend(stored if delta is None else add(stored, delta, tone), mark, tone)
    except (ValueError, OverflowError) as error:
        raise ContainerDamaged(
            f"the sealed recipe is not usable ({type(error).__name__})"
        ) from None


def layout_facts(layout: WordLayout) -> dict[str, int | bool]:
    """A word layout as JSON, for the recipe."""
    return dict(vars(layout))


def _pieces(payload: Payload, protected: bytes | None) -> Iterator[bytes]:
    """The original file, piece by piece."""
    if payload.mode == "original":
        yield _part(payload, "original")
    elif protected is None:
        raise RestorationMismatch(
            "only the sidecar is there, and it does not hold the whole original",
            hint="Put the protected file beside its sidecar.",
        )
    else:
        yield _part(payload, "head")
        yield from _from_pixels(payload, protected)
        yield _part(payload, "tail")


def _check(payload: Payload, length: int, digest: Any) -> None:
    """Refuse what is not the original.

    Raises:
        RestorationMismatch: its length or its SHA-256 is another.
    """
    if (length, digest.hexdigest()) != (payload.original_length, payload.original_sha256):
        raise RestorationMismatch(_CHANGED, hint=_CHANGED_HINT)


def _from_pixels(payload: Payload, protected: bytes) -> Iterator[bytes]:
    """The original's Pixel Data value, frame by frame, of the protected file's pixels."""
    try:
        layout = WordLayout(**_checked_layout(payload.recipe["layout"]))
        mark, tone = mark_of(payload.recipe, _part(payload, "logo"))
        picture = read_dicom(protected, max(LARGEST_DECODED, payload.original_length))
        if not isinstance(picture, DicomPicture) or picture.words.shape != (
            layout.frames,
            layout.rows,
            layout.columns,
            layout.samples,
        ):
            raise RestorationMismatch("the protected file no longer holds the picture it was")
        words = picture.words.astype(f"=u{layout.bits_allocated // 8}", copy=False)
        marked = (layout.values(words[n : n + 1])[0] for n in range(layout.frames))
        stream = _part(payload, "corrections")
        frames = unblend_frames(marked, layout.frames, mark, tone, stream)
        frames = _without_delta(payload, frames, tone)
        yield from layout.pixel_data_of(
            layout.with_values(words[n : n + 1], values) for n, values in enumerate(frames)
        )
    except UnfittingDoubts:
        # Other pixels make another number of values doubtful; `restore` knows whether they are.
        raise RestorationMismatch(_CHANGED, hint=_CHANGED_HINT) from None
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ContainerDamaged(
            f"the sealed recipe is not usable ({type(error).__name__})"
        ) from None


def _without_delta(payload: Payload, frames: Iterator[Stored], tone: Tone) -> Iterator[Stored]:
    """`frames`, (1, rows, columns, samples) each, without the recipe's perturbation.

    Raises:
        ValueError: the recipe and the payload's parts do not go together.
    """
    delta = delta_of(payload.recipe, payload.parts.get("delta"))
    if delta is None:
        if "doubts" in payload.parts:
            raise ValueError("there are doubts without a perturbation")
        return frames
    return subtract_frames((one[0] for one in frames), delta, tone, _part(payload, "doubts"))


def _checked_layout(facts: object) -> dict[str, Any]:
    if not isinstance(facts, dict):
        raise ValueError("no layout of pixel words")
    fields: dict[str, Any] = dict(facts)
    if fields["bits_allocated"] not in (8, 16, 32) or not all(
        isinstance(value, int) and value >= 0 for value in fields.values()
    ):
        raise ValueError("no layout of pixel words")
    return fields


def _part(payload: Payload, name: str) -> bytes:
    try:
        return payload.parts[name]
    except KeyError:
        raise ContainerDamaged(f"the sealed payload lacks its part {name}") from None
